"""The life cycle of a member, as tables."""
