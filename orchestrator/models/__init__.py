"""Plain values: what the operator declares, what is recorded, what is seen, what is to be done."""
