"""An installation with many machines that are off: a stopped pool, recorded in its store and defined on a real
libvirtd of its own, which ends with them. No guest runs, and no disk is made."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import libvirt
from sqlalchemy import insert, update

from orchestrator.daemon.runtime import Runtime
from orchestrator.models.members import Member, Phase, PoolState, Role
from orchestrator.models.naming import domain_name
from orchestrator.models.ownership import TagState, tag_for
from orchestrator.models.spec import model_digest
from orchestrator.render.owner import render_owner
from orchestrator.store.tables import members, sets
from tests.builders import make_image, make_member, make_set, make_spec
from tests.support.installation import BASE, Installation
from tests.support.private_host import PrivateHost


@contextlib.contextmanager
def off_machines(count: int) -> Iterator[Installation]:
    """The set `web`: no instance, and a pool of that many stopped members, all as declared."""
    root = BASE / f"understudy-bench-{secrets.token_hex(4)}"
    root.mkdir(mode=0o711)
    host = PrivateHost(root / "host", own_network=False)
    made = Installation(root / "state", "127.99.0", uri=host.uri)
    made.root.mkdir(mode=0o711)
    made.configure(network='[network]\nrange = "127.64.0.0/10"\n')
    try:
        host.start()
        known = record_pool(made, count, PoolState.STOPPED, endpoints=[])
        define_machines(made, known)
        yield made
    finally:
        host.stop()
        made.remove()
        shutil.rmtree(root)


def record_pool(made: Installation, count: int, state: PoolState, **fields_of_set: Any) -> list[Member]:
    """The store as a controller leaves it once the pool is full."""
    runtime = Runtime(made.root)
    pool = {"state": state.value, "max_ready": count}
    wanted = make_set(make_spec(instances=0, standby=pool, **fields_of_set))
    image = make_image()
    fields = {"role": Role.STANDBY, "phase": Phase.STANDBY, "parked": state, "told": None}
    known = [
        replace(
            make_member(wanted, f"{number:05}", **fields),
            address=f"127.{64 + number // 65536}.{number // 256 % 256}.{number % 256}",
            mac=f"52:54:00:{number // 65536:02x}:{number // 256 % 256:02x}:{number % 256:02x}",
        )
        for number in range(2, count + 2)
    ]
    store = runtime.store
    store.add_image("micro", lambda version: image)
    store.declare_set(wanted.spec, image, model_digest(wanted.spec, image.digest))
    columns = members.c.keys()
    with store.database.write() as connection:
        connection.execute(insert(members), [{name: getattr(one, name) for name in columns} for one in known])
        connection.execute(update(sets).values(settled_generation=1, pool_level="full"))
    runtime.close()
    return known


def define_machines(made: Installation, known: list[Member]) -> None:
    """As small as libvirt takes them, each with our tag."""
    runtime = Runtime(made.root)
    connection = libvirt.open(made.uri)
    try:
        for member in known:
            connection.defineXML(render_bare(made.prefix, runtime.installation, member))
    finally:
        connection.close()
        runtime.close()


def render_bare(prefix: str, installation: str, member: Member, kind: str = "qemu") -> str:
    """Domain XML; `kind` is libvirt's, such as `qemu` or `test`."""
    domain = Element("domain", type=kind)
    SubElement(domain, "name").text = domain_name(prefix, member.name)
    SubElement(domain, "memory", unit="MiB").text = "128"
    metadata = SubElement(domain, "metadata")
    metadata.append(render_owner(tag_for(member, installation, "micro:1", TagState.SET_UP)))
    SubElement(SubElement(domain, "os"), "type").text = "hvm"
    return ElementTree.tostring(domain, encoding="unicode")
