"""What consoles have shown, as files that guests fill."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from orchestrator.drivers.libvirt.console_logs import ConsoleLogs
from orchestrator.errors import HostError
from tests.support.installation import wait_until

HERE = "qemu:///system"
ELSEWHERE = "qemu+ssh://root@b.example/system"
DOMAIN = "us-web-4tz9k"


@pytest.fixture
def logs(tmp_path: Path) -> ConsoleLogs:
    return ConsoleLogs(HERE, tmp_path)


def test_a_log_is_new_and_its_owner_s_only(logs: ConsoleLogs, tmp_path: Path) -> None:
    path = Path(logs.make(DOMAIN, 1))
    assert path == tmp_path / "consoles" / f"{DOMAIN}.1.console.log"
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path.parent, path)] == [0o700, 0o600]
    path.write_bytes(b"an earlier try")
    path.with_name(f"{path.name}.0").write_bytes(b"rolled over")
    assert logs.make(DOMAIN, 1) == str(path)
    assert (path.read_bytes(), list(logs.list_paths())) == (b"", [path.name])


def test_its_end_is_read_and_no_more(logs: ConsoleLogs) -> None:
    assert logs.tail(DOMAIN, 1, 100) == b""
    path = Path(logs.make(DOMAIN, 1))
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(10_000)))
    assert logs.tail(DOMAIN, 1, 10) == b"\nline 9999\n"[1:]
    assert logs.tail(DOMAIN, 2, 10) == b""


def test_nothing_but_a_regular_file_is_read(logs: ConsoleLogs, tmp_path: Path) -> None:
    path = Path(logs.make(DOMAIN, 1))
    secret = tmp_path / "secret"
    secret.write_bytes(b"of the host")
    path.unlink()
    path.symlink_to(secret)
    assert logs.tail(DOMAIN, 1, 100) == b""
    path.unlink()
    os.mkfifo(path)
    assert logs.tail(DOMAIN, 1, 100) == b""
    path.unlink()
    path.mkdir()
    assert logs.tail(DOMAIN, 1, 100) == b""


def test_a_directory_that_is_a_link_is_not_followed(logs: ConsoleLogs, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / f"{DOMAIN}.1.console.log").write_bytes(b"of the host")
    (tmp_path / "consoles").symlink_to(theirs)
    assert (logs.tail(DOMAIN, 1, 100), logs.list_paths()) == (b"", {})
    with pytest.raises(HostError, match="cannot make"):
        logs.make(DOMAIN, 1)
    assert (theirs / f"{DOMAIN}.1.console.log").read_bytes() == b"of the host"


def test_with_a_machine_all_its_logs_go_and_no_other_machine_s(logs: ConsoleLogs, tmp_path: Path) -> None:
    others = [Path(logs.make(name, 1)) for name in (f"{DOMAIN}0", "other-web-4tz9k")]
    path = Path(logs.make(DOMAIN, 2))
    for ending in ("", ".0", ".1"):
        path.with_name(f"{DOMAIN}.1.console.log{ending}").write_bytes(b"words")
    for _ in range(2):
        logs.remove_all_of(DOMAIN)
        assert sorted(logs.list_paths()) == sorted(one.name for one in others)
    for one in others:
        logs.remove(one.name)
        logs.remove(one.name)
    assert list(tmp_path.iterdir()) == []


def test_a_host_elsewhere_has_none_and_says_so(tmp_path: Path) -> None:
    here, elsewhere = ConsoleLogs(HERE, tmp_path), ConsoleLogs(ELSEWHERE, tmp_path)
    path = Path(here.make(DOMAIN, 1))
    path.write_bytes(b"what a file of this machine holds")
    assert elsewhere.make(DOMAIN, 2) == ""
    assert (elsewhere.tail(DOMAIN, 1, 100), elsewhere.list_paths()) == (b"", {})
    elsewhere.remove_all_of(DOMAIN)
    assert path.exists()
    assert here.why_none() == ""
    assert "is another machine" in elsewhere.why_none()


def test_a_pool_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="there is no such directory"):
        ConsoleLogs(HERE, tmp_path / "gone").make(DOMAIN, 1)


def test_logs_are_made_while_others_take_the_last_one_away(logs: ConsoleLogs) -> None:
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            logs.make("us-web-00001", 1)
            logs.remove_all_of("us-web-00001")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(200):
            assert Path(logs.make(DOMAIN, 1)).exists()
            logs.remove_all_of(DOMAIN)
    finally:
        over.set()
        other.join()
    wait_until(lambda: logs.list_paths() == {}, 1, "all are gone")
