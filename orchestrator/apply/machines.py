"""What a member's machine is called, made of and reached by."""

from __future__ import annotations

from orchestrator.apply.agent import GuestAgent
from orchestrator.apply.disks import machine_disks
from orchestrator.apply.world import Installation, World
from orchestrator.config.secrets import read_administrator_password, read_secrets
from orchestrator.errors import HostError
from orchestrator.models.machine import Blueprint, Hardware
from orchestrator.models.members import Member, ScaleSet
from orchestrator.models.naming import domain_name, machine_uuid, reachable_port
from orchestrator.models.spec import SSH_PORT, ScaleSetSpec
from orchestrator.ports.guest import GuestAddress
from orchestrator.ports.hypervisor import Hypervisor
from orchestrator.render.seed import SEED_LABEL, GuestIdentity, render_seed
from orchestrator.render.unattend import UNATTEND_LABEL, render_unattend


class Machines:
    """Computed anew for each question: nothing here is remembered."""

    def __init__(self, installation: Installation, world: World) -> None:
        self._installation = installation
        self._world = world

    def domain(self, member: Member) -> str:
        return domain_name(self._installation.prefix, member.name)

    def guest_address(self, member: Member) -> GuestAddress:
        """Where the member's SSH is, and the key it must show."""
        port = reachable_port(member.address, SSH_PORT)
        return GuestAddress(
            member.name, member.address, port, lambda: self._world.identities.host_key(self.uuid(member))[1]
        )

    def blueprint(self, member: Member, wanted: ScaleSet) -> Blueprint:
        spec = wanted.spec
        return Blueprint(
            domain=self.domain(member),
            uuid=self.uuid(member),
            member=member.name,
            set_name=member.set_name,
            installation=self._installation.name,
            incarnation=member.incarnation,
            model=member.model,
            vcpus=spec.machine.vcpus,
            memory=spec.machine.memory,
            disk=spec.machine.disk,
            image=wanted.image,
            nic=self._installation.addressing.nic(member, spec),
            hardware=hardware_of(spec),
            disks=machine_disks(self._installation.prefix, member, spec),
            role=member.role,
            created_at=member.created_at,
        )

    def seed(self, member: Member, wanted: ScaleSet) -> bytes | None:
        """The ISO of its answer file, None where setup needs none. Raises SpecError for an unfit secret file."""
        windows = wanted.spec.setup.windows
        if windows is not None:
            password = read_administrator_password(wanted.spec, self._installation.secrets)
            return self._world.seeds.write(UNATTEND_LABEL, render_unattend(windows, member.name, password))
        if wanted.spec.setup.answer_file == "none":
            return None
        secrets = read_secrets(wanted.spec, self._installation.secrets)
        return self._world.seeds.write(SEED_LABEL, render_seed(wanted.spec, self.identity(member), secrets))

    def identity(self, member: Member) -> GuestIdentity:
        private, public = self._world.identities.host_key(self.uuid(member))
        return GuestIdentity(
            instance_id=self.uuid(member),
            name=member.name,
            address=member.address,
            host_key_private=private,
            host_key_public=public,
            operator_key=self._installation.operator_key,
            network=self._installation.addressing.guest_network(member),
        )

    def agent(self, member: Member) -> GuestAgent:
        return GuestAgent(self.host_of(member), self.domain(member))

    def uuid(self, member: Member) -> str:
        return machine_uuid(self._installation.name, member.name, member.incarnation)

    def host_of(self, member: Member) -> Hypervisor:
        return self.host(member.host)

    def host(self, name: str) -> Hypervisor:
        """Looked up for each call, so that a controller that lost its lease in between gets none."""
        try:
            return self._world.hosts[name]
        except KeyError:
            raise HostError(
                f"host {name!r} is not configured any more",
                "add it to config.toml again",
            ) from None


def hardware_of(spec: ScaleSetSpec) -> Hardware:
    """What the guests of a set must have drivers for."""
    return Hardware(
        firmware=spec.machine.firmware,
        disk_bus=spec.machine.disk_bus,
        nic=spec.machine.nic,
        is_windows=spec.setup.answer_file == "unattend",
    )
