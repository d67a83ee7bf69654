"""Two hosts in two zones: spread, claims within the zone, a host that is gone for a while (row B8).

Two libvirtds of their own stand for the hosts. They share this machine's network, so that the forwarded ports of
both hosts' guests can be reached from it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation, wait_until
from tests.support.private_host import PrivateHost, private_host
from tests.support.specs import room_for, web_set

pytestmark = pytest.mark.guest

Hosts = dict[str, PrivateHost]  # by zone


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with private_host(own_network=False) as one, private_host(own_network=False) as two:
        yield {"a": one, "b": two}


@pytest.fixture(scope="module")
def web(hosts: Hosts, micro_image: Path) -> Iterator[Installation]:
    """Two instances and two stopped pool members over zones a and b; the tests change it in their order."""
    with installation() as made:
        made.configure(hosts="".join(toml(made, zone, host) for zone, host in hosts.items()))
        made.run("image", "add", "micro", str(micro_image))
        text = web_set(made, instances=2, standby="{state: stopped, max_ready: 4}", more="zones: [a, b]\n")
        made.write("web.yaml", text.replace("policy: newest", "policy: balanced"))
        made.run("apply", str(made.root / "web.yaml"))
        yield made


def toml(made: Installation, zone: str, host: PrivateHost) -> str:
    return (
        f'[[hosts]]\nname = "host-{zone}"\nuri = "{host.uri}"\nzone = "{zone}"\naccelerator = "tcg"\n'
        f'pool_path = "{made.root}/volumes-{zone}"\n'
    )


def zones(web: Installation, role: str) -> str:
    return "".join(sorted(row["zone"] for row in web.members(role)))


def domains(web: Installation, host: PrivateHost) -> list[str]:
    listed = host.run("virsh", "-q", "-c", "qemu:///system", "list", "--all", "--name").split()
    return sorted(name for name in listed if name.startswith(web.prefix))


def events(web: Installation, kind: str) -> list[str]:
    return [line for line in web.run("events", "web").splitlines() if f" {kind} " in line]


def test_instances_and_pool_are_spread_over_both_hosts(web: Installation, hosts: Hosts) -> None:
    assert (zones(web, "instance"), zones(web, "standby")) == ("ab", "ab")
    status = web.status()
    share = {"declared": True, "instances": {"desired": 1, "in_service": 1}, "standby": {"target": 1, "ready": 1}}
    assert status["zones"] == {"a": share, "b": share}
    assert "zone b: 1/1 in service, 1 of 1 ready in the pool" in web.run("status", "web")
    for zone, host in hosts.items():
        assert domains(web, host) == sorted(row["domain"] for row in status["members"] if row["zone"] == zone)
    assert {web.fetch() for _ in range(8)} == {row["name"] for row in web.members("instance")}


def test_doctor_examines_every_host(web: Installation) -> None:
    levels = {one["name"]: one["level"] for one in web.json("doctor")["findings"]}
    for name in ("libvirt on host-a", "libvirt on host-b", "storage pool on host-a", "storage pool on host-b"):
        assert levels[name] == "ok"


def test_a_zone_that_no_host_has_is_refused(web: Installation) -> None:
    text = (web.root / "web.yaml").read_text(encoding="utf-8").replace("zones: [a, b]", "zones: [a, c]")
    web.write("wrong.yaml", text)
    said = web.run("apply", str(web.root / "wrong.yaml"), expect=2)
    assert "no host is in zone 'c' (zones: a, b)" in said


def test_growth_takes_the_member_of_its_zone_and_makes_one_where_that_zone_has_none(web: Installation) -> None:
    pool = {row["zone"]: row["name"] for row in web.members("standby")}
    web.run("scale", "web", "3")
    assert zones(web, "instance") == "aab"
    assert {row["name"] for row in web.members("standby")} == {pool["b"]}
    assert f"claimed {pool['a']} from the standby pool of web in zone a" in events(web, "claim_served")[-1]
    web.run("scale", "web", "5")
    assert zones(web, "instance") == "aaabb"
    assert f"claimed {pool['b']} from the standby pool of web in zone b" in events(web, "claim_served")[-1]
    cold = events(web, "claim_cold")[-1]
    assert "creating an instance of web in zone a cold: the standby pool is empty in zone a" in cold


def test_scale_in_and_refill_keep_the_zones_even(web: Installation) -> None:
    web.run("scale", "web", "2")
    assert (zones(web, "instance"), zones(web, "standby")) == ("ab", "ab")


def test_a_host_that_hangs_is_unknown_after_a_few_seconds(web: Installation, hosts: Hosts) -> None:
    hosts["a"].signal_libvirtd(signal.SIGSTOP)
    try:
        began = time.monotonic()
        rows = web.status()["members"]
        assert time.monotonic() - began < 12
    finally:
        hosts["a"].signal_libvirtd(signal.SIGCONT)
    assert {(row["zone"], row["power"] == "unknown") for row in rows} == {("a", True), ("b", False)}


def test_growth_passes_over_a_host_that_is_gone_and_nothing_on_it_is_touched(
    web: Installation, hosts: Hosts
) -> None:
    before, machines = web.status()["members"], domains(web, hosts["a"])
    hosts["a"].signal_libvirtd(signal.SIGKILL)
    try:
        said = web.run("scale", "web", "3", expect=1)
        assert "host host-a of" in said
        rows = web.status()["members"]
        here = web.processes()
    finally:
        hosts["a"].start_libvirtd()
    assert {row["power"] for row in rows if row["zone"] == "a"} == {"unknown"}
    assert of_zone(rows, "a") == of_zone(before, "a")
    assert zones_of_instances(rows) == "abb"
    served = events(web, "claim_served")[-1]
    assert "in zone b; zone a is passed over: no host answers" in served
    (instance,) = [row for row in before if row["zone"] == "a" and row["role"] == "instance"]
    assert any(f"guest={instance['domain']}," in process for process in here)
    assert domains(web, hosts["a"]) == machines


def of_zone(rows: list[dict[str, Any]], zone: str) -> dict[str, tuple[Any, ...]]:
    return {row["name"]: (row["role"], row["phase"], row["incarnation"]) for row in rows if row["zone"] == zone}


def zones_of_instances(rows: list[dict[str, Any]]) -> str:
    return "".join(sorted(row["zone"] for row in rows if row["role"] == "instance"))


def test_when_the_host_is_back_the_set_is_as_declared(web: Installation, hosts: Hosts) -> None:
    before = of_zone(web.status()["members"], "a")
    web.run("scale", "web", "3")
    status = web.status()
    assert status["converged"]
    assert of_zone(status["members"], "a") == before
    assert zones(web, "standby") == "a"
    assert {web.fetch() for _ in range(12)} == {row["name"] for row in web.members("instance")}


def test_a_host_that_is_full_is_passed_over_with_the_reason(web: Installation, hosts: Hosts) -> None:
    """Row D8 with room for three machines on each: another set's makes the third of zone a."""
    web.run("scale", "web", "4")
    assert zones(web, "instance") == "aabb"
    web.configure(hosts="".join(toml(web, zone, host) for zone, host in hosts.items()), limits=room_for(web, 3.5))
    fill = web_set(web, instances=1, name="fill", port=8082, more="zones: [a]\n")
    web.run("apply", str(web.write("fill.yaml", fill)))
    web.run("scale", "web", "5")
    assert zones(web, "instance") == "aabbb"
    assert [len(domains(web, host)) for host in hosts.values()] == [3, 3]
    (cold,) = [line for line in events(web, "claim_cold") if "is passed over: no host has" in line]
    why = "the standby pool is empty in zone b; zone a is passed over: no host has 128 MiB of memory to give"
    assert f"creating an instance of web in zone b cold: {why}" in cold
    assert "the hosts have" in web.run("scale", "web", "7", expect=2)
    web.run("delete", "fill")


def test_delete_leaves_nothing_on_either_host(web: Installation, hosts: Hosts) -> None:
    web.run("delete", "web")
    for zone, host in hosts.items():
        assert domains(web, host) == []
        left = [path.name for path in (web.root / f"volumes-{zone}").iterdir()]
        assert [name for name in left if "-image-" not in name] == []
    wait_until(lambda: web.processes() == [], 10, "no process is left")
