"""What is asked of a tool: to say how it is installed, what its command is, and what it leaves behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from tests.support.benchmarks.tools.lab import Lab

Command = Sequence[str]


class Tool(ABC):
    """One tool as an operator uses it, with its image imported and its files written before the clock runs."""

    name: ClassVar[str]
    """With the version that was measured."""
    differs: ClassVar[str]
    """What its machine has otherwise than the one of the lab, because the tool cannot be told."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @abstractmethod
    def prepare(self) -> None:
        """Install the tool and import the image. Raises NotMeasured."""

    @abstractmethod
    def command(self, names: Sequence[str]) -> Command:
        """What makes and starts machines of these names, as one command; its input files are written here."""

    @property
    def enter(self) -> list[str]:
        """What is put before the command."""
        return self.lab.toolbox.enter

    def clean(self, names: Sequence[str]) -> None:  # noqa: B027  # some leave nothing but domains
        """Remove what the tool keeps of these machines; the lab removes the domains that are left then."""

    def close(self) -> None:  # noqa: B027  # most need nothing
        """End what would outlive the lab; files and what libvirt knows end with it."""


def all_at_once(commands: Sequence[str]) -> Command:
    """Shell commands beside each other, as one that fails if any of them does."""
    started = "".join(f'{command} & running="$running $!"\n' for command in commands)
    return ("sh", "-c", f"running=\n{started}for one in $running; do wait $one || exit 1; done")
