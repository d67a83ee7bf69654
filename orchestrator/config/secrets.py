"""Passwords and other secrets: read when they are applied, kept in the state directory, never written into a spec.

The spec in the store names a secret by a digest keyed with a secret of the installation, so that whoever reads
the store cannot try passwords on it. An instance made next month by the controller gets the password that was
applied, whatever became of its file.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.config.plain_file import read_plain_file
from orchestrator.config.rooms import write_kept
from orchestrator.errors import NotFound, SpecError
from orchestrator.models.redaction import NOTHING, SHORTEST, Redaction
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.windows import MAX_PASSWORD, utf16_length

_MAX_FILE_SIZE = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

SecretDigest = Callable[[str], str]


def read_password(file: Path) -> str:
    """The one line of the file. Raises SpecError if it holds anything else, or if others may read it."""
    return _one_line(file, _read_private(file, "password"))


def read_secret(file: Path) -> str:
    """The text of the file, without the end of its last line. Raises SpecError as read_password does."""
    content = _read_private(file, "secret")
    if len(content) > _MAX_FILE_SIZE:
        raise SpecError(f"secret file {file} is larger than {_MAX_FILE_SIZE} bytes")
    try:
        secret = content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SpecError(f"secret file {file} is not UTF-8 text") from None
    if len(secret) < SHORTEST:
        raise SpecError(
            f"the secret in {file} is shorter than {SHORTEST} characters: it could not be kept out of logs"
        )
    return secret


def _read_private(file: Path, what: str) -> bytes:
    """At most one byte more than _MAX_FILE_SIZE of a plain file that only its owner may read."""
    content, mode = read_plain_file(file, _MAX_FILE_SIZE, f"{what} file")
    if mode & 0o077:
        raise SpecError(f"{what} file {file} is open to others (mode {mode:04o})", f"chmod 600 {file}")
    return content


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
    """The spec with the digests of its secrets filled in; the secrets are kept below `store` (None: nowhere)."""
    kept = {
        name: one.model_copy(update={"digest": _keep(read_secret(Path(one.file)), digest_of, store)})
        for name, one in spec.setup.secrets.items()
    }
    spec = spec.model_copy(update={"setup": spec.setup.model_copy(update={"secrets": kept})})
    windows = spec.setup.windows
    if windows is None:
        return spec
    digest = _keep(read_password(Path(windows.administrator_password_file)), digest_of, store)
    named = windows.model_copy(update={"administrator_password_digest": digest})
    return spec.model_copy(update={"setup": spec.setup.model_copy(update={"windows": named})})


def _keep(secret: str, digest_of: SecretDigest, store: Path | None) -> str:
    digest = digest_of(secret)
    if store is not None:
        write_kept(store / digest, secret.encode())
    return digest


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


def read_secrets(spec: ScaleSetSpec, store: Path) -> dict[str, str]:
    """Name -> value, as they were applied. Raises NotFound if one is kept no more."""
    return {name: _read_kept(store, name, one.digest, spec) for name, one in spec.setup.secrets.items()}


def _read_kept(store: Path, name: str, digest: str | None, spec: ScaleSetSpec) -> str:
    try:
        return (store / (digest or "none")).read_bytes().decode()
    except FileNotFoundError:
        raise NotFound(
            f"secret {name!r} of set {spec.name!r} is missing from {store}", "apply its scale set file again"
        ) from None


def redaction_of(spec: ScaleSetSpec, store: Path) -> Redaction:
    """Takes everything declared secret out of what guests of this set say, as far as it is kept still."""
    values: dict[str, str] = {}
    with contextlib.suppress(NotFound):
        values |= read_secrets(spec, store)
    if spec.setup.windows is not None:
        with contextlib.suppress(NotFound):
            values["administrator_password"] = read_administrator_password(spec, store)
    return Redaction(values) if values else NOTHING


def prune_secrets(specs: Iterable[ScaleSetSpec], store: Path) -> None:
    """Remove the secrets that no set needs any more. Call it within `hold_rooms`."""
    needed = {digest for spec in specs for digest in spec.setup.secret_digests()}
    for file in store.iterdir():
        if file.name not in needed:
            file.unlink(missing_ok=True)
