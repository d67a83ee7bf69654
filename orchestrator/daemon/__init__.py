"""The composition root: parts put together, and processes that run the loop."""
