"""Time and identity as arguments, so that tests can say what they are."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch; recorded, compared across processes."""

    def monotonic(self) -> float:
        """Seconds that never go back; for deadlines inside this process."""

    def rest(self, seconds: float) -> None:
        """A short pause between two looks at what sends no event."""


class Identities(Protocol):
    def member_suffix(self) -> str:
        """Five characters of [a-z0-9], new on every call."""

    def entropy(self) -> bytes:
        """Random bytes that nobody else gets, enough to seed a generator."""

    def host_key(self, machine_uuid: str) -> tuple[str, str]:
        """The ed25519 host key of one incarnation: (OpenSSH private key PEM, public key line).

        The same for the same machine, so that a creation that is repeated makes the same guest; different for
        every other.
        """
