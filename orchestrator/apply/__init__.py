"""Effects: one step of a plan performed on the world, idempotently."""
