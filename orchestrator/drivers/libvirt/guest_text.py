"""What a guest wrote, made harmless."""

from __future__ import annotations

_UNPRINTABLE = {code: None for code in range(128) if not (chr(code).isprintable() or chr(code) == "\n")}


def printable(text: str) -> str:
    """Console output made harmless: no escape sequences, no control characters but line ends."""
    text = text.replace("\r\n", "\n")
    if text.isascii():  # as nearly all is, and read many times a second while guests boot
        return text.translate(_UNPRINTABLE).strip()
    return "".join(char if char.isprintable() or char == "\n" else "" for char in text).strip()
