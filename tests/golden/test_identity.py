"""The script by which a fork becomes who it is: as a file, and read by real shells."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.resources import template
from orchestrator.errors import SpecError
from orchestrator.render.fork_program import fork_program
from orchestrator.render.identity import escaped, render_identity, render_source, without_comments
from orchestrator.render.seed import GuestIdentity, render_seed
from tests.builders import NOW, make_spec
from tests.golden.golden import assert_golden
from tests.golden.test_seed import IDENTITY
from tests.unit.examples import some

ENTROPY = bytes(range(64))
SHELLS = [words for words in (["sh"], ["dash"], ["busybox", "sh"], ["bash", "--posix"]) if shutil.which(words[0])]
WORDS = ("instance", "name", "mac", "address", "machine_id", "boot_id", "entropy", "resolvers")
CONTENTS = ("host_key", "host_key_public", "meta_data", "user_data", "vendor_data", "network_config", "calls")


def rendered(
    program: str = "main\n", identity: GuestIdentity = IDENTITY, user_data: bytes = b"#!/bin/sh\n"
) -> str:
    files = {**render_seed(make_spec(), identity), "user-data": user_data}
    return render_identity(program, identity, files, NOW + 0.6, ENTROPY)


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
    assert_golden("identity.sh", rendered("# The program follows.\n"))


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_the_program_is_one_that_every_shell_can_read(shell: list[str]) -> None:
    script = rendered(template("identity.sh"))
    subprocess.run([*shell, "-n"], input=script.encode(), check=True, timeout=20)


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_without_its_comments_it_is_the_same_program(shell: list[str]) -> None:
    whole = template("identity.sh")
    bare = without_comments(whole)
    subprocess.run([*shell, "-n"], input=bare.encode(), check=True, timeout=20)
    lines = [line.strip() for line in whole.splitlines()]
    assert bare.splitlines() == [line for line in lines if line and line[0] != "#"]
    assert len(bare) < 0.8 * len(whole)


def test_the_source_is_told_its_address_under_the_names_that_a_fork_looks_for() -> None:
    script, program = render_source(IDENTITY.network), template("identity.sh").splitlines()
    assert script.startswith(f"echo {IDENTITY.network.address} > ")
    for name in ("source", "program"):
        (path,) = [line.removeprefix(f"{name}=") for line in program if line.startswith(f"{name}=/")]
        assert f"> {path};" in script
    assert script.endswith("; sync")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_program_has_no_known_fault() -> None:
    script = rendered(template("identity.sh"))
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
    found = read_back(rendered(""), shell)
    assert found["name"] == b"web-4tz9k"
    assert found["mac"] == b"52:54:00:aa:bb:cc"
    assert found["address"] == b"192.168.122.50/24"
    assert found["entropy"] == ENTROPY.hex().encode()
    assert found["calls"] == fork_program(IDENTITY.network, round(NOW + 0.6))
    assert found["machine_id"] == IDENTITY.instance_id.replace("-", "").encode()
    assert found["host_key"] == IDENTITY.host_key_private.encode()
    assert found["meta_data"] == render_seed(make_spec(), IDENTITY)["meta-data"]


@some
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_content_breaks_out(content: bytes) -> None:
    content = content.replace(b"\0", b"").replace(b"\1", b"")
    hostile = content + b"'; touch /nowhere/at/all; $(false) `false` \\c \\0101 \"${HOME}\n"
    assert read_back(rendered("", user_data=hostile), SHELLS[0])["user_data"] == hostile


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
        rendered(identity=identity)


def test_its_values_are_the_only_difference_between_two_scripts() -> None:
    other = replace(IDENTITY, name="web-b2b2b", instance_id=IDENTITY.instance_id.replace("a", "b"))
    one, two = rendered().splitlines(), rendered(identity=other).splitlines()
    changed = {line.partition("=")[0] for line, mine in zip(one, two, strict=True) if line != mine}
    assert changed == {"instance", "name", "machine_id", "meta_data"}
