"""The loop: observe, plan, apply, record."""
