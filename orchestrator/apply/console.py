"""What a guest tells of its setup on its serial console. It costs it nothing, and comes before any agent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.errors import UnderstudyError
from orchestrator.models.setup_result import CONSOLE_PROMISE, setup_errors, told_on_console


@dataclass
class SetupConsole:
    """`read` gives the end of what the console has shown; `instance_id` is the one that the guest's seed names."""

    read: Callable[[], str]
    instance_id: str
    has_promised: bool = False
    told: str | None = None

    def listen(self) -> None:
        """A console that cannot be read has told nothing."""
        try:
            shown = self.read()
        except UnderstudyError:
            return
        self.has_promised |= CONSOLE_PROMISE in shown
        self.told = told_on_console(shown, self.instance_id) or self.told

    @property
    def is_well(self) -> bool:
        """It has told that setup ended without errors. What a failure's output was, others know."""
        return self.told is not None and setup_errors(self.told) == []

    @property
    def will_tell(self) -> bool:
        return self.has_promised and self.told is None
