"""Files for the ssh client."""

from __future__ import annotations


def render_known_hosts(address: str, port: int, host_key: str) -> str:
    """One known_hosts line; port 22 is written bare, any other in brackets (sshd(8), SSH_KNOWN_HOSTS)."""
    where = address if port == 22 else f"[{address}]:{port}"
    return f"{where} {host_key.strip()}\n"
