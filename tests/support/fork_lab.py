"""A host with micro guests whose agents run commands: what tests of forks ask for."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import libvirt

from orchestrator.drivers.libvirt import LibvirtConnection, LibvirtHost
from orchestrator.drivers.libvirt.ownership import HostIdentity
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import AgentAbsent, GuestError
from orchestrator.models.machine import Blueprint, Nic
from orchestrator.models.members import Image
from orchestrator.models.naming import OWN_FILTER, machine_mac, machine_uuid
from orchestrator.ports.hypervisor import Hypervisor
from tests.support.guest_images import guest_image
from tests.support.installation import installation, wait_until
from tests.support.warm import WarmGuest

MIB = 2**20
MODEL = "0123456789abcdef"
BOOT_SECONDS = 60


def describe_machine(
    prefix: str, installation: str, image: Image, suffix: str, incarnation: int = 1, network: str = ""
) -> Blueprint:
    """A small member of set `web`."""
    member = f"web-{suffix}"
    address = f"127.{secrets.randbelow(90) + 10}.{secrets.randbelow(250)}.2"
    nic = Nic(machine_mac(installation, member), address, forwards=((20022, 22),))
    if network:
        nic = Nic(nic.mac, f"192.168.203.{secrets.randbelow(200) + 10}", network=network, filter=OWN_FILTER)
    return Blueprint(
        domain=f"{prefix}-{member}",
        uuid=machine_uuid(installation, member, incarnation),
        member=member,
        set_name="web",
        installation=installation,
        incarnation=incarnation,
        model=MODEL,
        vcpus=1,
        memory=128 * MIB,
        disk=None,
        image=image,
        nic=nic,
    )


_warm = WarmGuest()


class LibvirtLab:
    def __init__(self, root: Path, prefix: str, uri: str = "qemu:///system", installation: str = "") -> None:
        self.prefix, self.installation, self.root = prefix, installation or secrets.token_hex(8), root
        self.uri = uri
        self.connection = LibvirtConnection(self.uri)
        self._volumes = Volumes(self.connection, prefix, root / "volumes")
        self.hypervisor: Hypervisor = self.another_process()
        file = guest_image("micro")
        content = file.read_bytes()
        self.image = Image("micro", 1, hashlib.sha256(content).hexdigest(), len(content), 0, 0.0, "a test")
        self.hypervisor.ensure_image(self.image, file)

    def another_process(self) -> LibvirtHost:
        """Which remembers nothing."""
        identity = HostIdentity("local", "a", self.prefix, self.installation)
        return LibvirtHost(identity, self.connection, self._volumes, lambda: "tcg")

    @property
    def pool(self) -> Path:
        return self.root / "volumes"

    def domain(self, name: str) -> ElementTree.Element:
        """Its live XML."""
        found = self.connection.get().lookupByName(name)
        return ElementTree.fromstring(found.XMLDesc(0))

    def definition(self, name: str) -> ElementTree.Element:
        """XML of what it starts from."""
        found = self.connection.get().lookupByName(name)
        return ElementTree.fromstring(found.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def have_guest(self, blueprint: Blueprint) -> None:
        """A machine whose guest answers. Where its files are at hand, only the first one boots."""
        self.hypervisor.create_machine(blueprint, None)
        if self.uri == "qemu:///system":
            domain = self.connection.get().lookupByName(blueprint.domain)
            _warm.start(domain, lambda: self.await_guest(blueprint.domain))
        self.await_guest(blueprint.domain)

    def await_guest(self, domain: str) -> None:
        def answers() -> bool:
            with contextlib.suppress(AgentAbsent, GuestError):
                self.hypervisor.ask_agent(domain, "guest-ping", {})
                return True
            return False

        wait_until(answers, BOOT_SECONDS, f"{domain} answers")

    def say(self, domain: str, command: str) -> str:
        """What it prints."""
        asked = {"path": "/bin/sh", "arg": ["-c", command], "capture-output": True}
        started = self.hypervisor.ask_agent(domain, "guest-exec", asked)
        assert isinstance(started, dict)
        answer: dict[str, object] = {}

        def has_ended() -> bool:
            found = self.hypervisor.ask_agent(domain, "guest-exec-status", {"pid": started["pid"]})
            assert isinstance(found, dict)
            answer.update(found)
            return bool(found["exited"])

        wait_until(has_ended, 20, f"{command} has ended")
        return base64.b64decode(str(answer.get("out-data", ""))).decode().strip()

    def write(self, domain: str, text: str) -> None:
        self.say(domain, f"echo {text} > /root/note; sync")

    def read(self, domain: str) -> str:
        return self.say(domain, "cat /root/note")

    def has_carrier(self, domain: str) -> bool:
        return self.say(domain, "cat /sys/class/net/eth0/carrier") == "1"

    def kill(self, domain: str) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self.connection.get().lookupByName(domain).destroy()

    def volumes(self) -> list[str]:
        self._volumes.refresh()
        return sorted(self._volumes.list_names())

    def damage(self, volume: str) -> None:
        file = self.pool / volume
        with file.open("r+b") as writer:
            writer.seek(file.stat().st_size // 2)
            writer.write(secrets.token_bytes(4096))

    def lose(self, volume: str) -> None:
        (self.pool / volume).unlink()


@contextlib.contextmanager
def libvirt_lab(uri: str = "qemu:///system") -> Iterator[LibvirtLab]:
    with installation(uri=uri) as private:
        made = LibvirtLab(private.root, private.prefix, uri)
        try:
            yield made
        finally:
            made.hypervisor.close()
