"""The core with plain values, and the loop with stateful fakes."""
