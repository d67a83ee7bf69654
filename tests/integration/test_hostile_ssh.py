"""SSH servers of hostile guests: whatever they do or leave undone, patience and memory are not exceeded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from orchestrator.drivers.guest import NetworkGuest
from orchestrator.errors import ConnectionLost, GuestError, Interrupted, NeverReady
from orchestrator.ports.guest import GuestShell, Patience
from tests.support import hostile_ssh
from tests.support.hostile_ssh import Serve, Server, listening, make_key, paramiko_server

SECONDS = 1.5  # patience with a command
LATE = 1.5  # how much longer it may take on a busy machine
MOST_MEMORY = 64 * 2**20


def soon(seconds: float = SECONDS) -> Patience:
    return Patience(time.monotonic() + seconds, lambda: False)


@contextmanager
def bounded(seconds: float = SECONDS) -> Iterator[None]:
    """Neither later than that nor with much memory, at any moment of the block."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now's
    before, began = peak(), time.monotonic()
    yield
    assert time.monotonic() - began < seconds + LATE
    assert peak() - before < MOST_MEMORY


def peak() -> int:
    """Bytes of memory that this process had at the most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@pytest.fixture
def guest(tmp_path: Path) -> NetworkGuest:
    make_key(tmp_path / "operator")
    return NetworkGuest(tmp_path / "operator")


@contextmanager
def shell_of(kind: type[Server], guest: NetworkGuest, tmp_path: Path) -> Iterator[GuestShell]:
    public = make_key(tmp_path / "host")
    with listening(paramiko_server(kind, tmp_path / "host"), public) as where:
        shell = guest.open_shell(where, soon(30))
        try:
            yield shell
        finally:
            with bounded(0):
                shell.close()


def test_a_command_of_a_friendly_server(guest: NetworkGuest, tmp_path: Path) -> None:
    heard: list[bytes] = []
    with shell_of(Server, guest, tmp_path) as shell:
        shell.run("true", soon(30), heard.append)
        shell.run("true", soon(30))
    assert b"".join(heard) == b"hello\n"


@pytest.mark.parametrize(
    "kind",
    [
        hostile_ssh.OpensNoChannel,
        hostile_ssh.AnswersNoCommand,
        hostile_ssh.FloodsBeforeTheEnd,
        hostile_ssh.FloodsInPlaceOfAnAnswer,
        hostile_ssh.ReadsNothing,
        hostile_ssh.IsDeafDuringRekeying,
    ],
)
def test_a_command_ends_by_its_deadline(kind: type[Server], guest: NetworkGuest, tmp_path: Path) -> None:
    with shell_of(kind, guest, tmp_path) as shell:
        with bounded(), pytest.raises(GuestError):
            shell.run("true", soon())
        with bounded(1.0), pytest.raises((ConnectionLost, NeverReady)):  # nothing is left to wait for
            shell.run("true", soon(1.0))


@pytest.mark.parametrize("kind", [hostile_ssh.OpensNoChannel, hostile_ssh.AnswersNoCommand])
def test_a_command_that_is_not_wanted_any_more_ends_at_once(
    kind: type[Server], guest: NetworkGuest, tmp_path: Path
) -> None:
    cancelled = threading.Event()
    timer = threading.Timer(0.5, cancelled.set)
    with shell_of(kind, guest, tmp_path) as shell:
        timer.start()
        with bounded(0.5), pytest.raises(Interrupted):
            shell.run("true", Patience(time.monotonic() + 60, cancelled.is_set))
    timer.join()


def test_who_goes_on_talking_after_a_command_is_not_listened_to(guest: NetworkGuest, tmp_path: Path) -> None:
    heard = 0

    def listen(piece: bytes) -> None:
        nonlocal heard
        heard += len(piece)

    with shell_of(hostile_ssh.TalksOnAfterTheEnd, guest, tmp_path) as shell, bounded():
        shell.run("true", soon(60), listen)
    assert heard


def test_who_floods_after_a_command_holds_nobody(guest: NetworkGuest, tmp_path: Path) -> None:
    """The command has ended well; the flood may be noticed or be passed over."""
    with shell_of(hostile_ssh.FloodsAfterTheEnd, guest, tmp_path) as shell, bounded(), suppress(GuestError):
        shell.run("true", soon(60))


@pytest.mark.parametrize(
    "kind",
    [hostile_ssh.ReadsNothing, hostile_ssh.IsDeaf, hostile_ssh.FloodsBeforeTheEnd, hostile_ssh.OpensNoChannel],
)
def test_an_upload_ends_by_its_deadline(kind: type[Server], guest: NetworkGuest, tmp_path: Path) -> None:
    archive = tmp_path / "upload.tar"
    with archive.open("wb") as file:
        file.truncate(2**26)
    with shell_of(kind, guest, tmp_path) as shell, bounded(), pytest.raises(GuestError):
        shell.upload(archive, soon())


@pytest.mark.parametrize(
    "serve",
    [
        hostile_ssh.giant_banner,
        hostile_ssh.dripping_banner,
        hostile_ssh.giant_packet,
        hostile_ssh.no_key_exchange,
    ],
)
def test_a_login_ends_by_its_deadline(serve: Serve, guest: NetworkGuest, tmp_path: Path) -> None:
    threads = threading.active_count()
    with listening(serve, make_key(tmp_path / "host")) as where, bounded(), pytest.raises(GuestError):
        guest.open_shell(where, soon())
    assert threading.active_count() <= threads


def test_a_login_that_is_not_answered_ends_by_its_deadline(guest: NetworkGuest, tmp_path: Path) -> None:
    public = make_key(tmp_path / "host")
    serve = paramiko_server(hostile_ssh.LetsNobodyIn, tmp_path / "host")
    with listening(serve, public) as where, bounded(), pytest.raises(NeverReady, match="does not answer in time"):
        guest.open_shell(where, soon())


def test_a_server_without_an_end_to_its_banner_does_not_count_as_one(guest: NetworkGuest, tmp_path: Path) -> None:
    public = make_key(tmp_path / "host")
    with listening(hostile_ssh.giant_banner, public) as where, bounded(1.0), pytest.raises(NeverReady):
        guest.await_ssh(where, soon(1.0))
