"""Passwords: read when they are applied, kept in the state directory, never written into a spec.

The spec in the store names a password by a digest keyed with a secret of the installation, so that whoever reads
the store cannot try passwords on it. An instance made next month by the controller gets the password that was
applied, whatever became of its file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from orchestrator.errors import NotFound, SpecError
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.windows import MAX_PASSWORD, utf16_length

_MAX_FILE_SIZE = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

SecretDigest = Callable[[str], str]


def read_password(file: Path) -> str:
    """The one line of the file. Raises SpecError if it holds anything else, or if others may read it."""
    try:
        # Not blocking: a pipe with nobody behind it would be waited for.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            content = os.read(descriptor, _MAX_FILE_SIZE + 1) if stat.S_ISREG(status.st_mode) else b""
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read password file {file}: {getattr(error, 'strerror', error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise SpecError(f"password file {file} is not a plain file")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise SpecError(f"password file {file} is open to others (mode {mode:04o})", f"chmod 600 {file}")
    return _one_line(file, content)


def _one_line(file: Path, content: bytes) -> str:
    too_long = f"the password in {file} is longer than the {MAX_PASSWORD} characters that Windows takes"
    if len(content) > _MAX_FILE_SIZE:
        raise SpecError(too_long)
    try:
        password = content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SpecError(f"password file {file} is not UTF-8 text") from None
    if not password:
        raise SpecError(f"password file {file} is empty", "write the password into it, on one line")
    if "\n" in password or "\r" in password:
        raise SpecError(f"password file {file} has more than one line", "write the password into it, on one line")
    if _CONTROL.search(password):
        raise SpecError(f"the password in {file} holds control characters, which nobody can type")
    if utf16_length(password) > MAX_PASSWORD:
        raise SpecError(too_long)
    return password


def keep_secrets(spec: ScaleSetSpec, digest_of: SecretDigest, store: Path | None) -> ScaleSetSpec:
    """The spec with the digest of its password filled in; the password is kept below `store` (None: nowhere)."""
    windows = spec.setup.windows
    if windows is None:
        return spec
    password = read_password(Path(windows.administrator_password_file))
    digest = digest_of(password)
    if store is not None:
        _write_private(store / digest, password)
    named = windows.model_copy(update={"administrator_password_digest": digest})
    return spec.model_copy(update={"setup": spec.setup.model_copy(update={"windows": named})})


def _write_private(file: Path, secret: str) -> None:
    """Whole or not at all, and 0600 from the first byte."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(secret.encode())
    partial.rename(file)


def read_administrator_password(spec: ScaleSetSpec, store: Path) -> str:
    """The password that was applied. Raises NotFound if it is kept no more."""
    windows = spec.setup.windows
    digest = windows.administrator_password_digest if windows is not None else None
    try:
        return (store / (digest or "none")).read_bytes().decode()
    except FileNotFoundError:
        raise NotFound(
            f"the administrator password of set {spec.name!r} is missing from {store}",
            "apply its scale set file again",
        ) from None


def prune_secrets(specs: Iterable[ScaleSetSpec], store: Path) -> None:
    """Remove the passwords that no set needs any more. Call it within `hold_secrets`."""
    needed = {spec.setup.windows.administrator_password_digest for spec in specs if spec.setup.windows is not None}
    for file in store.iterdir():
        if file.name not in needed:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def hold_secrets(store: Path) -> Iterator[None]:
    """Nobody else prunes: a password that is kept may be declared before anybody takes it for unneeded."""
    descriptor = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
