"""What HAProxy itself says of its servers, past the product."""

from __future__ import annotations

import socket
from pathlib import Path

_SECONDS = 5.0


def ready_servers(root: Path) -> set[str]:
    """Names of the servers that HAProxy sends new requests to, over all backends."""
    # 4 is said for ever of one that began in maintenance.
    return {row[3] for row in _rows(root) if row[6] in ("0", "4") and row[7] != "0"}


def all_servers(root: Path) -> set[str]:
    """Names of all that it knows; empty where no HAProxy answers."""
    return {row[3] for row in _rows(root)}


def _rows(root: Path) -> list[list[str]]:
    with socket.socket(socket.AF_UNIX) as talk:
        talk.settimeout(_SECONDS)
        try:
            talk.connect(str(root / "haproxy" / "stats.sock"))
            talk.sendall(b"show servers state\n")
            answer = b""
            while chunk := talk.recv(65536):
                answer += chunk
        except OSError:
            return []
    rows = [line.split() for line in answer.decode().splitlines() if line and line[0].isdigit()]
    return [row for row in rows if len(row) > 7]
