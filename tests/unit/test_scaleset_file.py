"""Scale set files: every complaint names file, line, value and, where there is one, the fix."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config.scaleset_file import MAX_FILE_SIZE, load_scale_sets
from orchestrator.errors import SpecError
from orchestrator.models.spec import ScaleSetSpec
from tests.builders import GIB, MIB
from tests.unit.examples import many

HEAD = "kind: ScaleSet\nname: web\nimage: micro\n"  # three lines: what follows begins on line 4


def write(folder: Path, text: str) -> Path:
    file = folder / "web.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def load(folder: Path, text: str) -> list[ScaleSetSpec]:
    return load_scale_sets(write(folder, text))


def complaint(folder: Path, text: str) -> str:
    """The message, with the file's path shortened to its name."""
    with pytest.raises(SpecError) as error:
        load(folder, text)
    return error.value.message.replace(f"{folder}/", "")


# ---- what is read --------------------------------------------------------------------------------------------


def test_a_small_file_is_a_set(tmp_path: Path) -> None:
    (spec,) = load(tmp_path, "name: web\nimage: micro\n")
    assert (spec.name, spec.image, spec.instances) == ("web", "micro", 1)


def test_units_are_read_into_bytes_and_seconds(tmp_path: Path) -> None:
    text = """\
machine: {memory: 1.5GiB, disk: 4GiB}
setup: {timeout: 90s}
readiness: [{tcp: {port: 80}, interval: 250ms}]
"""
    (spec,) = load(tmp_path, HEAD + text)
    assert (spec.machine.memory, spec.machine.disk) == (1536 * MIB, 4 * GIB)
    assert (spec.setup.timeout, spec.readiness[0].interval) == (90.0, 0.25)


def test_a_file_may_hold_several_sets_in_order(tmp_path: Path) -> None:
    specs = load(tmp_path, "---\nname: web\nimage: micro\n---\nname: api\nimage: micro\n")
    assert [spec.name for spec in specs] == ["web", "api"]


def test_values_may_be_shared_by_anchors_and_merged(tmp_path: Path) -> None:
    text = "machine: &size {memory: 256MiB}\nname: web\nimage: micro\n"
    (spec,) = load(tmp_path, text)
    assert spec.machine.memory == 256 * MIB
    (spec,) = load(tmp_path, HEAD + "machine:\n  <<: {vcpus: 4}\n  memory: 64MiB\n")
    assert (spec.machine.vcpus, spec.machine.memory) == (4, 64 * MIB)


def test_text_in_any_script_is_kept(tmp_path: Path) -> None:
    (spec,) = load(tmp_path, HEAD + 'setup: {user_data: {motd: "Grüße 你好 \\u2028"}}\n')
    assert spec.setup.user_data == {"motd": "Grüße 你好 \u2028"}


def test_a_file_without_any_document_is_refused_with_how_to_begin(tmp_path: Path) -> None:
    for text in ("", "# nothing\n"):
        with pytest.raises(SpecError) as error:
            load(tmp_path, text)
        assert "no document in it" in error.value.message
        assert "kind: ScaleSet" in error.value.fix


# ---- keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("instnces: 3\n", "web.yaml:4: unknown key 'instnces' (nearest: 'instances')"),
        ("machine:\n  memry: 1GiB\n", "web.yaml:5: unknown key 'memry' (nearest: 'memory')"),
        (
            "readiness:\n- tcp: {port: 80}\n- http:\n    prt: 80\n    port: 80\n",
            "web.yaml:7: unknown key 'prt' (nearest: 'port')",
        ),
        (
            "endpoints: [{name: a, listen: 1, port: 2,\n  adress: 127.0.0.1}]\n",
            "web.yaml:5: unknown key 'adress' (nearest: 'address')",
        ),
        (
            "standby: {max_ready: 1, colour: red}\n",
            "web.yaml:4: unknown key 'colour' (known: max_ready, min_ready, state)",
        ),
        (
            "setup:\n  steps:\n  - upload: {form: a, to: /b, from: c}\n",
            "web.yaml:6: unknown key 'form' (nearest: 'from')",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_key(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert complaint(tmp_path, HEAD + text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("machine: {priority: spot}\n", "'priority' is refused: machines here are never preempted"),
        ("spot: true\n", "'spot' is refused: machines here are never preempted"),
        ("fault_domains: 3\n", "'fault_domains' is refused: a set has one fault domain in each zone"),
        ("platformFaultDomainCount: 3\n", "'platformFaultDomainCount' is refused: a set has one fault domain"),
        ("standby: {max_ready: 1, region: north}\n", "'region' is refused: a pool is on the hosts of its set"),
        ("standby: {max_ready: 1, owner: anne}\n", "'owner' is refused: a pool belongs to the owner of its set"),
        ("orchestration: uniform\n", "'orchestration' is refused: sets are flexible"),
        ("orchestrationMode: Uniform\n", "'orchestrationMode' is refused: sets are flexible"),
        (
            "autoscale: {max: 4}\n",
            "'autoscale' is refused: it is reserved and not there yet; it will go with a pool",
        ),
        (
            "drives: [{name: data, size: 1GiB, mount: /d, instances: [web-1, web-2]}]\n",
            "'instances' is refused: every instance gets a drive of its own, and no drive is attached to two",
        ),
        ("standby: [{max_ready: 1}, {max_ready: 2}]\n", "standby: a set has one standby pool"),
        ("standby: {max_ready: 1}\nstandby: {max_ready: 2}\n", "key 'standby' is given twice"),
        ("standby_pools: []\n", "'standby_pools' is refused: a set has one standby pool"),
    ],
)
def test_what_similar_services_refuse_or_call_otherwise_has_its_own_words(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert expected in complaint(tmp_path, HEAD + text)


def test_what_is_nowhere_near_gets_no_nearest_key(tmp_path: Path) -> None:
    assert "unknown key 'foo' (known: drives, " in complaint(tmp_path, HEAD + "foo: 1\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hooks: {on_claim: date}\n", "web.yaml:4: hooks.on_claim: must be a list (given: 'date')"),
        ("machine: small\n", "web.yaml:4: machine: must be a mapping (given: 'small')"),
    ],
)
def test_a_value_of_another_kind_is_told_in_words_of_the_file(tmp_path: Path, text: str, expected: str) -> None:
    assert complaint(tmp_path, HEAD + text) == expected


@pytest.mark.parametrize("text", ["name: again\n", 'instances: 1\n"instances": 2\n'])
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, text: str) -> None:
    assert "is given twice" in complaint(tmp_path, HEAD + text)


def test_a_key_that_is_given_twice_deep_inside_is_refused_with_its_line(tmp_path: Path) -> None:
    text = "setup:\n  user_data:\n    write_files:\n    - path: /a\n      path: /b\n"
    assert complaint(tmp_path, HEAD + text) == "web.yaml:8: key 'path' is given twice"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: ScaleSet\nimage: micro\n", "web.yaml:1: key 'name' is missing"),
        (HEAD + "endpoints:\n- {name: http, listen: 80}\n", "web.yaml:5: key 'endpoints.0.port' is missing"),
        (HEAD + "standby: {state: stopped}\n", "web.yaml:4: key 'standby.max_ready' is missing"),
    ],
)
def test_a_missing_key_is_named_with_the_line_of_what_lacks_it(tmp_path: Path, text: str, expected: str) -> None:
    assert complaint(tmp_path, text) == expected


def test_a_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    assert "Keys should be strings (given: 1)" in complaint(tmp_path, HEAD + "1: 2\n")


# ---- values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("instances: two\n", 4, "instances: Input should be a valid integer (given: 'two')"),
        ("instances: -1\n", 4, "instances: Input should be greater than or equal to 0 (given: -1)"),
        ("instances: true\n", 4, "instances: Input should be a valid integer (given: True)"),
        ("machine: 3\n", 4, "machine: must be a mapping"),
        ("machine: {memory: 512}\n", 4, "machine.memory: 512 needs a number and a unit"),
        ("machine: {memory: 512MB}\n", 4, "machine.memory: '512MB' has the unknown unit 'MB'"),
        ("machine: {memory: 16MiB}\n", 4, "machine.memory: Input should be greater than or equal to"),
        ("setup:\n  timeout: 600\n", 5, "setup.timeout: 600 needs a number and a unit"),
        ("setup:\n  timeout: 0s\n", 5, "setup.timeout: Input should be greater than 0"),
        ("standby: {max_ready: 1, min_ready: 2}\n", 4, "standby: 'min_ready' (2) is above 'max_ready' (1)"),
        (
            "standby: {max_ready: 1, state: asleep}\n",
            4,
            "standby.state: 'asleep' is none of running, stopped, hiber",
        ),
        (
            "standby:\n  max_ready: 4\n  state: {running: 20%, stopped: 70%}\n",
            6,
            "standby.state: the percentages add up to 90, not to 100",
        ),
        ("standby: {max_ready: 1, state: {running: 1}}\n", 4, "standby.state: 1 is no percentage from 1% to 100%"),
        (
            "standby: {max_ready: 1, state: {dozing: 100%}}\n",
            4,
            "standby.state: {'dozing': '100%'} is none of run",
        ),
        ("standby: {max_ready: 50%}\n", 4, "standby.max_ready: Input should be a valid integer (given: '50%')"),
        ("scale_in:\n  policy: random\n", 5, "scale_in.policy: Input should be 'balanced', 'newest' or 'oldest'"),
        (
            "update:\n  max_surge: many\n",
            5,
            "update.max_surge: 'many' is neither a number from 0 on nor a percentage",
        ),
        ("update: {max_surge: 0}\n", 4, "update: 'max_surge' and 'max_unavailable' are both 0"),
        ("update: {max_surg: 1}\n", 4, "unknown key 'max_surg' (nearest: 'max_surge')"),
        ("kind: Pod\n", 1, "key 'kind' is given twice"),
        (
            "endpoints:\n- {name: a, listen: 1, port: 1}\n-\n  name: b\n  listen: 99999\n  port: 1\n",
            8,
            "endpoints.1.listen: Input should be less than or equal to 65535 (given: 99999)",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_what_was_given(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    said = complaint(tmp_path, HEAD + text)
    assert words in said
    assert said.startswith(f"web.yaml:{line}: ") or "twice" in words


def test_every_complaint_is_told_at_once(tmp_path: Path) -> None:
    said = complaint(tmp_path, HEAD + "instances: x\nmachine: {memory: 1}\nnonsense: 1\n").splitlines()
    assert [line.split(":")[1] for line in said] == ["4", "5", "6"]


def test_another_kind_is_refused(tmp_path: Path) -> None:
    assert "kind: Input should be 'ScaleSet'" in complaint(tmp_path, "kind: Pod\nname: web\nimage: a\n")


@pytest.mark.parametrize("text", ["- a\n", "just text\n", "42\n", "null\n", "---\n---\nname: a\nimage: b\n"])
def test_a_document_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "a scale set is a mapping of keys to values" in complaint(tmp_path, text)


# ---- several sets --------------------------------------------------------------------------------------------


def test_two_sets_of_one_name_are_refused_with_the_line_of_the_second(tmp_path: Path) -> None:
    assert complaint(tmp_path, f"{HEAD}---\n{HEAD}") == "web.yaml:6: a second set named 'web'"


def test_a_fault_in_one_document_refuses_the_whole_file(tmp_path: Path) -> None:
    assert complaint(tmp_path, f"{HEAD}---\nname: api\nimage: micro\noops: 1\n").startswith("web.yaml:7: unknown")


# ---- files ---------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot read .*nowhere.yaml: No such file or directory"):
        load_scale_sets(tmp_path / "nowhere.yaml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read"):
        load_scale_sets(tmp_path)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_bytes("name: Grüße\n".encode("latin-1"))
    with pytest.raises(SpecError, match="is not UTF-8 text"):
        load_scale_sets(file)


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="larger than 1 MiB"):
        load(tmp_path, "#" * (MAX_FILE_SIZE + 1))


@pytest.mark.parametrize(
    ("text", "line"),
    [("name: [web\nimage: x\n", 2), ("name: web\n\tinstances: 2\n", 2), ("a: *nobody\n", 1), ("a: 'b\n", 2)],
)
def test_what_is_not_yaml_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    assert complaint(tmp_path, text).startswith(f"web.yaml:{line}: not valid YAML: ")


def test_a_control_character_is_refused(tmp_path: Path) -> None:
    assert "not valid YAML" in complaint(tmp_path, "name: \x01\n")


def test_a_tag_that_would_make_a_python_object_is_refused(tmp_path: Path) -> None:
    text = "name: !!python/object/apply:os.system [true]\nimage: x\n"
    assert complaint(tmp_path, text).startswith("web.yaml:1: could not determine a constructor")


def test_a_document_that_contains_itself_is_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in complaint(tmp_path, HEAD + "setup: {user_data: &again {a: *again}}\n")


# ---- user data and uploads -----------------------------------------------------------------------------------


def with_user_data(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return HEAD + f"setup:\n  user_data_file: {name}\n"


def test_a_user_data_file_beside_the_set_becomes_part_of_it(tmp_path: Path) -> None:
    (spec,) = load(tmp_path, with_user_data(tmp_path, "setup.sh", "#!/bin/sh\necho {{ instance.name }}\n"))
    assert spec.setup.user_data == "#!/bin/sh\necho {{ instance.name }}\n"
    assert spec.setup.user_data_file is None


def test_a_user_data_file_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = with_user_data(tmp_path, "setup.sh", "#!/bin/sh\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (spec,) = load_scale_sets(write(tmp_path, text))
    assert spec.setup.user_data == "#!/bin/sh\n"


def test_a_missing_user_data_file_is_named_with_the_line_that_names_it(tmp_path: Path) -> None:
    said = complaint(tmp_path, HEAD + "setup:\n  user_data_file: nowhere.sh\n")
    assert said.startswith("web.yaml:5: cannot read user_data_file nowhere.sh")


def test_a_user_data_file_says_what_it_is(tmp_path: Path) -> None:
    said = complaint(tmp_path, with_user_data(tmp_path, "setup.txt", "echo hello\n"))
    assert said == "web.yaml:5: setup.txt must begin with '#!' or '#cloud-config'"


def test_a_user_data_file_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_bytes(b"#!/bin/sh\n\xff\n")
    said = complaint(tmp_path, HEAD + "setup:\n  user_data_file: setup.sh\n")
    assert said.startswith("web.yaml:5: cannot read user_data_file")


def test_a_user_data_file_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "setup.sh")
    said = complaint(tmp_path, HEAD + "setup:\n  user_data_file: setup.sh\n")
    assert said == "web.yaml:5: user_data_file setup.sh is not a plain file"


def test_a_user_data_file_without_end_is_refused(tmp_path: Path) -> None:
    said = complaint(tmp_path, with_user_data(tmp_path, "setup.sh", "#!/bin/sh\n" + "#" * MAX_FILE_SIZE))
    assert said == "web.yaml:5: user_data_file setup.sh is larger than 1 MiB"


@pytest.mark.parametrize("key", ["ssh_keys", "disable_root", "ssh_deletekeys", "manual_cache_clean"])
def test_user_data_may_not_take_the_keys_that_reach_the_guest(tmp_path: Path, key: str) -> None:
    inline = complaint(tmp_path, HEAD + f"setup:\n  user_data:\n    {key}: true\n")
    assert f"user data may not set {key!r}" in inline
    from_file = complaint(tmp_path, with_user_data(tmp_path, "cc.yaml", f"#cloud-config\n{key}: true\n"))
    assert from_file == f"web.yaml:5: user data may not set {key!r}: Understudy needs it to reach the guest"


def test_a_script_may_name_those_keys(tmp_path: Path) -> None:
    (spec,) = load(tmp_path, with_user_data(tmp_path, "setup.sh", "#!/bin/sh\nssh_keys: nothing\n"))
    assert isinstance(spec.setup.user_data, str)


def test_an_upload_is_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (spec,) = load(tmp_path, HEAD + "setup:\n  steps: [{upload: {from: site/, to: /srv/www}}]\n")
    upload = spec.setup.steps[0].upload
    assert upload is not None
    assert upload.source == f"{tmp_path}/site/"


def test_a_missing_upload_is_named_with_its_line(tmp_path: Path) -> None:
    text = HEAD + "setup:\n  steps:\n  - run: 'true'\n  - upload:\n      from: nowhere/\n      to: /srv\n"
    said = complaint(tmp_path, text)
    assert said == "web.yaml:8: cannot upload 'nowhere/': nowhere does not exist"


# ---- anything at all -----------------------------------------------------------------------------------------


def only_specs_or_spec_error(file: Path, text: str) -> list[ScaleSetSpec]:
    file.write_text(text, encoding="utf-8", newline="")
    try:
        return load_scale_sets(file)
    except SpecError as error:
        assert str(file) in error.message
        return []


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
    | st.sampled_from(["web", "micro", "512MiB", "10min", "stopped", "127.0.0.1", "#!/bin/sh\n", "/", "GiB"])
)
keys = st.sampled_from(
    [
        *ScaleSetSpec.model_fields,
        *("port", "listen", "memory", "disk", "timeout", "user_data", "user_data_file", "steps", "run", "upload"),
        *("from", "to", "http", "tcp", "command", "path", "interval", "state", "max_ready", "min_ready"),
    ]
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=5), inner, max_size=5),
    max_leaves=15,
)
sets = st.fixed_dictionaries(
    {"name": st.just("web") | scalars, "image": st.just("micro") | scalars},
    optional={key: documents for key in ScaleSetSpec.model_fields if key not in ("name", "image")},
)
with_folder = settings(many, suppress_health_check=[*HealthCheck])


@with_folder
@given(document=documents | sets)
def test_any_data_is_a_set_or_refused(tmp_path: Path, document: Any) -> None:
    text = yaml.safe_dump(document, allow_unicode=True)
    for spec in only_specs_or_spec_error(tmp_path / "any.yaml", text):
        assert ScaleSetSpec.model_validate_json(spec.to_json()).name == spec.name


@with_folder
@given(text=st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_is_a_set_or_refused(tmp_path: Path, text: str) -> None:
    only_specs_or_spec_error(tmp_path / "any.yaml", text)


@with_folder
@given(words=st.lists(st.sampled_from([*"{}[],:-?|>&*!%@`'\"# \n\t", *HEAD.splitlines(), "  ", "<<", "a"])))
def test_any_heap_of_yaml_signs_is_a_set_or_refused(tmp_path: Path, words: list[str]) -> None:
    only_specs_or_spec_error(tmp_path / "any.yaml", HEAD + "".join(words))


@with_folder
@given(content=st.binary(max_size=100))
def test_any_bytes_are_a_set_or_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    try:
        load_scale_sets(file)
    except SpecError as error:
        assert str(file) in error.message


@pytest.mark.parametrize("text", ["{ssh_keys: {}}", "{packages: [], 'disable_root': true}"])
def test_user_data_in_flow_style_may_not_lock_us_out_either(tmp_path: Path, text: str) -> None:
    (tmp_path / "cc.yaml").write_text(f"#cloud-config\n{text}\n", encoding="utf-8")
    file = tmp_path / "web.yaml"
    file.write_text("name: web\nimage: micro\nsetup: {user_data_file: cc.yaml}\n", encoding="utf-8")
    with pytest.raises(SpecError, match="needs it to reach the guest"):
        load_scale_sets(file)


def test_an_upload_has_only_its_published_keys(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("name: web\nimage: micro\nsetup: {steps: [{upload: {source: ., to: /x}}]}\n", encoding="utf-8")
    with pytest.raises(SpecError, match="source"):
        load_scale_sets(file)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        ("{file: token, digest: abc}", "unknown key 'digest'"),
        ("{file: nowhere}", "cannot read secret file"),
        ("{file: .}", "is not a plain file"),
        ("{fiel: token}", r"unknown key 'fiel' \(nearest: 'file'\)"),
    ],
)
def test_a_secret_that_cannot_be_read_is_named_with_its_line(tmp_path: Path, one: str, words: str) -> None:
    (tmp_path / "token").write_text("long enough", encoding="utf-8")
    (tmp_path / "token").chmod(0o600)
    file = tmp_path / "web.yaml"
    file.write_text(f"{HEAD}setup:\n  secrets:\n    db: {one}\n", encoding="utf-8")
    with pytest.raises(SpecError, match=words) as raised:
        load_scale_sets(file)
    assert f"web.yaml:{len(HEAD.splitlines()) + 3}: " in raised.value.message


def test_a_secret_file_lies_beside_the_scale_set_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("long enough", encoding="utf-8")
    (tmp_path / "token").chmod(0o600)
    file = tmp_path / "web.yaml"
    file.write_text(f"{HEAD}setup: {{secrets: {{db: {{file: token}}}}}}\n", encoding="utf-8")
    (spec,) = load_scale_sets(file)
    assert spec.setup.secrets["db"].file == str(tmp_path / "token")
