"""The script by which a fork becomes who it is: as a file, and read by real shells."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.resources import template
from orchestrator.errors import SpecError
from orchestrator.render.fork_program import fork_values
from orchestrator.render.identity import (
    ForkProgram,
    ForkWords,
    escaped,
    render_dismissal,
    render_identity,
    render_source,
    without_comments,
)
from orchestrator.render.seed import GuestIdentity, render_seed
from tests.builders import NOW, make_spec
from tests.golden.golden import assert_golden
from tests.golden.test_seed import IDENTITY
from tests.support.installation import wait_until
from tests.unit.examples import some

ENTROPY = bytes(range(64))
SHELLS = [words for words in (["sh"], ["dash"], ["busybox", "sh"], ["bash", "--posix"]) if shutil.which(words[0])]
WORDS = ("instance", "name", "mac", "address", "machine_id", "boot_id", "entropy", "resolvers")
CONTENTS = ("host_key", "host_key_public", "meta_data", "user_data", "vendor_data", "network_config", "values")


PROGRAM = ForkProgram("main\n")


def words_of(
    program: ForkProgram = PROGRAM, identity: GuestIdentity = IDENTITY, user_data: bytes = b"#!/bin/sh\n"
) -> ForkWords:
    files = {**render_seed(make_spec(), identity), "user-data": user_data}
    return render_identity(program, identity, files, NOW + 0.6, ENTROPY)


def variables(words: ForkWords) -> str:
    """Without what is to be done with them."""
    return "".join(line for line in words.waiting.splitlines(keepends=True) if "=" in line)


def whole_program() -> ForkProgram:
    return ForkProgram(template("identity.sh"))


def read_back(script: str, shell: list[str]) -> dict[str, bytes]:
    """What a shell makes of each variable."""
    lines = [f"printf %s \"${name}\"; printf '\\000'" for name in WORDS]
    lines += [f"printf %b \"${name}\"; printf '\\001'" for name in CONTENTS]
    program = "set -u\n" + script + "\n".join(lines)
    done = subprocess.run(shell, input=program.encode(), capture_output=True, check=True, timeout=20)
    assert done.stderr == b""
    words = done.stdout.split(b"\0", len(WORDS))
    found = dict(zip(WORDS, words, strict=False))
    rest = words[-1]
    for name in CONTENTS[:-1]:
        found[name], _, rest = rest.partition(b"\1")
    found[CONTENTS[-1]] = rest.removesuffix(b"\1")
    return found


def test_it_is_rendered_like_its_golden_file() -> None:
    assert_golden("identity.sh", words_of().waiting)


def test_a_new_shell_is_given_the_program_as_well() -> None:
    words = words_of()
    assert (
        words.new
        == f"{PROGRAM.of(IDENTITY.network.address)}{variables(words)}prepare < /dev/null\nbecome < /dev/null\n"
    )


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_the_program_is_one_that_every_shell_can_read(shell: list[str]) -> None:
    program = whole_program()
    for script in (
        words_of(program).new,
        render_source(program, IDENTITY.network, waits=True),
        render_dismissal(),
    ):
        subprocess.run([*shell, "-n"], input=script.encode(), check=True, timeout=20)


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_without_its_comments_it_is_the_same_program(shell: list[str]) -> None:
    whole = template("identity.sh")
    bare = without_comments(whole)
    subprocess.run([*shell, "-n"], input=bare.encode(), check=True, timeout=20)
    lines = [line.strip() for line in whole.splitlines()]
    assert bare.splitlines() == [line for line in lines if line and line[0] != "#"]
    assert len(bare) < 0.8 * len(whole)


def test_program_and_renderer_name_the_same_files() -> None:
    lines = template("identity.sh").splitlines()
    for name, path in (("wake", PROGRAM.wake), ("said", PROGRAM.said)):
        assert f"{name}={path.removesuffix(PROGRAM.version)}$version" in lines
    assert PROGRAM.version in PROGRAM.of("192.0.2.1/24")
    assert 'echo exit 1<> "$pipe" && rm -f "$pipe"' in render_dismissal()


def test_another_program_has_other_files() -> None:
    others = (ForkProgram("main \n"), ForkProgram("main\n", b"another"))
    assert len({one.version for one in (PROGRAM, *others)}) == 3


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_program_has_no_known_fault() -> None:
    script = words_of(whole_program()).new
    done = subprocess.run(
        ["shellcheck", "-s", "dash", "-e", "SC2034,SC3013", "-"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_shell_reads_the_values_that_were_meant(shell: list[str]) -> None:
    found = read_back(variables(words_of()), shell)
    assert found["name"] == b"web-4tz9k"
    assert found["mac"] == b"52:54:00:aa:bb:cc"
    assert found["address"] == b"192.168.122.50/24"
    assert found["entropy"] == ENTROPY.hex().encode()
    assert found["values"] == fork_values(IDENTITY.network, round(NOW + 0.6))
    assert found["machine_id"] == IDENTITY.instance_id.replace("-", "").encode()
    assert found["host_key"] == IDENTITY.host_key_private.encode()
    assert found["meta_data"] == render_seed(make_spec(), IDENTITY)["meta-data"]


@some
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_content_breaks_out(content: bytes) -> None:
    content = content.replace(b"\0", b"").replace(b"\1", b"")
    hostile = content + b"'; touch /nowhere/at/all; $(false) `false` \\c \\0101 \"${HOME}\n"
    assert read_back(variables(words_of(user_data=hostile)), SHELLS[0])["user_data"] == hostile


def test_every_byte_can_be_said() -> None:
    every = bytes(range(256))
    for shell in SHELLS:
        program = f"printf %b '{escaped(every)}'"
        done = subprocess.run(shell, input=program.encode(), capture_output=True, check=True, timeout=20)
        assert done.stdout == every


@pytest.mark.parametrize(
    "identity",
    [
        replace(IDENTITY, name="web;reboot"),
        replace(IDENTITY, name="web/../x"),
        replace(IDENTITY, name="web\n"),
        replace(IDENTITY, instance_id="../../etc"),
        replace(IDENTITY, network=replace(IDENTITY.network, mac="52:54:00:aa:bb:cc/e reboot")),
        replace(IDENTITY, network=replace(IDENTITY.network, address="1.2.3.4; reboot")),
        replace(IDENTITY, network=replace(IDENTITY.network, gateway="$(reboot)")),
    ],
)
def test_what_is_no_identity_is_refused(identity: GuestIdentity) -> None:
    with pytest.raises(SpecError):
        words_of(identity=identity)


def test_its_values_are_the_only_difference_between_two_scripts() -> None:
    other = replace(IDENTITY, name="web-b2b2b", instance_id=IDENTITY.instance_id.replace("a", "b"))
    one, two = words_of().waiting.splitlines(), words_of(identity=other).waiting.splitlines()
    changed = {line.partition("=")[0] for line, mine in zip(one, two, strict=True) if line != mine}
    assert changed == {"instance", "name", "machine_id", "meta_data"}


# ---- the shell that waits ------------------------------------------------------------------------------------


class Guest:
    """Where the files of a guest would be. `become_anew` and `prepare` are the test's."""

    def __init__(self, root: Path, shell: list[str], become: str, prepare: str = "true") -> None:
        self._root = root
        self._shell = shell
        root.mkdir()
        functions = f"prepare() {{ {prepare}; }}\nbecome_anew() {{ {become}; }}\n"
        self.program = ForkProgram(f"{template('identity.sh')}{functions}")
        calls = Path(self.place(f"/etc/understudy.fork.{self.program.version}"))
        calls.write_text("#!/bin/sh\n")
        calls.chmod(0o700)

    def place(self, text: str) -> str:
        return text.replace("/run/understudy", f"{self._root}/run").replace("/etc/understudy", f"{self._root}/etc")

    def run(self, script: str, status: int = 0) -> str:
        """What it says. Ends at once, also for whoever reads that, though a shell waits on."""
        done = subprocess.run(
            self._shell, input=self.place(script), capture_output=True, text=True, check=False, timeout=20
        )
        assert (done.returncode, done.stdout) == (status, "")
        return done.stderr

    @property
    def wake(self) -> Path:
        return Path(self.place(self.program.wake))

    @property
    def what_is_said(self) -> Path:
        return Path(self.place(self.program.said))

    def speak(self, words: str) -> None:
        """Once somebody reads: a fork's controller, which cannot know, says it again."""
        pipe = -1

        def has_opened() -> bool:
            nonlocal pipe
            with contextlib.suppress(OSError):
                pipe = os.open(self.wake, os.O_WRONLY | os.O_NONBLOCK)
            return pipe >= 0

        wait_until(has_opened, 20, "a shell waits")
        os.write(pipe, self.place(words).encode())
        os.close(pipe)

    def said(self) -> str:
        return self.what_is_said.read_text()

    def await_end(self) -> str:
        wait_until(lambda: "ended" in self.said(), 20, "the waiting shell has ended")
        return self.said()

    def dismiss(self) -> None:
        self.run(render_dismissal())


@contextlib.contextmanager
def guest_of(root: Path, shell: list[str], become: str, prepare: str = "true") -> Iterator[Guest]:
    guest = Guest(root / "guest", shell, become, prepare)
    try:
        yield guest
    finally:
        guest.dismiss()


def source_of(guest: Guest) -> str:
    return render_source(guest.program, IDENTITY.network, waits=True)


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_shell_waits_and_is_woken(shell: list[str], tmp_path: Path) -> None:
    with guest_of(tmp_path, shell, 'echo "$name $(umask)" > "$source.name"') as guest:
        guest.run(source_of(guest))
        assert stat.S_ISFIFO(guest.wake.stat().st_mode)
        assert [stat.S_IMODE(path.stat().st_mode) for path in (guest.wake, guest.what_is_said)] == [0o600, 0o600]
        assert guest.said() == ""
        words = words_of(guest.program)
        guest.speak(words.waiting)
        assert guest.await_end() == f"woken\nended {words.instance_id} 0\n"
        assert Path(guest.place("/run/understudy.source.name")).read_text() == f"{IDENTITY.name} 0022\n"
        assert Path(guest.place("/run/understudy.source")).read_text() == f"{IDENTITY.network.address}\n"


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_words_that_come_twice_are_carried_out_once(shell: list[str], tmp_path: Path) -> None:
    with guest_of(tmp_path, shell, 'echo once >> "$source.times"') as guest:
        guest.run(source_of(guest))
        words = words_of(guest.program)
        guest.speak(words.waiting + words.waiting)
        assert guest.await_end() == f"woken\nended {words.instance_id} 0\n"
        assert Path(guest.place("/run/understudy.source.times")).read_text() == "once\n"


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_what_went_wrong_is_said_with_its_step(shell: list[str], tmp_path: Path) -> None:
    with guest_of(tmp_path, shell, 'step=find_card; fail "there is no card"') as guest:
        guest.run(source_of(guest))
        words = words_of(guest.program)
        guest.speak(words.waiting)
        assert guest.await_end() == f"woken\nthere is no card\nin find_card\nended {words.instance_id} 1\n"


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("what", ["nothing", "exit", "half"])
def test_only_who_has_become_somebody_ends_well(shell: list[str], what: str, tmp_path: Path) -> None:
    with guest_of(tmp_path, shell, "true") as guest:
        guest.run(source_of(guest))
        words = words_of(guest.program)
        half = words.waiting[: words.waiting.index("host_key=")]
        guest.speak({"nothing": "", "exit": "exit\n", "half": half}[what])
        named = f"woken\nin \nended {words.instance_id} 70\n"
        assert guest.await_end() == (named if what == "half" else "in \nended  70\n")


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_shell_that_waits_is_sent_away_and_leaves_no_word(shell: list[str], tmp_path: Path) -> None:
    with guest_of(tmp_path, shell, "true") as guest:
        guest.run(source_of(guest))
        with guest.what_is_said.open() as said:
            guest.dismiss()
            wait_until(lambda: "ended  70\n" in said.read(), 20, "it has ended")
        assert not guest.wake.exists()
        assert not guest.what_is_said.exists()
        guest.dismiss()


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_second_taking_has_one_shell_that_waits(shell: list[str], tmp_path: Path) -> None:
    with guest_of(tmp_path, shell, "true") as guest:
        guest.run(source_of(guest))
        with guest.what_is_said.open() as first:
            guest.run(source_of(guest))
            words = words_of(guest.program)
            guest.speak(words.waiting)
            assert guest.await_end() == f"woken\nended {words.instance_id} 0\n"
            wait_until(lambda: "ended  70\n" in first.read(), 20, "the first one has ended")


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_where_nothing_can_be_prepared_nobody_waits_and_nothing_is_said(shell: list[str], tmp_path: Path) -> None:
    with guest_of(tmp_path, shell, "true", prepare='fail "there is no card"') as guest:
        guest.what_is_said.write_text("ended  0\n")  # of an earlier taking
        assert guest.run(source_of(guest), status=1) == "there is no card\n"
        assert not guest.wake.exists()
        assert not guest.what_is_said.exists()


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_a_new_shell_does_nothing_to_who_has_become_itself(shell: list[str], tmp_path: Path) -> None:
    """Not even what the program file would take amiss: it may be running."""
    guest = Guest(tmp_path / "guest", shell, "fail anew")
    script = template("identity.sh")
    program = ForkProgram(f"{script}become_anew() {{ fail anew; }}\n")
    words = words_of(program)
    guest.run(f"echo {words.instance_id} > /run/understudy.fork\n{words.new}")
    assert not Path(guest.place(f"/etc/understudy.fork.{program.version}")).exists()
    assert guest.run(f"echo another > /run/understudy.fork\n{words.new}", status=1) != ""
