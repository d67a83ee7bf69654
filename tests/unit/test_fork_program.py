"""The program that makes a fork's system calls, run by the kernel that runs the tests."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.render import fork_program as module
from orchestrator.render.fork_program import fork_program, fork_values
from orchestrator.render.seed import GuestNetwork

NETWORK = GuestNetwork("52:54:00:aa:bb:cc", "192.0.2.5/26", "192.0.2.1")
SOURCE = Path(module.__file__).with_name("fork_program.S")
CLOCK, RANDOM, FILE, CARD, UNKNOWN = 1, 2, 4, 8, 64


@pytest.fixture
def program(tmp_path: Path) -> Path:
    if platform.machine() != "x86_64":
        pytest.skip("the program is for x86-64")
    file = tmp_path / "program"
    file.write_bytes(fork_program())
    file.chmod(0o700)
    file.with_name("values").write_bytes(fork_values(NETWORK, 1_700_000_000))
    return file


def run(program: Path, *words: str, stdin: str = "values", stdout: str = "/dev/null") -> int:
    """Its status; its directory is the current one."""
    with (program.parent / stdin).open("rb") as values, Path(stdout).open("wb") as out:
        return subprocess.run(
            [program, *words], stdin=values, stdout=out, cwd=program.parent, check=False, timeout=20
        ).returncode


@pytest.mark.skipif(shutil.which("as") is None or shutil.which("objcopy") is None, reason="no assembler")
def test_it_is_what_its_source_makes(tmp_path: Path) -> None:
    subprocess.run(["as", "--64", SOURCE, "-o", tmp_path / "program.o"], check=True, timeout=20)
    command = [
        "objcopy",
        "-O",
        "binary",
        "-j",
        ".text",
        str(tmp_path / "program.o"),
        str(tmp_path / "program.bin"),
    ]
    subprocess.run(command, check=True, timeout=20)
    assembled = (tmp_path / "program.bin").read_bytes()
    made = fork_program()
    assert made[-len(assembled) :] == assembled
    assert len(made) == len(assembled) + 64 + 56


@pytest.mark.parametrize("there_are", [0, 100, 183])
def test_without_its_values_it_sets_neither_clock_nor_card(program: Path, there_are: int) -> None:
    values = program.with_name("values")
    values.write_bytes(values.read_bytes()[:there_are])
    (program.parent / "file").touch()
    assert run(program, "t", "c", "lo", "r", "file") == CLOCK | CARD
    assert not (program.parent / "file").exists()


def test_without_anything_to_do_it_does_nothing(program: Path) -> None:
    assert run(program) == 0


def test_the_kernel_knows_the_request_to_reseed(program: Path) -> None:
    status = run(program, "g", stdout="/dev/urandom")
    assert status == 0 if os.geteuid() == 0 else status in (0, RANDOM)


def test_anything_but_the_random_device_is_an_error(program: Path, tmp_path: Path) -> None:
    assert run(program, "g", stdout=str(tmp_path / "file")) == RANDOM


def test_a_directory_is_made_once(program: Path, tmp_path: Path) -> None:
    assert run(program, "d", "new", "d", "new", "d", "new/below") == 0
    assert (tmp_path / "new" / "below").is_dir()
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o755


def test_files_are_renamed_removed_and_linked(program: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "file").write_text("to be removed")
    words = ["m", "old", "new", "r", "file", "r", "nowhere", "l", "new", "link", "l", "new", "second", "s"]
    assert run(program, *words) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"program", "values", "new", "link", "second"}
    assert (tmp_path / "link").readlink() == (tmp_path / "second").readlink() == Path("new")


def test_random_bytes_go_into_a_file_that_is_there(program: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(bytes(2000))
    two.touch()
    assert run(program, "f", str(one), "f", str(tmp_path / "none"), "f", str(two)) == 0
    assert len(one.read_bytes()) == len(two.read_bytes()) == 512
    assert one.read_bytes() != two.read_bytes()
    assert one.read_bytes()[-64:] != bytes(64)
    assert not (tmp_path / "none").exists()


def test_what_failed_is_told_and_the_rest_is_done(program: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run(program, "m", str(tmp_path / "none"), str(tmp_path / "other"), "r", str(tmp_path / "file")) == FILE
    assert not (tmp_path / "file").exists()
    assert run(program, "l", "somewhere", str(tmp_path / "none" / "link")) == FILE
    assert run(program, "c", "no-such-card-at-all") == CARD
    assert run(program, "m", "a", "b", "c", "no-such-card") == FILE | CARD


def test_a_letter_that_it_does_not_know_ends_it(program: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert run(program, "x", "r", str(tmp_path / "file")) == UNKNOWN
    assert (tmp_path / "file").exists()


def in_namespace(program: Path, command: str) -> str:
    """What a shell prints in a network of its own, with a card `fork0`."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs root, unshare and ip")
    script = f"ip link add fork0 type veth peer name fork1 && ip link set fork0 up || exit 77\n{command}\n"
    done = subprocess.run(
        [
            "unshare",
            "--net",
            "sh",
            "-c",
            script.replace("PROGRAM", str(program)).replace("VALUES", str(program.with_name("values"))),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    if done.returncode == 77:
        pytest.skip("no network namespaces, or no pairs of cards")
    return done.stdout


def test_a_card_gets_its_addresses_and_route_and_may_get_them_again(program: Path) -> None:
    shown = in_namespace(
        program,
        "ip addr add 192.0.2.9/24 dev fork0; "
        "PROGRAM c fork0 < VALUES; echo $?; PROGRAM c fork0 < VALUES; echo $?; "
        "ip -o link show dev fork0; ip -o -4 addr show dev fork0; ip route",
    )
    lines = shown.splitlines()
    assert lines[:2] == ["0", "0"]
    assert f"link/ether {NETWORK.mac} " in lines[2]
    assert [line.split()[3] for line in lines if " inet " in line] == [NETWORK.address]
    assert any(line.startswith("default via 192.0.2.1 dev fork0") for line in lines)
    assert any(line.startswith("192.0.2.0/26 dev fork0") for line in lines)


def test_without_a_gateway_there_is_no_route(program: Path) -> None:
    network = GuestNetwork(NETWORK.mac, NETWORK.address)
    program.with_name("values").write_bytes(fork_values(network, 0))
    assert "default" not in in_namespace(program, "PROGRAM c fork0 < VALUES && ip route")


def test_it_is_small_enough_to_be_said() -> None:
    assert len(fork_program()) < 1100


def test_without_the_right_to_it_the_clock_stays(program: Path) -> None:
    if os.geteuid() == 0:
        words = ["setpriv", "--reuid=65534", "--bounding-set=-all"]
        if shutil.which("setpriv") is None:
            pytest.skip("needs setpriv")
    else:
        words = []
    program.chmod(0o755)
    reachable = Path("/var/tmp") / f"understudy-program-{os.getpid()}"
    shutil.copy(program, reachable)
    try:
        with program.with_name("values").open("rb") as values:
            done = subprocess.run([*words, reachable, "t"], stdin=values, check=False, timeout=20)
    finally:
        reachable.unlink()
    assert done.returncode == CLOCK
