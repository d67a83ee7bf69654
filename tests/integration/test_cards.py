"""Network cards on real libvirt with micro guests: no guest is ever on its network without its filter."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

import libvirt
import pytest

from orchestrator.drivers.libvirt.cards import Cards
from orchestrator.drivers.libvirt.filters import Filters
from orchestrator.drivers.libvirt.networks import Networks
from orchestrator.models.machine import Blueprint
from orchestrator.models.naming import OWN_FILTER
from orchestrator.render.document import CARD_NS
from tests.integration.test_forks import kill_after, wait_for_libvirt, worker
from tests.support.fork_lab import MODEL, LibvirtLab, describe_machine, libvirt_lab
from tests.support.private_host import PrivateHost, private_host

KILLED_AFTER = (0.05, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9, 1.2, None)  # seconds; None: once it is done
NETWORK = (
    "<network><name>ustnet</name><bridge name='ust0'/><ip address='192.168.203.1' netmask='255.255.255.0'>"
    "<dhcp><range start='192.168.203.230' end='192.168.203.240'/></dhcp></ip></network>"
)


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    with private_host() as made:
        made.run("sh", "-c", f'echo "{NETWORK}" | virsh -q net-create /dev/stdin')
        yield made


@pytest.fixture(scope="module")
def lab(host: PrivateHost) -> Iterator[LibvirtLab]:
    with libvirt_lab(host.uri) as made:
        yield made


def machine(lab: LibvirtLab, suffix: str) -> Blueprint:
    return describe_machine(lab.prefix, lab.installation, lab.image, suffix, network="ustnet")


def boot(lab: LibvirtLab, suffix: str) -> Blueprint:
    made = machine(lab, suffix)
    lab.hypervisor.create_machine(made, None)
    lab.await_guest(made.domain)
    return made


def card(root: Element) -> tuple[str, str]:
    """Its filter, and its link where one is named."""
    filterref, link = root.find("./devices/interface/filterref"), root.find("./devices/interface/link")
    return (
        filterref.get("filter", "") if filterref is not None else "",
        link.get("state", "") if link is not None else "",
    )


def has_pending(root: Element) -> bool:
    return root.find(f"./metadata/{{{CARD_NS}}}card") is not None


def reserved(host: PrivateHost) -> set[str]:
    lines = host.run("virsh", "-q", "net-dumpxml", "ustnet").splitlines()
    return {line.split("name='")[1].partition("'")[0] for line in lines if "<host " in line}


def test_a_machine_has_filter_and_reservation_however_it_is_started(host: PrivateHost, lab: LibvirtLab) -> None:
    made = boot(lab, "b00t1")
    assert card(lab.domain(made.domain)) == (OWN_FILTER, "up")
    assert lab.has_carrier(made.domain)
    assert reserved(host) == {made.member}
    definition = lab.definition(made.domain)
    assert (card(definition), has_pending(definition)) == ((OWN_FILTER, ""), False)
    lab.kill(made.domain)
    lab.connection.get().lookupByName(made.domain).create()
    assert card(lab.domain(made.domain)) == (OWN_FILTER, "")
    lab.hypervisor.destroy_machine(made.domain)
    assert reserved(host) == set()


def test_what_a_dead_controller_left_unconnected_the_next_one_finishes(host: PrivateHost, lab: LibvirtLab) -> None:
    made = machine(lab, "h3ld1")
    lab.hypervisor.create_machine(made, None)
    lab.kill(made.domain)
    networks = Networks(lab.connection)
    networks.remove_reservations(made.member)
    domain = lab.connection.get().lookupByName(made.domain)
    Cards(lab.connection, networks, Filters(lab.connection)).start_held(domain, made.nic, made.member)
    assert card(lab.domain(made.domain)) == ("", "down")
    assert card(lab.definition(made.domain)) == (OWN_FILTER, "")
    lab.await_guest(made.domain)
    assert not lab.has_carrier(made.domain)
    lab.another_process().create_machine(made, None)
    assert card(lab.domain(made.domain)) == (OWN_FILTER, "up")
    assert lab.has_carrier(made.domain)
    assert reserved(host) == {made.member}
    lab.hypervisor.destroy_machine(made.domain)


def test_a_creation_killed_at_any_moment_leaves_no_guest_connected_without_its_filter(
    host: PrivateHost, lab: LibvirtLab
) -> None:
    made = machine(lab, "k1ll1")
    outcomes = set()
    for seconds in KILLED_AFTER:
        outcomes.add(kill_after(worker(lab, "create", "k1ll1", lab.uri, "ustnet"), seconds))
        wait_for_libvirt(lab)
        if is_running(lab, made.domain):
            assert card(lab.domain(made.domain)) in {("", "down"), (OWN_FILTER, "down"), (OWN_FILTER, "up")}
        lab.another_process().create_machine(made, None)
        assert card(lab.domain(made.domain))[0] == OWN_FILTER
        assert card(lab.domain(made.domain))[1] != "down"
        assert reserved(host) == {made.member}
        lab.hypervisor.destroy_machine(made.domain)
        assert reserved(host) == set()
    assert outcomes == {True, False}


def is_running(lab: LibvirtLab, domain: str) -> bool:
    try:
        return bool(lab.connection.get().lookupByName(domain).isActive())
    except libvirt.libvirtError:
        return False


def test_a_fork_gets_its_filter_with_its_link(host: PrivateHost, lab: LibvirtLab) -> None:
    source = boot(lab, "s0urc")
    lab.hypervisor.take_golden(source.domain, 1, MODEL)
    made = machine(lab, "f0rk1")
    lab.hypervisor.fork_machine(made)
    lab.await_guest(made.domain)
    assert card(lab.domain(made.domain)) == ("", "down")
    lab.another_process().set_link(made.domain, True)
    assert card(lab.domain(made.domain)) == (OWN_FILTER, "up")
    (parameter,) = lab.domain(made.domain).findall("./devices/interface/filterref/parameter")
    assert parameter.get("value") == made.nic.address
    definition = lab.definition(made.domain)
    assert (card(definition), has_pending(definition)) == ((OWN_FILTER, ""), False)
    assert reserved(host) == {source.member, made.member}
    for one in (made, source):
        lab.hypervisor.destroy_machine(one.domain)
    lab.hypervisor.remove_golden(MODEL)
    assert reserved(host) == set()


def test_a_filter_of_that_name_that_is_there_is_left_as_it_is(host: PrivateHost, lab: LibvirtLab) -> None:
    connection = lab.connection.get()
    filters = Filters(lab.connection)
    filters.ensure(OWN_FILTER)
    before = connection.nwfilterLookupByName(OWN_FILTER).XMLDesc()
    filters.ensure(OWN_FILTER)
    assert connection.nwfilterLookupByName(OWN_FILTER).XMLDesc() == before
    connection.nwfilterLookupByName(OWN_FILTER).undefine()
    filters.ensure(OWN_FILTER)
    assert "srcmacaddr='$MAC'" in connection.nwfilterLookupByName(OWN_FILTER).XMLDesc()
