"""Declared secrets are in nothing that is recorded of what a guest says."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.apply.step_events import StepOutput
from orchestrator.config.secrets import keep_secrets, prune_secrets, read_secret, read_secrets
from orchestrator.errors import GuestError, NotFound, SpecError
from orchestrator.models.redaction import NOTHING, SHORTEST, Redaction
from orchestrator.models.setup_result import plain
from orchestrator.models.spec import ScaleSetSpec, model_digest
from orchestrator.models.steps import EffectKind
from orchestrator.render.seed import render_user_data
from tests.builders import make_spec
from tests.fakes import ScriptedGuest
from tests.unit.examples import many
from tests.unit.test_executor import Bench, make_bench

TOKEN = "hunter2-and-more"


def digest_of(secret: str) -> str:
    return f"digest-{len(secret)}"


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    file.chmod(0o600)
    return file


def kept(spec: ScaleSetSpec, folder: Path) -> ScaleSetSpec:
    (folder / "secrets").mkdir(exist_ok=True)
    return keep_secrets(spec, digest_of, folder / "secrets")


def setup_with(file: Path, **fields: Any) -> dict[str, Any]:
    return {"secrets": {"token": {"file": str(file)}}, **fields}


# ---- words ---------------------------------------------------------------------------------------------------


def test_a_secret_is_replaced_by_its_name_wherever_it_stands() -> None:
    redaction = Redaction({"db": "s3cret-pass", "long": "s3cret-pass-2"})
    said = redaction.clean("a s3cret-pass b s3cret-pass-2c\ns3cret-pass")
    assert said == "a [secret db] b [secret long]c\n[secret db]"


def test_each_line_of_a_key_is_a_secret() -> None:
    redaction = Redaction({"key": "-----BEGIN-----\nAAAABBBB\n-----END-----"})
    assert redaction.clean("x AAAABBBB y") == "x [secret key] y"


def test_a_secret_with_control_characters_is_known_as_it_is_told() -> None:
    secret, told = "tab\tand\x1bescape", list[str]()
    redaction = Redaction({"odd": secret})
    output = StepOutput(told.append, redaction)
    output.take(f"using {secret}\n".encode(), 0.0)
    output.end()
    assert told == ["using [secret odd]"]
    assert redaction.clean(plain(f"login {secret} failed")) == "login [secret odd] failed"


def test_a_tail_that_begins_within_a_secret_does_not_show_its_end() -> None:
    redaction = Redaction({"token": TOKEN})
    for cut in range(1, len(TOKEN) - SHORTEST + 1):
        assert redaction.clean(f"{TOKEN[cut:]} said it") == "[secret token] said it"


def test_without_secrets_words_stay() -> None:
    assert NOTHING.clean("anything") == "anything"


@many
@given(
    st.lists(st.text("ab\n", max_size=8) | st.just(TOKEN) | st.text(max_size=4), max_size=12),
    st.lists(st.integers(1, 9), min_size=1, max_size=40),
    st.booleans(),
)
def test_however_output_arrives_no_secret_is_told(words: list[str], sizes: list[int], is_slow: bool) -> None:
    text, told = "".join(words), list[str]()
    output = StepOutput(told.append, Redaction({"token": TOKEN}))
    raw, moment = text.encode("utf-8", "replace"), 0.0
    for size in itertools.cycle(sizes):
        if not raw:
            break
        output.take(raw[:size], moment)
        raw, moment = raw[size:], moment + (2.0 if is_slow else 0.0)
    output.end()
    assert TOKEN not in "".join(told)
    assert "".join(told).count("[secret token]") >= text.count(TOKEN)


# ---- declared ------------------------------------------------------------------------------------------------


def test_a_secret_goes_into_user_data_and_not_into_the_spec(secret_file: Path, tmp_path: Path) -> None:
    spec = kept(
        make_spec(setup=setup_with(secret_file, user_data="#!/bin/sh\necho {{ secrets.token }}\n")), tmp_path
    )
    assert TOKEN not in spec.to_json()
    values = read_secrets(spec, tmp_path / "secrets")
    assert render_user_data(spec, "web-1", "127.0.0.2", values) == f"#!/bin/sh\necho {TOKEN}\n"
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "secrets").iterdir()} == {0o600}


def test_an_unknown_secret_is_an_error_that_shows_none() -> None:
    spec = make_spec(setup={"user_data": "#!/bin/sh\necho {{ secrets.other }}\n"})
    with pytest.raises(SpecError, match="other") as raised:
        render_user_data(spec, "web-1", "127.0.0.2", {"token": TOKEN})
    assert TOKEN not in str(raised.value)


def test_another_secret_is_another_model_and_another_path_is_not(secret_file: Path, tmp_path: Path) -> None:
    spec = kept(make_spec(setup=setup_with(secret_file)), tmp_path)
    one = spec.setup.secrets["token"]
    models = [
        model_digest(
            spec.model_copy(update={"setup": spec.setup.model_copy(update={"secrets": {"token": variant}})}), "i"
        )
        for variant in (one, one.model_copy(update={"file": "/else"}), one.model_copy(update={"digest": "other"}))
    ]
    assert models[0] == models[1] != models[2]
    assert model_digest(make_spec(), "i") == model_digest(make_spec(setup={"secrets": {}}), "i")


def test_secrets_that_no_set_needs_are_removed(secret_file: Path, tmp_path: Path) -> None:
    spec = kept(make_spec(setup=setup_with(secret_file)), tmp_path)
    prune_secrets([spec], tmp_path / "secrets")
    assert read_secrets(spec, tmp_path / "secrets") == {"token": TOKEN}
    prune_secrets([], tmp_path / "secrets")
    with pytest.raises(NotFound, match="secret 'token' of set 'web' is missing"):
        read_secrets(spec, tmp_path / "secrets")


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"long enough", 0o640, "is open to others"),
        (b"short", 0o600, "shorter than 6 characters"),
        (b"", 0o600, "shorter than 6 characters"),
        (b"\xff\xfe\xff\xfe\xff\xfe\xff", 0o600, "is not UTF-8"),
        (b"x" * 5000, 0o600, "is larger than"),
    ],
)
def test_files_that_hold_no_usable_secret(tmp_path: Path, content: bytes, mode: int, words: str) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(SpecError, match=words):
        read_secret(file)


@pytest.mark.parametrize("name", ["", "Token", "to-ken", "__class__", "a" * 33, "1st"])
def test_names_that_no_template_could_use(name: str) -> None:
    with pytest.raises(ValueError, match="secrets"):
        make_spec(setup={"secrets": {name: {"file": "token"}}})


def test_a_set_without_cloud_init_has_no_use_for_secrets() -> None:
    with pytest.raises(ValueError, match="'secrets' need"):
        make_spec(setup={"answer_file": "none", "secrets": {"token": {"file": "token"}}})


# ---- told of effects -----------------------------------------------------------------------------------------


def secretive(folder: Path, file: Path, **fields: Any) -> Bench:
    bench = make_bench(folder, setup=setup_with(file, **fields.pop("setup", {})), **fields)
    spec = kept(bench.wanted.spec, folder)
    bench.wanted = type(bench.wanted)(**{**vars(bench.wanted), "spec": spec})
    bench.perform(EffectKind.CREATE)
    return bench


def test_a_step_that_prints_and_fails_shows_no_secret(secret_file: Path, tmp_path: Path) -> None:
    bench = secretive(tmp_path, secret_file, setup={"steps": [{"run": "login"}]})
    bench.guest.outputs["login"] = [f"using {TOKEN[:9]}".encode(), f"{TOKEN[9:]}\n".encode()]
    bench.guest.errors["login"] = [f"bad password {TOKEN}"]
    with pytest.raises(GuestError) as raised:
        bench.perform(EffectKind.PROVISION)
    assert "bad password [secret token]" in raised.value.message
    assert ("step_output", "using [secret token]") in bench.told
    assert TOKEN not in f"{raised.value}{bench.told}"


def test_a_setup_that_fails_shows_no_secret(secret_file: Path, tmp_path: Path) -> None:
    class GuestThatTellsItsSecret(ScriptedGuest):
        def finish_setup(self, member: str) -> None:
            raise GuestError(f"setup of {member} failed: curl: (22) {TOKEN}")

    bench = make_bench(tmp_path, kind=GuestThatTellsItsSecret, setup=setup_with(secret_file))
    bench.wanted = type(bench.wanted)(**{**vars(bench.wanted), "spec": kept(bench.wanted.spec, tmp_path)})
    bench.perform(EffectKind.CREATE)
    with pytest.raises(GuestError, match=r"\(22\) \[secret token\]"):
        bench.perform(EffectKind.PROVISION)


def test_the_console_in_a_reason_shows_no_secret(secret_file: Path, tmp_path: Path) -> None:
    bench = secretive(tmp_path, secret_file)
    bench.host.say(bench.domain, f"set -x: curl -u {TOKEN}")
    assert TOKEN not in bench.executor.console_tail(bench.member, bench.wanted)
    assert "curl -u [secret token]" in bench.executor.console_tail(bench.member, bench.wanted)
