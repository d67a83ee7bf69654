"""Declared secrets taken out of what a guest says, before anybody records or shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.models.setup_result import plain

SHORTEST = 6
"""Characters of a secret that can be told from ordinary words; shorter ones are left as they are."""


class Redaction:
    """`secrets`: name -> value. Of a value of several lines each line is a secret of its own."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        pieces = {
            piece: name
            for name, value in sorted(secrets.items())
            for piece in _pieces(value)
            if len(piece) >= SHORTEST
        }
        # The longest first: one that begins another must not leave the other's end behind.
        self._pieces = sorted(pieces.items(), key=lambda one: -len(one[0]))

    @property
    def overlap(self) -> int:
        """Characters at the end of unfinished text that may be the beginning of a secret."""
        return max((len(piece) - 1 for piece, _ in self._pieces), default=0)

    def clean(self, text: str) -> str:
        """The text with every secret in it replaced by its name. It may be a tail, cut off within a secret."""
        for piece, name in self._pieces:
            text = text.replace(piece, f"[secret {name}]")
        return self._clean_start(text)

    def _clean_start(self, text: str) -> str:
        for piece, name in self._pieces:
            for size in range(len(piece) - 1, SHORTEST - 1, -1):
                if text.startswith(piece[-size:]):
                    return f"[secret {name}]{text[size:]}"
        return text


def _pieces(value: str) -> Iterator[str]:
    """As a guest may say it, and as its words are told: without control characters, tabs as blanks."""
    for piece in (value, *(line.strip() for line in value.splitlines())):
        yield from (piece, plain(piece), plain(piece.replace("\t", " ")))


NOTHING = Redaction({})
