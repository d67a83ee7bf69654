"""SSH key pairs and random names. The library of keys is loaded where one is made: most commands make none."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import string
import time
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import UnderstudyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# No vowels: no words. No 0, 1, l: no misreading.
_SUFFIX = "".join(sorted(set(string.ascii_lowercase + string.digits) - set("aeiou01l")))


class SecretIdentities:
    """The Identities port: random names, and host keys derived from a secret that only this installation has."""

    def __init__(self, secret_file: Path) -> None:
        self._secret = _ensure_secret(secret_file)

    def member_suffix(self) -> str:
        return "".join(secrets.choice(_SUFFIX) for _ in range(5))

    def entropy(self) -> bytes:
        return secrets.token_bytes(64)

    def host_key(self, machine_uuid: str) -> tuple[str, str]:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        seed = hmac.new(self._secret, f"ssh-host-key:{machine_uuid}".encode(), hashlib.sha256).digest()
        return _open_ssh(Ed25519PrivateKey.from_private_bytes(seed))

    def secret_digest(self, secret: str) -> str:
        """64 hex digits by which a secret is named: the same for the same one, and nothing to try others on
        without this installation's own."""
        return hmac.new(self._secret, f"secret:{secret}".encode(), hashlib.sha256).hexdigest()


class SystemClock:
    """The Clock port."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def rest(self, seconds: float) -> None:
        time.sleep(seconds)


def ensure_operator_key(file: Path) -> str:
    """The public half of the key Understudy logs in with, made on first use (0600)."""
    public = file.with_suffix(".pub")
    if file.exists() and public.exists() and (known := public.read_text(encoding="utf-8").strip()):
        return known
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    if not file.exists():
        _write_private(file, _open_ssh(Ed25519PrivateKey.generate())[0].encode())
    private = load_ssh_private_key(file.read_bytes(), None)
    assert isinstance(private, Ed25519PrivateKey)
    words = f"{_open_ssh(private)[1]} understudy"
    _write_beside(public, f"{words}\n".encode()).replace(public)
    return words


def _ensure_secret(file: Path) -> bytes:
    if not file.exists():
        _write_private(file, secrets.token_bytes(32))
    secret = file.read_bytes()
    if not secret:
        raise UnderstudyError(
            f"{file} is empty: the host keys of all machines come from it", "restore it from a backup of the file"
        )
    return secret


def _write_private(file: Path, content: bytes) -> None:
    """Whole or not at all, and 0600 from the first byte. Whoever comes first wins."""
    partial = _write_beside(file, content)
    try:
        os.link(partial, file)
    except FileExistsError:
        pass
    finally:
        partial.unlink()


def _write_beside(file: Path, content: bytes) -> Path:
    """0600, and on disk before it may get its name: a power failure leaves no empty key."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    return partial


def _open_ssh(private: Ed25519PrivateKey) -> tuple[str, str]:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    pem = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return pem, private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
