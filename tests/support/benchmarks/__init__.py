"""Sections of `scripts/bench` that need no guests: command start, the planner, the idle loop, memory."""
