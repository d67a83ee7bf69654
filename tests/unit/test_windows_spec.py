"""Windows guests as their operator declares them: what is refused, and what shapes a machine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.models.spec import ScaleSetSpec, model_digest
from orchestrator.models.windows import MAX_COMMANDS, MAX_LOGON_COMMAND, MAX_SPECIALIZE_COMMAND
from orchestrator.models.windows_disks import find_useless_windows_disks
from tests.builders import make_spec
from tests.unit.examples import many

FILE = "/secrets/admin.txt"
KEY = "ABCDE-12345-FGHIJ-67890-KLMNO"


def setup(**windows: Any) -> dict[str, Any]:
    return {"answer_file": "unattend", "windows": {"administrator_password_file": FILE, **windows}}


def complaint(**fields: Any) -> str:
    with pytest.raises(ValidationError) as error:
        make_spec(**fields)
    return str(error.value)


def refusal(**windows: Any) -> str:
    return complaint(setup=setup(**windows))


def digest(**fields: Any) -> str:
    return model_digest(make_spec(**fields), "d1")


def test_defaults_need_only_a_password() -> None:
    windows = make_spec(setup=setup()).setup.windows
    assert windows is not None
    assert (windows.locale, windows.time_zone, windows.product_key) == ("en-US", "UTC", "")
    assert (windows.synchronous_commands, windows.first_logon_commands) == ((), ())
    assert (windows.local_storage_letter, windows.administrator_password_digest) == ("", None)


def test_no_port_of_ours_is_opened_in_a_windows_guest() -> None:
    spec = make_spec(setup=setup(), readiness=[{"tcp": {"port": 3389}}])
    assert spec.guest_ports() == (80, 3389)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"answer_file": "unattend"}, "needs 'windows' with an 'administrator_password_file'"),
        ({"answer_file": "unattend", "windows": {}}, "administrator_password_file"),
        ({"windows": {"administrator_password_file": FILE}}, "'windows' needs 'answer_file: unattend'"),
        ({**setup(), "answer_file": "none"}, "'windows' needs 'answer_file: unattend'"),
        ({**setup(), "user_data": "#!/bin/sh\n"}, "'user_data' and 'steps' need 'answer_file: cloud-init'"),
        ({**setup(), "user_data_file": "x.sh"}, "'user_data' and 'steps' need 'answer_file: cloud-init'"),
        ({**setup(), "steps": [{"run": "true"}]}, "'user_data' and 'steps' need 'answer_file: cloud-init'"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], words: str) -> None:
    assert words in complaint(setup=fields)


def test_a_command_probe_needs_ssh() -> None:
    words = complaint(setup=setup(), readiness=[{"command": "true"}])
    assert "a 'command' probe needs 'answer_file: cloud-init'" in words


@pytest.mark.parametrize("locale", ["", "english", "en_US", "en-US-x-private", "en-US\n", "<en>", "e"])
def test_what_is_no_locale_is_refused(locale: str) -> None:
    assert "is not a locale such as en-US" in refusal(locale=locale)


@pytest.mark.parametrize("locale", ["en-US", "de", "zh-Hans-CN", "es-419", "sr-Latn-RS"])
def test_locales_may_have_a_script_and_a_region(locale: str) -> None:
    assert make_spec(setup=setup(locale=locale)).setup.windows is not None


@pytest.mark.parametrize("zone", ["", "Europe/Berlin", "UTC\x00", "UTC\n", "<UTC>", "x" * 65])
def test_what_is_no_windows_time_zone_is_refused(zone: str) -> None:
    assert "is not a Windows time zone such as 'W. Europe Standard Time'" in refusal(time_zone=zone)


@pytest.mark.parametrize(
    "zone", ["UTC", "UTC-02", "UTC+12", "W. Europe Standard Time", "Turkey Standard Time_dstoff"]
)
def test_windows_time_zones_are_taken(zone: str) -> None:
    assert make_spec(setup=setup(time_zone=zone)).setup.windows is not None


@pytest.mark.parametrize("key", ["ABCDE", KEY.lower(), KEY + "-ABCDE", KEY + "\n", KEY.replace("-", " ")])
def test_what_is_no_product_key_is_refused(key: str) -> None:
    assert "a product key is five groups of five" in refusal(product_key=key)


@pytest.mark.parametrize("letter", ["C", "d", "DE", "D:", "1", " "])
def test_only_letters_that_are_free_on_any_machine_are_taken(letter: str) -> None:
    assert "local_storage_letter" in refusal(local_storage_letter=letter)


BAD_LINES = ["", " ", "one\ntwo", "one\r", *(f"a{chr(code)}b" for code in (*range(9), 11, 12, *range(14, 32)))]


@pytest.mark.parametrize("key", ["synchronous_commands", "first_logon_commands"])
@pytest.mark.parametrize("command", [*BAD_LINES, "a\ufffeb", "a\uffffb"])
def test_a_command_is_one_line_that_xml_can_hold(key: str, command: str) -> None:
    assert "a command is one line of text, without control characters" in refusal(**{key: [command]})


@pytest.mark.parametrize(
    ("key", "longest"),
    [("synchronous_commands", MAX_SPECIALIZE_COMMAND), ("first_logon_commands", MAX_LOGON_COMMAND)],
)
def test_a_command_is_as_long_as_windows_takes(key: str, longest: int) -> None:
    assert make_spec(setup=setup(**{key: ["x" * longest]}))
    assert f"Windows takes at most {longest} here" in refusal(**{key: ["x" * (longest + 1)]})
    # Two UTF-16 code units each.
    assert f"Windows takes at most {longest} here" in refusal(**{key: ["🙂" * (longest // 2 + 1)]})


def test_there_are_as_many_commands_as_can_be_numbered() -> None:
    assert make_spec(setup=setup(first_logon_commands=["x"] * MAX_COMMANDS))
    assert "first_logon_commands" in refusal(first_logon_commands=["x"] * (MAX_COMMANDS + 1))


@pytest.mark.parametrize(
    ("letter", "disks", "where", "words"),
    [
        ("S", {}, "setup.windows.local_storage_letter", "there is no 'local_storage' to take the letter S"),
        ("", {"local_storage": {"size": "1GiB"}}, "local_storage", "needs 'setup.windows.local_storage_letter'"),
        (
            "S",
            {"local_storage": {"size": "1GiB", "mount": "/mnt/local"}},
            "local_storage.mount",
            "Windows gives letters, not directories",
        ),
        (
            "S",
            {"local_storage": {"size": "1GiB"}, "drives": [{"name": "data", "size": "1GiB"}]},
            "drives",
            "not with 'answer_file: unattend'",
        ),
    ],
)
def test_disks_that_windows_could_not_use_are_refused_in_files_but_read_where_they_are_recorded(
    letter: str, disks: dict[str, Any], where: str, words: str
) -> None:
    spec = make_spec(setup=setup(local_storage_letter=letter), **disks)
    assert ScaleSetSpec.model_validate_json(spec.to_json()) == spec
    ((path, text),) = find_useless_windows_disks(spec)
    assert ".".join(str(part) for part in path) == where
    assert text.startswith(f"{where}: ")
    assert words in text


def test_one_disk_with_a_letter_and_all_disks_of_other_guests_are_taken() -> None:
    local = {"size": "1GiB"}
    windows = make_spec(setup=setup(local_storage_letter="S"), local_storage=local)
    drive = {"name": "data", "size": "1GiB", "mount": "/mnt/data"}
    linux = make_spec(local_storage={**local, "mount": "/mnt/local"}, drives=[drive])
    assert [*find_useless_windows_disks(windows), *find_useless_windows_disks(linux)] == []


@pytest.mark.parametrize("fields", [{"firmware": "efi"}, {"disk_bus": "ide"}, {"nic": "e1000"}])
def test_hardware_that_is_not_offered_is_refused(fields: dict[str, Any]) -> None:
    assert next(iter(fields)) in complaint(machine=fields)


# ---- the model -----------------------------------------------------------------------------------------------


def test_the_new_keys_written_out_as_by_default_make_no_pool_stale() -> None:
    hardware = {"firmware": "bios", "disk_bus": "virtio", "nic": "virtio"}
    assert digest(machine={"memory": "128MiB", **hardware}) == digest(machine={"memory": "128MiB"})
    assert digest(setup={"windows": None}) == digest(setup={})


@pytest.mark.parametrize(
    "machine", [{"firmware": "uefi"}, {"firmware": "uefi-secure"}, {"disk_bus": "sata"}, {"nic": "e1000e"}]
)
def test_hardware_makes_another_model(machine: dict[str, Any]) -> None:
    assert digest(machine=machine) != digest(machine={})


@pytest.mark.parametrize(
    "windows",
    [
        {"administrator_password_digest": "ab" * 32},
        {"locale": "de-DE"},
        {"time_zone": "Tokyo Standard Time"},
        {"product_key": KEY},
        {"synchronous_commands": ["x"]},
        {"first_logon_commands": ["x"]},
        {"local_storage_letter": "D"},
    ],
)
def test_whatever_the_answer_file_says_makes_another_model(windows: dict[str, Any]) -> None:
    assert digest(setup=setup(**windows)) != digest(setup=setup())


def test_where_the_password_was_read_from_makes_no_other_model() -> None:
    elsewhere = {"administrator_password_file": "/elsewhere"}
    assert digest(setup=setup(**elsewhere)) == digest(setup=setup())


commands = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=50).filter(
        lambda text: bool(text.strip()) and not set(text) & {"\ufffe", "\uffff"}
    ),
    max_size=3,
)


@many
@given(commands, commands)
def test_any_commands_survive_json_with_the_same_model(early: list[str], late: list[str]) -> None:
    spec = make_spec(setup=setup(synchronous_commands=early, first_logon_commands=late))
    again = ScaleSetSpec.model_validate_json(spec.to_json())
    assert again == spec
    assert model_digest(again, "d1") == model_digest(spec, "d1")
