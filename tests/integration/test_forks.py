"""Golden images and forks on real libvirt with micro guests: what no fake can tell."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from orchestrator.errors import Conflict, GoldenUnusable
from orchestrator.models.machine import Blueprint
from orchestrator.models.naming import golden_disk, golden_mark, golden_memory
from orchestrator.models.sightings import Power
from orchestrator.render.domain import QEMU_NS
from tests.support.fork_lab import MODEL, LibvirtLab, describe_machine, libvirt_lab
from tests.support.installation import wait_until
from tests.support.private_host import PrivateHost, private_host

KILLED_AFTER = (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.7, None)  # seconds; None: once it is done


@pytest.fixture
def lab() -> Iterator[LibvirtLab]:
    with libvirt_lab() as made:
        yield made


def boot(lab: LibvirtLab, suffix: str, network: str = "") -> Blueprint:
    made = describe_machine(lab.prefix, lab.installation, lab.image, suffix, network=network)
    if network:
        lab.hypervisor.create_machine(made, None)
        lab.await_guest(made.domain)
    else:
        lab.have_guest(made)
    return made


def fork(lab: LibvirtLab, suffix: str, network: str = "") -> Blueprint:
    made = describe_machine(lab.prefix, lab.installation, lab.image, suffix, network=network)
    lab.hypervisor.fork_machine(made)
    lab.await_guest(made.domain)
    return made


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def traits(lab: LibvirtLab, domain: str) -> list[str]:
    """All that two machines must not share, as QEMU was started with it and as libvirt tells it."""
    root = lab.domain(domain)
    found = [root.findtext("name"), root.findtext("uuid"), root.findtext("genid")]
    found += [disk.get("file") for disk in root.findall("./devices/disk/source")]
    found += [log.get("file") for log in root.findall("./devices/serial/log")]
    found += [source.get("path") for source in root.findall("./devices/channel/source")]
    found += [
        one.get("value")
        for one in root.findall(f"./{{{QEMU_NS}}}commandline/{{{QEMU_NS}}}arg")
        if "=" in str(one.get("value"))
    ]
    request = json.dumps({"execute": "query-vm-generation-id"})
    answer = libvirt_qemu.qemuMonitorCommand(lab.connection.get().lookupByName(domain), request, 0)
    assert json.loads(answer)["return"]["guid"] == root.findtext("genid")
    return [str(one) for one in found]


def test_forks_share_nothing_that_tells_them_apart_and_never_write_what_they_share(lab: LibvirtLab) -> None:
    source = boot(lab, "s0urc")
    lab.hypervisor.take_golden(source.domain, 1, MODEL)
    disk, memory, mark = (
        lab.pool / name(lab.prefix, MODEL, 1) for name in (golden_disk, golden_memory, golden_mark)
    )
    before = [sha256(path) for path in (disk, memory, mark)]
    assert [oct(path.stat().st_mode & 0o777) for path in (disk, memory, mark)] == ["0o440", "0o400", "0o400"]
    forks = [fork(lab, "f0rk1"), fork(lab, "f0rk2")]
    told = [traits(lab, one.domain) for one in (source, *forks)]
    assert len({len(one) for one in told}) == 1
    assert all(len(set(same)) == 3 for same in zip(*told, strict=True)), told
    for made in forks:
        lab.write(made.domain, made.member)
        lab.hypervisor.set_link(made.domain, True)
        lab.hypervisor.hibernate_machine(made.domain)
        lab.hypervisor.start_machine(made.domain)
        assert lab.read(made.domain) == made.member
    lab.write(source.domain, "source")
    lab.kill(forks[0].domain)
    lab.kill(source.domain)
    lab.hypervisor.start_machine(source.domain)
    lab.await_guest(source.domain)
    assert [sha256(path) for path in (disk, memory, mark)] == before
    assert (disk.stat().st_uid, memory.stat().st_uid) == (os.geteuid(), os.geteuid())


def test_another_process_finds_it_and_one_under_another_qemu_does_not(lab: LibvirtLab) -> None:
    source = boot(lab, "s0urc")
    lab.hypervisor.take_golden(source.domain, 1, MODEL)
    assert lab.another_process().observe().goldens == {MODEL}
    mark = lab.pool / golden_mark(lab.prefix, MODEL, 1)
    told: dict[str, Any] = json.loads(mark.read_text())
    assert (told["source"], told["base"]) == (source.domain, lab.image.digest)
    mark.write_text(json.dumps({**told, "writer": "libvirt 1, QEMU 2, processor 3"}))
    upgraded = lab.another_process()
    assert upgraded.observe().goldens == frozenset()
    with pytest.raises(GoldenUnusable):
        upgraded.fork_machine(describe_machine(lab.prefix, lab.installation, lab.image, "f0rk1"))
    fresh = boot(lab, "fr3sh")
    upgraded.take_golden(fresh.domain, 1, MODEL)
    assert [name for name in lab.volumes() if "-golden-" in name] == sorted(
        name(lab.prefix, MODEL, 1) for name in (golden_disk, golden_memory, golden_mark)
    )


def worker(lab: LibvirtLab, *words: str) -> subprocess.Popen[str]:
    """Until it is at it."""
    command = [sys.executable, "-m", "tests.support.fork_worker", lab.prefix, lab.installation, str(lab.root)]
    started = subprocess.Popen([*command, lab.image.digest, *words], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "now\n"
    return started


def kill_after(process: subprocess.Popen[str], seconds: float | None) -> bool:
    """Whether it had done its work before, which `None` waits for."""
    if seconds is None:
        assert process.stdout is not None
        is_done = process.stdout.readline() == "done\n"
    else:
        time.sleep(seconds)
        is_done = False
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=30)
    return is_done or "done" in rest


def test_a_fork_killed_at_any_moment_is_nobody_and_can_be_forked_again(lab: LibvirtLab) -> None:
    source = boot(lab, "s0urc")
    lab.hypervisor.take_golden(source.domain, 1, MODEL)
    made = describe_machine(lab.prefix, lab.installation, lab.image, "f0rk1")
    own = [f"{made.domain}.1.qcow2"]
    outcomes = set()
    for seconds in KILLED_AFTER:
        outcomes.add(kill_after(worker(lab, "fork", "f0rk1"), seconds))
        wait_for_libvirt(lab)
        seen = lab.hypervisor.observe().machines.get(made.domain)
        if seen is not None:
            assert not lab.connection.get().lookupByName(made.domain).isPersistent()
        lab.hypervisor.fork_machine(made)
        lab.await_guest(made.domain)
        assert not lab.has_carrier(made.domain)
        assert [name for name in lab.volumes() if name.startswith(made.domain)] == own
        lab.hypervisor.destroy_machine(made.domain)
        assert not [name for name in lab.volumes() if name.startswith(made.domain)]
    assert outcomes == {True, False}


def wait_for_libvirt(lab: LibvirtLab) -> None:
    """What the killed process had asked for last is done: a call on its behalf does not end with it."""
    wait_until(
        lambda: not any(is_worked_on(one) for one in own_domains(lab)), 20, "libvirt has done what was asked"
    )


def own_domains(lab: LibvirtLab) -> list[libvirt.virDomain]:
    found = lab.connection.get().listAllDomains(0)
    return [domain for domain in found if domain.name().startswith(f"{lab.prefix}-")]


def is_worked_on(domain: libvirt.virDomain) -> bool:
    try:
        domain.XMLDesc(0)
        return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
    except libvirt.libvirtError:
        return False  # off, or gone meanwhile


def test_taking_killed_at_any_moment_leaves_nothing_that_is_not_found(lab: LibvirtLab) -> None:
    source = boot(lab, "s0urc")
    lab.write(source.domain, "source")
    for seconds in KILLED_AFTER:
        kill_after(worker(lab, "take", source.domain), seconds)
        wait_for_libvirt(lab)
        assert lab.hypervisor.observe().machines[source.domain].power is Power.RUNNING
        assert lab.read(source.domain) == "source"
    fresh = lab.another_process()
    fresh.remove_golden(MODEL)
    assert not [name for name in lab.volumes() if "-golden-" in name]
    lab.kill(source.domain)
    fresh.start_machine(source.domain)
    lab.await_guest(source.domain)
    assert lab.read(source.domain) == "source"
    fresh.destroy_machine(source.domain)
    assert [name for name in lab.volumes() if name.startswith(source.domain)] == []


# ---- on a libvirt network ------------------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    with private_host() as made:
        made.run("sh", "-c", f'echo "{NETWORK}" | virsh -q net-create /dev/stdin')
        yield made


NETWORK = (
    "<network><name>ustnet</name><bridge name='ust0'/>"
    "<ip address='192.168.203.1' netmask='255.255.255.0'/></network>"
)


def test_a_fork_on_a_network_has_its_own_card_and_its_link_is_down(host: PrivateHost) -> None:
    with libvirt_lab(host.uri) as lab:
        source = boot(lab, "s0urc", network="ustnet")
        lab.hypervisor.take_golden(source.domain, 1, MODEL)
        made = fork(lab, "f0rk1", network="ustnet")
        macs = lab.domain(made.domain).findall("./devices/interface/mac")
        assert [one.get("address") for one in macs] == [made.nic.mac]
        for up in (False, True, False, True):
            lab.hypervisor.set_link(made.domain, up)
            assert lab.has_carrier(made.domain) is up
            assert lab.has_carrier(source.domain)
        lab.hypervisor.hibernate_machine(made.domain)
        lab.hypervisor.start_machine(made.domain)
        assert lab.has_carrier(made.domain)
        lab.hypervisor.shut_down_machine(made.domain, 20, lambda: False)
        lab.hypervisor.start_machine(made.domain)
        lab.await_guest(made.domain)
        assert lab.has_carrier(made.domain)
        with pytest.raises(Conflict):
            lab.hypervisor.remove_golden(MODEL)
        lab.hypervisor.destroy_machine(made.domain)
        lab.hypervisor.destroy_machine(source.domain)
