"""Passwords: what is refused, where they are kept, and where they never are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config.paths import StatePaths
from orchestrator.config.scaleset_file import load_scale_sets
from orchestrator.config.secrets import (
    keep_secrets,
    prune_secrets,
    read_administrator_password,
    read_password,
)
from orchestrator.drivers.keys import SecretIdentities
from orchestrator.errors import NotFound, SpecError
from orchestrator.models.spec import ScaleSetSpec, model_digest
from tests.builders import make_spec
from tests.unit.examples import many
from tests.unit.storage import Storage, url_of

PASSWORD = "Correct-Horse-Battery-1"
SET = """\
name: web
image: micro
setup:
  answer_file: unattend
  windows:
    administrator_password_file: secrets/admin.txt
"""


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    made = StatePaths(tmp_path / "state")
    made.ensure()
    return made


@pytest.fixture
def store(paths: StatePaths) -> Path:
    return paths.secrets


@pytest.fixture
def identities(paths: StatePaths) -> SecretIdentities:
    return SecretIdentities(paths.keys / "identity.secret")


def write(file: Path, content: bytes = PASSWORD.encode() + b"\n", mode: int = 0o600) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
    return file


def spec_for(file: Path) -> ScaleSetSpec:
    windows = {"administrator_password_file": str(file)}
    return make_spec(setup={"answer_file": "unattend", "windows": windows})


def digest_in(spec: ScaleSetSpec) -> str:
    assert spec.setup.windows is not None
    assert spec.setup.windows.administrator_password_digest is not None
    return spec.setup.windows.administrator_password_digest


# ---- reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"pw", "pw"),
        (b"pw\n", "pw"),
        (b"pw\r\n", "pw"),
        (b" p w \n", " p w "),
        (b"\xef\xbb\xbfpw\r\n", "pw"),
        ("grüße🙂\n".encode(), "grüße🙂"),
        (b"x" * 127, "x" * 127),
    ],
)
def test_a_password_is_the_one_line_of_its_file(tmp_path: Path, content: bytes, password: str) -> None:
    assert read_password(write(tmp_path / "admin.txt", content)) == password


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"one\ntwo\n", "has more than one line"),
        (b"one\n\n", "has more than one line"),
        (b"one\rtwo", "has more than one line"),
        (b"one\0two", "holds control characters"),
        (b"one\ttwo", "holds control characters"),
        (b"x" * 128, "longer than the 127 characters"),
        ("🙂".encode() * 64, "longer than the 127 characters"),
        (b"x" * 1_000_000, "longer than the 127 characters"),
        (b"\xff\xfep\0w\0", "is not UTF-8 text"),
    ],
)
def test_a_file_that_holds_no_password_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    file = write(tmp_path / "admin.txt", content)
    with pytest.raises(SpecError, match=words) as error:
        read_password(file)
    assert str(file) in error.value.message


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601, 0o666])
def test_a_file_that_is_open_to_others_is_refused_with_the_command_that_closes_it(
    tmp_path: Path, mode: int
) -> None:
    file = write(tmp_path / "admin.txt", mode=mode)
    with pytest.raises(SpecError, match=rf"is open to others \(mode {mode:04o}\)") as error:
        read_password(file)
    assert error.value.fix == f"chmod 600 {file}"
    assert PASSWORD not in str(error.value)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SpecError, match="is not a plain file"):
        read_password(tmp_path / "pipe")
    with pytest.raises(SpecError, match="is not a plain file"):
        read_password(tmp_path)
    with pytest.raises(SpecError, match=r"cannot read password file .*No such file"):
        read_password(tmp_path / "missing")


# ---- keeping -------------------------------------------------------------------------------------------------


def test_a_password_is_kept_private_under_a_name_that_only_this_installation_can_make(
    tmp_path: Path, store: Path, identities: SecretIdentities
) -> None:
    kept = keep_secrets(spec_for(write(tmp_path / "admin.txt")), identities.secret_digest, store)
    (file,) = store.iterdir()
    assert file.name == digest_in(kept)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    assert read_administrator_password(kept, store) == PASSWORD
    other = SecretIdentities(tmp_path / "other.secret")
    assert other.secret_digest(PASSWORD) != file.name


def test_the_same_password_has_the_same_name_and_another_one_another(
    tmp_path: Path, store: Path, identities: SecretIdentities
) -> None:
    spec = spec_for(write(tmp_path / "admin.txt"))
    first = keep_secrets(spec, identities.secret_digest, store)
    assert keep_secrets(spec, identities.secret_digest, store) == first
    write(tmp_path / "admin.txt", b"another\n")
    second = keep_secrets(spec, identities.secret_digest, store)
    assert model_digest(second, "d1") != model_digest(first, "d1")
    assert len(list(store.iterdir())) == 2


def test_what_was_applied_is_kept_whatever_becomes_of_the_file(
    tmp_path: Path, store: Path, identities: SecretIdentities
) -> None:
    file = write(tmp_path / "admin.txt")
    kept = keep_secrets(spec_for(file), identities.secret_digest, store)
    file.unlink()
    assert read_administrator_password(kept, store) == PASSWORD


def test_a_look_ahead_keeps_nothing(tmp_path: Path, store: Path, identities: SecretIdentities) -> None:
    spec = spec_for(write(tmp_path / "admin.txt"))
    seen = keep_secrets(spec, identities.secret_digest, None)
    assert list(store.iterdir()) == []
    assert keep_secrets(spec, identities.secret_digest, store) == seen


def test_a_set_without_windows_has_no_secret(store: Path, identities: SecretIdentities) -> None:
    assert keep_secrets(make_spec(), identities.secret_digest, store) == make_spec()
    assert list(store.iterdir()) == []


def test_passwords_that_no_set_needs_are_removed(
    tmp_path: Path, store: Path, identities: SecretIdentities
) -> None:
    kept = keep_secrets(spec_for(write(tmp_path / "one.txt")), identities.secret_digest, store)
    dropped = keep_secrets(spec_for(write(tmp_path / "two.txt", b"two")), identities.secret_digest, store)
    (store / f"{digest_in(dropped)}.4711").write_bytes(b"left by a crash")
    prune_secrets([make_spec(), kept], store)
    assert [file.name for file in store.iterdir()] == [digest_in(kept)]


def test_a_password_that_is_kept_no_more_is_named_with_what_brings_it_back(
    tmp_path: Path, store: Path, identities: SecretIdentities
) -> None:
    kept = keep_secrets(spec_for(write(tmp_path / "admin.txt")), identities.secret_digest, store)
    prune_secrets([], store)
    for spec in (kept, spec_for(tmp_path / "admin.txt")):
        with pytest.raises(NotFound, match="the administrator password of set 'web' is missing") as error:
            read_administrator_password(spec, store)
        assert "apply its scale set file again" in error.value.fix


@settings(many, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=63))
def test_any_password_comes_back_as_it_was_written(
    tmp_path: Path, store: Path, identities: SecretIdentities, password: str
) -> None:
    file = write(tmp_path / "admin.txt", b"\xef\xbb\xbf" + password.encode() + b"\n")
    kept = keep_secrets(spec_for(file), identities.secret_digest, store)
    assert read_administrator_password(kept, store) == password


# ---- where it never is ---------------------------------------------------------------------------------------


def test_the_password_is_neither_in_the_spec_nor_anywhere_in_the_store(
    tmp_path: Path, storage: Storage, store: Path, identities: SecretIdentities
) -> None:
    write(tmp_path / "secrets" / "admin.txt")
    (tmp_path / "web.yaml").write_text(SET, encoding="utf-8")
    (spec,) = load_scale_sets(tmp_path / "web.yaml")
    kept = keep_secrets(spec, identities.secret_digest, store)
    for text in (spec.to_json(), kept.to_json(), repr(kept)):
        assert PASSWORD not in text
    assert storage.declare(kept)
    assert all(PASSWORD not in event.reason for event in storage.store.list_events(None))
    storage.store.close()
    database = Path(url_of(tmp_path).removeprefix("sqlite:///"))
    kept_bytes = b"".join(file.read_bytes() for file in tmp_path.glob(f"{database.name}*"))
    assert digest_in(kept).encode() in kept_bytes
    assert PASSWORD.encode() not in kept_bytes


# ---- the scale set file --------------------------------------------------------------------------------------


def load(folder: Path, text: str = SET) -> list[ScaleSetSpec]:
    (folder / "web.yaml").write_text(text, encoding="utf-8")
    return load_scale_sets(folder / "web.yaml")


def test_the_password_file_lies_beside_the_scale_set_file(tmp_path: Path) -> None:
    write(tmp_path / "secrets" / "admin.txt")
    (spec,) = load(tmp_path)
    assert spec.setup.windows is not None
    assert spec.setup.windows.administrator_password_file == str(tmp_path / "secrets" / "admin.txt")
    assert spec.setup.windows.administrator_password_digest is None


def test_a_password_file_that_cannot_be_applied_is_refused_with_its_line_and_fix(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"web.yaml:6: cannot read password file .*secrets/admin.txt"):
        load(tmp_path)
    file = write(tmp_path / "secrets" / "admin.txt", mode=0o644)
    with pytest.raises(SpecError, match=r"web.yaml:6: .* is open to others") as error:
        load(tmp_path)
    assert error.value.fix == f"chmod 600 {file}"


def test_the_operator_may_not_write_what_is_computed(tmp_path: Path) -> None:
    write(tmp_path / "secrets" / "admin.txt")
    with pytest.raises(SpecError, match=r"web.yaml:7: unknown key 'administrator_password_digest'"):
        load(tmp_path, SET + f"    administrator_password_digest: {'ab' * 32}\n")


def test_a_missing_password_file_is_a_missing_key(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"key 'setup.windows.administrator_password_file' is missing"):
        load(tmp_path, SET.replace("administrator_password_file: secrets/admin.txt", "locale: en-US"))
