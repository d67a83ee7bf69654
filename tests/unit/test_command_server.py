"""What a client decides and says before a command server runs its command."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.catalog import COMMANDS
from orchestrator.command_server import wire
from orchestrator.command_server.invocation import SERVED, find_state_dir
from orchestrator.command_server.likeness import likeness

HERE = {"build", "console", "serve", "ssh", "image", "backup", "restore", "adopt", "audit", "doctor", "schema"}


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_STATE_DIR", "/some/where")


@pytest.mark.parametrize(
    ("arguments", "state_dir"),
    [
        (["status"], "/some/where"),
        (["-v", "scale", "web", "3"], "/some/where"),
        (["--state-dir", "/there", "apply", "web.yaml"], "/there"),
        (["--state-dir=/there", "--verbose", "apply", "web.yaml"], "/there"),
        (["--state-dir=", "status"], "/some/where"),
        (["scale", "web", "3", "--state-dir", "/no"], "/some/where"),
    ],
)
def test_the_state_directory_of_an_invocation(arguments: list[str], state_dir: str) -> None:
    assert find_state_dir(arguments) == state_dir


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--version"],
        ["--state-dir"],
        ["--state-dir", "/there"],
        ["--unknown", "status"],
        ["apply", "/dev/fd/63"],
        ["apply", "/proc/self/fd/3"],
        ["nonsense"],
        *([name] for name in HERE),
    ],
)
def test_what_is_not_certain_stays_where_it_was_typed(arguments: list[str]) -> None:
    assert find_state_dir(arguments) is None


def test_each_command_is_one_or_the_other() -> None:
    assert set(COMMANDS) >= SERVED
    assert set(COMMANDS) - SERVED <= HERE


def test_without_a_choice_it_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_STATE_DIR", "")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_state_dir(["status"]) == "/var/lib/understudy"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert find_state_dir(["status"]) == "/data/understudy"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/one")
    assert find_state_dir(["status"]) == "/home/one/.local/share/understudy"


# ---- likeness ------------------------------------------------------------------------------------------------


def test_a_process_is_like_itself_also_as_json_has_it() -> None:
    assert json.loads(json.dumps(likeness())) == likeness()


@pytest.mark.parametrize(
    ("name", "value"),
    [("PYTHONHASHSEED", "7"), ("PYTHONWARNINGS", "ignore::UserWarning"), ("PYTHONX", ""), ("LIBVIRT_DEBUG", "1")],
)
def test_other_settings_of_the_interpreter_make_unlike(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = likeness()
    monkeypatch.setenv(name, value)
    assert likeness() != before


def test_what_only_the_command_reads_makes_nothing_unlike(monkeypatch: pytest.MonkeyPatch) -> None:
    os_groups = [group for group in os.getgroups() if group != os.getegid()]
    monkeypatch.setattr(os, "getgroups", lambda: os_groups)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    before = likeness()
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    monkeypatch.setattr(os, "getgroups", lambda: [*os_groups, os.getegid()])
    assert likeness() == before


def test_an_installation_of_libraries_makes_unlike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = tmp_path / "site-packages"
    libraries.mkdir()
    monkeypatch.syspath_prepend(libraries)
    before = likeness()
    (libraries / "sqlalchemy-3.dist-info").mkdir()
    os.utime(libraries, ns=(1, 1))
    assert likeness() != before


def test_other_groups_make_unlike(monkeypatch: pytest.MonkeyPatch) -> None:
    before = likeness()
    monkeypatch.setattr(os, "getgroups", lambda: [*before["groups"], 54321])
    assert likeness() != before


# ---- messages ------------------------------------------------------------------------------------------------


@given(
    st.recursive(
        st.text() | st.integers() | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_sent_is_received(message: object) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, message)
        assert wire.receive(theirs) == message


def test_names_that_are_no_unicode_arrive_as_they_are() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, [os.fsdecode(b"\xff\xfe.yaml")])
        (name,) = wire.receive(theirs)
    assert os.fsencode(name) == b"\xff\xfe.yaml"


@pytest.mark.parametrize("said", [b"", b"\0\0", b"\0\0\0\5[1", b"\xff\xff\xff\xff{}", b"\0\0\0\2[1"])
def test_what_is_no_message_is_refused(said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(said)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises((OSError, ValueError)):
            wire.receive(theirs)


def test_descriptors_arrive_open() -> None:
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    with ours, theirs:
        wire.send_go(ours, (writing,) * 4)
        os.close(writing)
        arrived = wire.receive_go(theirs)
        for descriptor in arrived:
            os.write(descriptor, b"!")
        wire.close_all(arrived)
    assert (os.read(reading, 10), os.read(reading, 10)) == (b"!!!!", b"")
    os.close(reading)


@pytest.mark.parametrize(("said", "count"), [(b"?", 4), (b"!", 3), (b"!", 0), (b"!", 6)])
def test_what_is_no_go_is_refused_and_its_descriptors_are_closed(said: bytes, count: int) -> None:
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    with ours, theirs:
        socket.send_fds(ours, [said], [writing] * count)
        os.close(writing)
        if count > 4:  # the rest is never taken
            wire.close_all(wire.receive_go(theirs))
        else:
            with pytest.raises(ConnectionError):
                wire.receive_go(theirs)
    assert os.read(reading, 1) == b""  # nobody has it open
    os.close(reading)


@pytest.mark.parametrize("is_begun", [True, False])
def test_whether_it_was_begun_is_told(is_begun: bool) -> None:
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    with ours, theirs:
        wire.send_begun(ours, writing if is_begun else None)
        os.close(writing)
        arrived = wire.receive_begun(theirs)
        assert (arrived is not None) is is_begun
        if arrived is not None:
            wire.close_all([arrived])
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_who_says_nothing_has_not_said_that_nothing_was_begun() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        with pytest.raises(OSError, match="ended"):
            wire.receive_begun(theirs)
