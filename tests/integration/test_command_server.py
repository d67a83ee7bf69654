"""Commands that another process runs: nobody who types them can tell, whatever happens to either process."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.command_server import wire
from orchestrator.command_server.likeness import likeness
from orchestrator.daemon.loaded_commands import LoadedCommands
from tests.support.installation import wait_until

SECONDS = 30.0
ROOT = Path(__file__).resolve().parents[2]
# Writes into a file whether the command line was loaded here: then the command was run here.
SCRIPT = """
import sys
from pathlib import Path
from orchestrator.__main__ import main
try:
    main()
finally:
    Path({mark!r}).write_text("here" if "typer" in sys.modules else "there")
"""


@dataclass
class Site:
    """A state directory of an installation on libvirt's test driver, and who runs commands for it."""

    root: Path
    aside: Path

    @property
    def sockets(self) -> Path:
        return self.root / "private" / "commands"

    def command(self, *arguments: str) -> list[str]:
        script = SCRIPT.format(mark=str(self.aside / "mark"))
        return [sys.executable, "-c", script, "--state-dir", str(self.root), *arguments]

    def run(self, *arguments: str, **settings: Any) -> tuple[str, int, str, str]:
        """(where it ran, exit status, output, errors)."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=SECONDS, check=False, **settings
        )
        return self.where(), done.returncode, done.stdout, done.stderr

    def start(self, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        """Hears SIGHUP, whoever runs the tests and with `nohup` or not."""
        settings.setdefault("preexec_fn", hear_hup)
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
        )

    def where(self) -> str:
        mark = self.aside / "mark"
        said = mark.read_text(encoding="utf-8") if mark.exists() else "nowhere"
        mark.unlink(missing_ok=True)
        return said


@pytest.fixture
def site(tmp_path: Path) -> Site:
    root = tmp_path / "state"
    root.mkdir()
    (root / "config.toml").write_text('[[hosts]]\nuri = "test:///default"\n', encoding="utf-8")
    return Site(root, tmp_path)


@contextlib.contextmanager
def serving(site: Site, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command server that listens; it must end by itself when its standard input does."""
    before = set(site.sockets.glob("*.sock"))
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.command_server", str(site.sockets)], stdin=subprocess.PIPE, **settings
    )
    assert process.stdin is not None
    try:
        wait_until(lambda: set(site.sockets.glob("*.sock")) - before, SECONDS, "it listens")
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
        process.stdin.close()
        process.wait(timeout=SECONDS)


def workers(server: subprocess.Popen[bytes]) -> list[int]:
    """Processes forked for commands."""
    text = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="utf-8")
    return [int(word) for word in text.split()]


@contextlib.contextmanager
def following(site: Site, server: subprocess.Popen[bytes], **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on until it is ended, once it runs at the server and hears signals."""
    process = site.start("events", "--follow", **settings)
    try:
        wait_until(lambda: workers(server), SECONDS, "it was begun")
        (pid,) = workers(server)
        wait_until(lambda: hears(pid, signal.SIGINT) and hears(process.pid, signal.SIGINT), SECONDS, "it listens")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=SECONDS)


def hears(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "--json"),
        ("events",),
        ("cost",),
        ("scale", "nope", "1"),
        ("scale", "nope", "-1"),
        ("scale",),
        ("scale", "--help"),
        ("apply", "wrong.yaml"),
        ("apply", "absent.yaml"),
        ("delete", "nope"),
        ("restart", "nope/web-1", "--timeout", "fast"),
        ("-v", "pool", "nope"),
    ],
)
def test_it_says_the_same_and_ends_the_same(site: Site, arguments: tuple[str, ...]) -> None:
    elsewhere = site.aside / "folder"
    elsewhere.mkdir()
    (elsewhere / "wrong.yaml").write_text("x: 1\n", encoding="utf-8")  # found only from there
    environment = {**os.environ, "COLUMNS": "60"}
    here = site.run(*arguments, cwd=elsewhere, env=environment)
    with serving(site):
        there = site.run(*arguments, cwd=elsewhere, env=environment)
    assert (here[0], there[0]) == ("here", "there")
    assert there[1:] == here[1:]


def test_nothing_more_has_to_be_loaded_in_its_process() -> None:
    script = """
import sys
from orchestrator.command_server.server import load
load()
before = set(sys.modules)
from orchestrator.cli.catalog import load_command
from orchestrator.command_server.invocation import SERVED
for name in SERVED:
    load_command(name)
import orchestrator.cli.main
print(*(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if not name.startswith("typer.")]


def test_what_was_typed_into_it_and_how_it_may_write_are_its_own(site: Site) -> None:
    """Standard input, environment and file mode creation mask."""
    spec = site.aside / "web.yaml"
    spec.write_text("x: 1\n", encoding="utf-8")
    with serving(site):
        with spec.open(encoding="utf-8") as file:
            ran, status, _, errors = site.run("apply", "/dev/stdin", stdin=file)
        assert (ran, status) == ("there", 2)
        assert "unknown key 'x'" in errors

        # Below another home, which only this invocation knows.
        command = [word for word in site.command("status") if word not in ("--state-dir", str(site.root))]
        environment = {**os.environ, "UNDERSTUDY_STATE_DIR": str(site.root)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert (site.where(), done.stderr) == ("there", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_command(site: Site, number: signal.Signals) -> None:
    with serving(site) as server, following(site, server) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        assert errors.startswith("understudy: interrupted")
        assert site.where() == "there"


def test_a_signal_that_ends_the_command_ends_who_typed_it(site: Site) -> None:
    with serving(site) as server, following(site, server) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=SECONDS)
        assert process.returncode == -signal.SIGHUP


def test_one_that_was_killed_takes_its_command_with_it(site: Site) -> None:
    with serving(site) as server:
        with following(site, server) as process:
            process.kill()
        wait_until(lambda: not workers(server), SECONDS, "its command has ended")


def test_a_command_that_was_killed_is_told(site: Site) -> None:
    with serving(site) as server, following(site, server) as process:
        os.kill(workers(server)[0], signal.SIGKILL)
        process.communicate(timeout=SECONDS)
        assert process.returncode == -signal.SIGKILL


def test_a_server_that_was_killed_under_a_command_is_told(site: Site) -> None:
    with serving(site) as server, following(site, server) as process:
        (pid,) = workers(server)
        server.kill()
        assert process.wait(timeout=SECONDS) == 1
        os.kill(pid, signal.SIGTERM)  # it goes on by itself
        _, errors = process.communicate(timeout=SECONDS)
        assert "cannot be followed any longer\n  (" in errors


def test_commands_that_run_when_its_owner_ends_go_on(site: Site) -> None:
    with serving(site) as server, following(site, server) as process:
        assert server.stdin is not None
        server.stdin.close()
        wait_until(lambda: not list(site.sockets.iterdir()), SECONDS, "it listens no more")
        assert site.run("status")[:2] == ("here", 0)
        assert workers(server)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        assert server.wait(timeout=SECONDS) == 0


def test_ten_at_once_each_get_their_own_answer(site: Site) -> None:
    with serving(site), ThreadPoolExecutor(10) as pool:
        many = [pool.submit(site.run, "scale", f"set-{number}", "1") for number in range(10)]
        for number, one in enumerate(many):
            _, status, output, errors = one.result()
            assert (status, output) == (2, "")
            assert f"'set-{number}'" in errors


def test_a_command_has_nothing_open_that_is_not_its_own(site: Site) -> None:
    with serving(site) as server, following(site, server):
        (pid,) = workers(server)
        opened = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if int(entry.name) > 2]
        assert not [name for name in opened if name.startswith("socket:") or "pidfd" in name]


# ---- when it runs where it was typed -------------------------------------------------------------------------


def test_a_dead_servers_socket_is_passed_over_and_taken_away_by_the_next(site: Site) -> None:
    with serving(site) as server:
        server.kill()
        server.wait()
    (dead,) = site.sockets.iterdir()
    assert site.run("status")[:2] == ("here", 0)
    with serving(site):
        assert not dead.exists()
        assert site.run("status")[:2] == ("there", 0)
    assert not list(site.sockets.iterdir())


def test_a_server_that_hangs_is_not_waited_for(site: Site) -> None:
    with serving(site) as server:
        server.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert site.run("status")[:2] == ("here", 0)
        assert time.monotonic() - began < 10
        server.send_signal(signal.SIGCONT)
        # What was offered to it and taken back was not begun.
        assert site.run("status")[:2] == ("there", 0)
        assert not workers(server)


def test_two_servers_and_one_of_them_hangs(site: Site) -> None:
    with serving(site) as one, serving(site) as other:
        for hanging in (one, other):
            hanging.send_signal(signal.SIGSTOP)
            assert site.run("status")[:2] == ("there", 0)
            hanging.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("change", [{"PYTHONHASHSEED": "1"}, {"PYTHONDEVMODE": "1"}, {"": "x"}])
def test_another_interpreter_runs_it_itself(site: Site, change: dict[str, str]) -> None:
    with serving(site):
        assert site.run("status", env={**os.environ, **change})[:2] == ("here", 0)


def test_a_program_that_was_changed_since_runs_it_itself(site: Site) -> None:
    copied = site.aside / "program"
    for name in ("orchestrator", "templates", "images"):
        shutil.copytree(ROOT / name, copied / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "PYTHONPATH": str(copied)}
    with serving(site, env=environment, cwd=copied):
        assert site.run("status", env=environment, cwd=copied)[:2] == ("there", 0)
        rolled_back = copied / "orchestrator" / "service" / "status.py"
        os.utime(rolled_back, ns=(1, 1))
        assert site.run("status", env=environment, cwd=copied)[:2] == ("here", 0)


def test_what_another_process_does_not_have_stays_here(site: Site) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x: 1\n")
    os.close(writing)
    with serving(site):
        ran, status, _, errors = site.run("apply", f"/dev/fd/{reading}", pass_fds=[reading])
        assert (ran, status) == ("here", 2)
        assert "unknown key 'x'" in errors

        closed = [*site.command("status")]
        subprocess.run(["sh", "-c", '"$@" >&-', "sh", *closed], timeout=SECONDS, check=False)
        assert site.where() == "here"
    os.close(reading)


def test_nobody_but_its_user_is_served(site: Site) -> None:
    """Were the socket within another's reach: the kernel says who asks."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    with serving(site), contextlib.ExitStack() as at_end:
        (path,) = site.sockets.iterdir()
        assert path.parent.stat().st_mode & 0o777 == 0o700
        asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with asking:
            os.seteuid(65534)
            try:
                with pytest.raises(PermissionError):
                    asking.connect(str(path))
                os.seteuid(0)
                for folder in path.parents:
                    if not folder.stat().st_mode & 0o001:
                        at_end.callback(folder.chmod, folder.stat().st_mode)
                        folder.chmod(folder.stat().st_mode | 0o111)
                path.chmod(0o666)
                like = likeness()  # it claims to be root
                os.seteuid(65534)
                asking.connect(str(path))
            finally:
                os.seteuid(0)
            asking.settimeout(SECONDS)
            request = {"likeness": like, "argv": [], "environment": {}, "umask": 0, "streams": []}
            wire.send(asking, request)
            assert wire.receive(asking) == {"ready": False}


def test_a_client_without_the_servers_rights_runs_it_itself(site: Site) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has rights to give up")
    with serving(site):
        command = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *site.command("status")]
        subprocess.run(command, timeout=SECONDS, check=True, capture_output=True)
        assert site.where() == "here"


def test_somebody_elses_server_is_told_nothing(site: Site) -> None:
    """In a state directory that is another user's: who runs a command there does not hand it to that user."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    site.sockets.mkdir(parents=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listening:
        listening.bind(str(site.sockets / "1.sock"))
        os.seteuid(65534)
        try:
            listening.listen(8)  # whoever listens is who is at the other end
        finally:
            os.seteuid(0)
        assert site.run("status")[:2] == ("here", 0)
        listening.settimeout(SECONDS)
        connection, _ = listening.accept()
        with connection:
            assert connection.recv(1) == b""


def test_a_server_that_can_begin_nothing_more_says_so(site: Site) -> None:
    """Without descriptors to give: also what it has agreed to already is run where it was typed."""
    with serving(site) as server:
        before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        opened = len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
        for more in range(1, 8):  # from the client's connection to the last of its standard streams
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (opened + more, before[1]))
            _, status, output, errors = site.run("status")
            assert (status, errors) == (0, "")
            assert output
            assert server.poll() is None
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
        assert site.run("status")[:2] == ("there", 0)


def test_what_whoever_started_the_server_ignores_the_command_does_not(site: Site) -> None:
    def ignore() -> None:
        for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)

    with serving(site, preexec_fn=ignore) as server:
        assert site.run("status")[:2] == ("there", 0)
        with following(site, server) as process:
            process.send_signal(signal.SIGHUP)
            process.wait(timeout=SECONDS)
            assert process.returncode == -signal.SIGHUP


def test_what_a_client_ignores_its_command_ignores(site: Site) -> None:
    with serving(site) as server, following(site, server, preexec_fn=ignore_hup) as process:
        process.send_signal(signal.SIGHUP)
        (pid,) = workers(server)
        os.kill(pid, signal.SIGHUP)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 130


def hear_hup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ignore_hup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_command_whose_server_hangs_can_be_interrupted(site: Site) -> None:
    with serving(site) as server, following(site, server) as process:
        server.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == -signal.SIGINT


def test_garbage_hurts_nobody(site: Site) -> None:
    with serving(site) as server:
        (path,) = site.sockets.iterdir()
        for said in (
            b"",
            b"GET / HTTP/1.0\r\n\r\n",
            struct.pack("!I", 5) + b"[1,2]",
            struct.pack("!I", 200_000) + b"[" * 200_000,
            os.urandom(5000),
        ):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
                asking.connect(str(path))
                with contextlib.suppress(BrokenPipeError):
                    asking.sendall(said)
        assert site.run("status")[:2] == ("there", 0)
        assert server.poll() is None


# ---- beside a controller -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_comes_and_goes_with_a_controller(site: Site, number: signal.Signals) -> None:
    controller = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "--state-dir", str(site.root), "serve"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: list(site.sockets.glob("*.sock")), SECONDS, "it listens")
        (path,) = site.sockets.iterdir()
        assert site.run("status")[:2] == ("there", 0)
        controller.send_signal(number)
        controller.wait(timeout=SECONDS)
        wait_until(lambda: not path.exists(), SECONDS, "it has gone")
        wait_until(lambda: not Path(f"/proc/{path.stem}").exists(), SECONDS, "so has its process")
        assert site.run("status")[:2] == ("here", 0)
    finally:
        if controller.poll() is None:
            controller.kill()
        controller.wait(timeout=SECONDS)


@pytest.mark.parametrize(("pause", "is_replaced"), [(0.0, True), (1000.0, False)])
def test_one_that_died_is_replaced_after_a_pause(
    site: Site, caplog: pytest.LogCaptureFixture, pause: float, is_replaced: bool
) -> None:
    commands = LoadedCommands(site.sockets, pause)
    try:
        commands.ensure()
        wait_until(lambda: list(site.sockets.glob("*.sock")), SECONDS, "it listens")
        (path,) = site.sockets.glob("*.sock")
        commands.ensure()  # it runs: nothing is done
        os.kill(int(path.stem), signal.SIGKILL)
        wait_until(lambda: is_dead(path.stem), SECONDS, "it is dead")
        commands.ensure()
        if is_replaced:
            wait_until(lambda: not path.exists(), SECONDS, "another one has taken its place")
            wait_until(lambda: list(site.sockets.glob("*.sock")), SECONDS, "and listens")
            assert site.run("status")[:2] == ("there", 0)
            assert "the command server has ended (status -9)" in caplog.text
        else:
            assert list(site.sockets.glob("*.sock")) == [path]
    finally:
        commands.close(SECONDS)


def is_dead(pid: str) -> bool:
    """Gone, or waited for by its parent."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return True


def test_a_directory_that_cannot_be_used_costs_nothing_but_the_speed(site: Site) -> None:
    site.sockets.parent.mkdir(mode=0o700)
    site.sockets.write_text("in the way", encoding="utf-8")
    assert site.run("status")[:2] == ("here", 0)
    assert json.loads(site.run("status", "--json")[2]) is not None


def test_a_controllers_end_waits_for_no_command(site: Site) -> None:
    errors = site.aside / "log"
    with errors.open("wb") as log:
        controller = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "--state-dir", str(site.root), "serve"], stdout=log, stderr=log
        )
    try:
        wait_until(lambda: list(site.sockets.glob("*.sock")), SECONDS, "it listens")
        (path,) = site.sockets.glob("*.sock")
        process = site.start("events", "--follow")
        children = Path(f"/proc/{path.stem}/task/{path.stem}/children")
        wait_until(lambda: children.read_text(encoding="utf-8"), SECONDS, "it was begun")
        began = time.monotonic()
        controller.terminate()
        controller.wait(timeout=SECONDS)
        assert time.monotonic() - began < 10
        assert process.poll() is None
        assert str(Path(f"/proc/{path.stem}/fd/2").readlink()) == os.devnull
    finally:
        for one in (controller, process):
            if one.poll() is None:
                one.terminate()
        controller.wait(timeout=SECONDS)
        process.communicate(timeout=SECONDS)
    wait_until(lambda: not Path(f"/proc/{path.stem}").exists(), SECONDS, "it ends with its last command")
