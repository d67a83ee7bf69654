"""Domain XML of a fork: the places of the source's devices, and nothing else of the source."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from orchestrator.errors import GoldenUnusable
from orchestrator.render.domain import MachineFiles, render_domain
from orchestrator.render.fork import render_fork, render_frozen, render_kept, render_snapshot
from tests.builders import MIB
from tests.golden.golden import FILES, assert_golden
from tests.golden.test_domain import NETWORK, USER, blueprint, only

OWN = MachineFiles(
    base="/srv/volumes/understudy-image-d1.qcow2",
    golden="/srv/volumes/understudy-golden-9f3c0d1e2a4b5c6d.1.qcow2",
    overlay="/srv/volumes/understudy-web-4tz9k.2.qcow2",
    seed="",
    console="/srv/volumes/consoles/understudy-web-4tz9k.2.console.log",
)
NICS = {"user": USER, "network": NETWORK}
KINDS = list(NICS)


def saved(kind: str) -> str:
    return (FILES / f"fork-saved-{kind}.xml").read_text(encoding="utf-8")


def own(kind: str, accelerator: str = "tcg", files: MachineFiles = OWN) -> str:
    made = replace(blueprint(nic=NICS[kind]), forked=True)
    return render_domain(made, files, accelerator)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_is_rendered_like_its_golden_file(kind: str) -> None:
    assert_golden(f"fork-{kind}.xml", render_fork(saved(kind), own(kind)) + "\n")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_names_the_source_is_left(kind: str) -> None:
    text = render_fork(saved(kind), own(kind))
    source = ElementTree.fromstring(saved(kind))
    told = {source.findtext("name"), source.findtext("uuid"), source.findtext("genid")}
    told |= {"s0urc", "127.77.0.9", "192.168.122.49", "52:54:00:11:22:33", "vnet7", "52:54:00:00:00:01"}
    assert not [word for word in told if word is None or word in text]


@pytest.mark.parametrize("kind", KINDS)
def test_devices_stay_where_the_guest_knows_them(kind: str) -> None:
    def places(document: str) -> list[tuple[str, dict[str, str]]]:
        devices = list(only(ElementTree.fromstring(document), "./devices"))
        return [(one.tag, one.find("address").attrib) for one in devices if one.find("address") is not None]  # type: ignore[union-attr]

    before = places(saved(kind))
    assert len(before) >= 5
    assert places(render_fork(saved(kind), own(kind))) == before


def test_a_fork_has_an_agent_socket_of_its_own_where_one_is_given() -> None:
    first = render_fork(saved("user"), own("user", files=replace(OWN, agent="/run/one.agent")))
    again = render_fork(first, own("user", files=replace(OWN, agent="/run/other.agent")))
    assert "/run/one.agent" in first
    assert "/run/one.agent" not in again
    assert "/run/other.agent" in again


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (saved("user").replace("type='qemu'", "type='kvm'", 1), "of a kvm machine, not of a qemu one"),
        (saved("user").replace(">524288</memory>", ">262144</memory>"), "memory 262144, not 524288"),
        (saved("user").replace(">2</vcpu>", ">4</vcpu>"), "vcpu 4, not 2"),
        (saved("user").replace("<disk ", "<disk/><disk "), "2 of 'disk'"),
        (saved("user").replace("<channel ", "<nothing>").replace("</channel>", "</nothing>"), "0 of 'channel'"),
        (saved("user")[:-30], "damaged"),
        ("", "damaged"),
    ],
)
def test_a_memory_image_of_another_machine_is_refused(document: str, words: str) -> None:
    with pytest.raises(GoldenUnusable, match=words):
        render_fork(document, own("user"))


def test_a_network_card_is_needed_where_the_fork_has_one() -> None:
    with pytest.raises(GoldenUnusable, match="0 of 'interface'"):
        render_fork(saved("user"), own("network"))


def test_a_fork_that_is_kept_boots_with_its_link_up() -> None:
    down = saved("network").replace("<model type='virtio'/>", "<model type='virtio'/><link state='down'/>")
    kept = render_kept(down)
    assert "<link" not in kept
    assert "52:54:00:11:22:33" in kept


def test_a_frozen_overlay_keeps_its_owner_and_all_else_stays() -> None:
    machine = blueprint(memory=512 * MIB)
    frozen = "/srv/volumes/understudy-web-4tz9k.2.qcow2"
    document = render_domain(machine, replace(OWN, golden=frozen, overlay="/srv/volumes/top"), "tcg")
    without = document.replace('<seclabel model="dac" relabel="no" />', "", 1)
    assert without != document
    again = render_frozen(without, frozen)
    assert ElementTree.canonicalize(again, strip_text=True) == ElementTree.canonicalize(document, strip_text=True)
    assert render_frozen(again, frozen) == again


def test_a_snapshot_names_disk_overlay_and_memory() -> None:
    root = ElementTree.fromstring(render_snapshot("vda", "/srv/top.qcow2", "/srv/golden.mem"))
    assert only(root, "./memory").attrib == {"snapshot": "external", "file": "/srv/golden.mem"}
    assert only(root, "./disks/disk").attrib == {"name": "vda", "snapshot": "external", "type": "file"}
    assert only(root, "./disks/disk/source").get("file") == "/srv/top.qcow2"


def test_a_chain_of_three_is_spelled_out_and_never_relabelled() -> None:
    disk = only(ElementTree.fromstring(own("user")), "./devices/disk")
    frozen, base = disk.findall(".//backingStore/source")
    assert [one.get("file") for one in (frozen, base)] == [OWN.golden, OWN.base]
    assert [one.find("seclabel").get("relabel") for one in (frozen, base)] == ["no", "no"]  # type: ignore[union-attr]
    assert only(disk, "./backingStore/backingStore/backingStore").attrib == {}
