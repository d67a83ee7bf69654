"""The scale set as its operator declares it. Frozen, validated, with exact JSON round trip.

Sizes are bytes, durations seconds once loaded; both are written back with their units.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from orchestrator.models.durations import DrainTimeout, HookTimeout, ProbeInterval, RepairGrace, SetupTimeout
from orchestrator.models.naming import LOOPBACK_SHIFT
from orchestrator.models.storage import (
    MAX_DRIVES,
    DriveSpec,
    LocalStorageSpec,
    refuse_bad_storage,
    storage_shape,
)
from orchestrator.models.units import Percent, Share, Size, parse_percent, share_of
from orchestrator.models.user_data import refuse_reserved, refuse_what_json_cannot_hold
from orchestrator.models.windows import WindowsSpec

SetName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$")]
PartName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$")]
ImageRef = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?(:[1-9][0-9]{0,8})?$")]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]


def _below_the_root(path: str) -> str:
    if path.startswith("//") or ".." in path.split("/"):
        raise ValueError(f"{path!r} must be written with one '/' in front, and without '..'")
    return path


GuestPath = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f]*$"), AfterValidator(_below_the_root)]
ZoneName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
Firmware = Literal["bios", "uefi", "uefi-secure"]
DiskBus = Literal["virtio", "sata"]
NicModel = Literal["virtio", "e1000e"]
MIB = 2**20

SSH_PORT = 22


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MachineSpec(_Part):
    """Shape of one machine. `disk` is the virtual size of the ephemeral overlay; `disk_bus` and `nic` are what the
    image has drivers for; `uefi-secure` is UEFI with secure boot and a TPM 2.0."""

    vcpus: Annotated[int, Field(ge=1, le=256, strict=True)] = 1
    memory: Annotated[Size, Field(ge=32 * MIB)] = 512 * MIB
    disk: Size | None = None
    firmware: Firmware = "bios"
    disk_bus: DiskBus = "virtio"
    nic: NicModel = "virtio"


class UploadSource(_Part):
    """`from`: file or directory beside the scale set file; `digest` is filled in when it is packed."""

    source: str = Field(alias="from", min_length=1)
    to: GuestPath
    digest: str | None = None


class Step(_Part):
    """One provisioning step over SSH: exactly one of `upload` and `run`."""

    upload: UploadSource | None = None
    run: Annotated[str, StringConstraints(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Step:
        if (self.upload is None) == (self.run is None):
            raise ValueError("a step needs exactly one of 'upload' and 'run'")
        return self


_INSTANCE = re.compile(r"\binstance\b")
SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


class SecretSpec(_Part):
    """A secret in a file beside the scale set file; `digest` is filled in when it is kept."""

    file: Annotated[str, Field(min_length=1)]
    digest: str | None = None


class SetupSpec(_Part):
    """How a machine is set up on first boot. `restarts`: how often setup itself restarts the guest; `keep_seed`:
    its image needs the seed at later boots, too. `secrets`: for user data, and taken out of what guests say.
    `fork`: whether machines are made of the memory of one that was set up before (None: with cloud-init)."""

    answer_file: Literal["cloud-init", "unattend", "none"] = "cloud-init"
    user_data: dict[str, Any] | str | None = None
    user_data_file: str | None = None
    restarts: Annotated[int, Field(ge=0, le=20, strict=True)] = 0
    timeout: SetupTimeout = 600.0
    steps: tuple[Step, ...] = ()
    windows: WindowsSpec | None = None
    keep_seed: Annotated[bool, Field(strict=True)] = False
    fork: Annotated[bool, Field(strict=True)] | None = None
    secrets: Annotated[dict[SecretName, SecretSpec], Field(max_length=32)] = {}

    @model_validator(mode="after")
    def _consistent(self) -> SetupSpec:
        if self.user_data is not None and self.user_data_file is not None:
            raise ValueError("give 'user_data' or 'user_data_file', not both")
        if isinstance(self.user_data, str) and not self.user_data.startswith(("#!", "#cloud-config")):
            raise ValueError("'user_data' as text must begin with '#!' or '#cloud-config'")
        if self.user_data is not None:
            refuse_what_json_cannot_hold(self.user_data)
            refuse_reserved(self.user_data)
        if self.answer_file != "cloud-init" and (self.user_data or self.user_data_file or self.steps):
            raise ValueError("'user_data' and 'steps' need 'answer_file: cloud-init'")
        if self.answer_file != "cloud-init" and self.secrets:
            raise ValueError("'secrets' need 'answer_file: cloud-init' (they are filled into user data)")
        if self.answer_file == "none" and self.restarts:
            raise ValueError("'restarts' needs an 'answer_file': nothing else restarts the guest during setup")
        if self.answer_file == "none" and self.keep_seed:
            raise ValueError("'keep_seed' needs an 'answer_file': there is no seed without")
        if self.answer_file == "unattend" and self.windows is None:
            raise ValueError("'answer_file: unattend' needs 'windows' with an 'administrator_password_file'")
        if self.answer_file != "unattend" and self.windows is not None:
            raise ValueError("'windows' needs 'answer_file: unattend'")
        return self

    @model_validator(mode="after")
    def _can_fork(self) -> SetupSpec:
        if self.answer_file != "cloud-init" and self.fork:
            raise ValueError("'fork: true' needs 'answer_file: cloud-init' (a fork is told who it is)")
        if self.keep_seed and self.fork:
            raise ValueError("'fork: true' and 'keep_seed: true' do not go together: a fork has no seed")
        return self

    def secret_digests(self) -> frozenset[str]:
        """Of everything secret that is kept for it."""
        named = [secret.digest for secret in self.secrets.values()]
        if self.windows is not None:
            named.append(self.windows.administrator_password_digest)
        return frozenset(digest for digest in named if digest is not None)

    @property
    def forks(self) -> bool:
        """Whether machines may be forks, as far as the setup goes. What a guest's user data says about the one
        instance that it was made for would be wrong in every fork of it."""
        is_fit = self.answer_file == "cloud-init" and not self.keep_seed
        return is_fit and (self.fork or (self.fork is None and not self._names_the_instance()))

    def _names_the_instance(self) -> bool:
        """User data that Jinja2 fills with a word of one instance."""
        text = (
            self.user_data if isinstance(self.user_data, str) else json.dumps(self.user_data, ensure_ascii=False)
        )
        return ("{{" in text or "{%" in text) and _INSTANCE.search(text) is not None

    def upload_digests(self) -> frozenset[str]:
        """Of the archives that are kept for its steps."""
        named = [step.upload.digest for step in self.steps if step.upload is not None]
        return frozenset(digest for digest in named if digest is not None)


class HttpProbe(_Part):
    port: Port
    # No quote, backslash or '#': HAProxy's configuration gives them a meaning of its own.
    path: Annotated[str, StringConstraints(pattern=r"^/[!$-&(-\[\]-~]*$")] = "/"
    status: Annotated[int, Field(ge=100, le=599, strict=True)] = 200


class TcpProbe(_Part):
    port: Port


class Probe(_Part):
    """A service that must answer: exactly one of `http`, `tcp` and `command` (run in the guest over SSH)."""

    http: HttpProbe | None = None
    tcp: TcpProbe | None = None
    command: Annotated[str, StringConstraints(min_length=1)] | None = None
    interval: ProbeInterval = 1.0
    failures: Annotated[int, Field(ge=1, le=1000, strict=True)] = 3

    @model_validator(mode="after")
    def _one_kind(self) -> Probe:
        if sum(kind is not None for kind in (self.http, self.tcp, self.command)) != 1:
            raise ValueError("a readiness probe needs exactly one of 'http', 'tcp' and 'command'")
        return self

    @property
    def port(self) -> int | None:
        """The guest port probed from outside; None for a command."""
        if self.http is not None:
            return self.http.port
        return self.tcp.port if self.tcp is not None else None


class Endpoint(_Part):
    """One listening port of the virtual IP (`address:listen`) and the guest port behind it."""

    name: PartName
    protocol: Literal["http", "tcp"] = "http"
    address: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,3}(\.[0-9]{1,3}){3}$")] = "127.0.0.1"
    listen: Port
    port: Port

    @model_validator(mode="after")
    def _real_address(self) -> Endpoint:
        if any(int(byte) > 255 for byte in self.address.split(".")):
            raise ValueError(f"{self.address!r} is not an IPv4 address")
        return self


ParkedState = Literal["running", "stopped", "hibernated"]


class StandbySpec(_Part):
    """The standby pool: target size is max(min_ready, max_ready - instances). `state` may be a mix by percent."""

    state: ParkedState | dict[ParkedState, Percent] = "stopped"
    max_ready: Annotated[int, Field(ge=0, le=100_000, strict=True)]
    min_ready: Annotated[int, Field(ge=0, le=100_000, strict=True)] = 0

    @model_validator(mode="before")
    @classmethod
    def _one_pool(cls, value: object) -> object:
        if isinstance(value, list):
            raise ValueError("a set has one standby pool; for several states give one pool a mix of percentages")
        return value

    @field_validator("state", mode="before")
    @classmethod
    def _a_state_or_a_mix(cls, state: object) -> object:
        words = get_args(ParkedState)
        if isinstance(state, dict):
            total = sum(parse_percent(share) for share in state.values())
            if set(state) <= set(words) and total != 100:
                raise ValueError(f"the percentages add up to {total}, not to 100")
        if not set(state if isinstance(state, dict) else [str(state)]) <= set(words):
            raise ValueError(
                f"{state!r} is none of {', '.join(words)} and no mix such as {{running: 20%, stopped: 80%}}"
            )
        return state

    @property
    def shares(self) -> dict[ParkedState, int]:
        """Percent of the pool by state."""
        return self.state if isinstance(self.state, dict) else {self.state: 100}

    @model_validator(mode="after")
    def _ordered(self) -> StandbySpec:
        if self.min_ready > self.max_ready:
            raise ValueError(f"'min_ready' ({self.min_ready}) is above 'max_ready' ({self.max_ready})")
        return self


class ScaleInSpec(_Part):
    policy: Literal["balanced", "newest", "oldest"] = "balanced"
    drain_timeout: DrainTimeout = 30.0


class RepairSpec(_Part):
    """What is done about an instance whose machine died or whose services stopped answering.

    `grace`: seconds that an instance is left alone after it entered service. `max_unhealthy`: percent of the
    instances that may be out of service for a repair at the same time, at least one.
    """

    action: Literal["replace", "reimage", "restart", "none"] = "restart"
    grace: RepairGrace = 300.0
    max_unhealthy: Percent = 20


class UpdateSpec(_Part):
    """How a changed model reaches the instances: counts, or percent of the declared instances."""

    max_surge: Share = 1
    max_unavailable: Share = 0

    def surge(self, instances: int) -> int:
        """How many more than declared there may be; a percentage is rounded up."""
        return share_of(self.max_surge, instances, round_up=True)

    def unavailable(self, instances: int) -> int:
        """How many fewer than declared may serve; a percentage is rounded down."""
        return share_of(self.max_unavailable, instances, round_up=False)

    @model_validator(mode="after")
    def _can_move(self) -> UpdateSpec:
        if self.surge(100) == self.unavailable(100) == 0:
            raise ValueError("'max_surge' and 'max_unavailable' are both 0: no instance could ever be replaced")
        return self


Command = Annotated[str, StringConstraints(min_length=1)]


class HooksSpec(_Part):
    """Commands in the guest over SSH: before an instance first enters rotation, and while it is drained.

    `timeout` is for all commands of one hook together.
    """

    on_claim: tuple[Command, ...] = ()
    on_drain: tuple[Command, ...] = ()
    timeout: HookTimeout = 30.0


class ScaleSetSpec(_Part):
    """One document of a scale set file. `zones` None: all zones of the configured hosts."""

    kind: Literal["ScaleSet"] = "ScaleSet"
    name: SetName
    image: ImageRef
    instances: Annotated[int, Field(ge=0, le=100_000, strict=True)] = 1
    machine: MachineSpec = MachineSpec()
    local_storage: LocalStorageSpec | None = None
    drives: Annotated[tuple[DriveSpec, ...], Field(max_length=MAX_DRIVES)] = ()
    setup: SetupSpec = SetupSpec()
    readiness: tuple[Probe, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    standby: StandbySpec | None = None
    zones: tuple[ZoneName, ...] | None = None
    scale_in: ScaleInSpec = ScaleInSpec()
    repair: RepairSpec = RepairSpec()
    update: UpdateSpec = UpdateSpec()
    hooks: HooksSpec = HooksSpec()

    @field_validator("zones")
    @classmethod
    def _some_zones_once_each(cls, zones: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if zones is not None and not zones:
            raise ValueError(
                "at least one zone is needed (leave 'zones' out for all zones of the configured hosts)"
            )
        if zones is not None and len(set(zones)) < len(zones):
            raise ValueError(f"zone {_first_double(list(zones))!r} is named twice")
        return zones

    @model_validator(mode="after")
    def _names_and_ports(self) -> ScaleSetSpec:
        names = [endpoint.name for endpoint in self.endpoints]
        if len(set(names)) < len(names):
            raise ValueError(f"two endpoints are named {_first_double(names)!r}")
        sockets = [f"{endpoint.address}:{endpoint.listen}" for endpoint in self.endpoints]
        if len(set(sockets)) < len(sockets):
            raise ValueError(f"two endpoints listen on {_first_double(sockets)}")
        shifted = {port + LOOPBACK_SHIFT for port in self.guest_ports() if port < 1024} & set(self.guest_ports())
        if shifted:
            port = min(shifted)
            raise ValueError(f"guest ports {port} and {port - LOOPBACK_SHIFT} cannot both be used")
        if self.setup.answer_file != "cloud-init" and any(probe.command for probe in self.readiness):
            raise ValueError("a 'command' probe needs 'answer_file: cloud-init' (it runs over SSH)")
        if self.setup.answer_file != "cloud-init" and (self.hooks.on_claim or self.hooks.on_drain):
            raise ValueError("'hooks' need 'answer_file: cloud-init' (they run over SSH)")
        if self.setup.fork and self.local_storage is not None:
            raise ValueError("'setup.fork: true' and 'local_storage' do not go together: machines with it boot")
        refuse_bad_storage(self.local_storage, self.drives, self.setup.answer_file)
        return self

    def guest_ports(self) -> tuple[int, ...]:
        """Every guest port that must be reachable from the host, sorted."""
        ports = {endpoint.port for endpoint in self.endpoints}
        ports |= {probe.port for probe in self.readiness if probe.port is not None}
        if self.setup.answer_file == "cloud-init":
            ports.add(SSH_PORT)
        return tuple(sorted(ports))

    def to_json(self) -> str:
        """Canonical JSON, read back by `ScaleSetSpec.model_validate_json`."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True)


# Of the setup: how long it may take, by which way a machine comes to the same, and the files that uploads and
# secrets came from (these have digests).
_NO_SHAPE: Any = {
    "timeout": True,
    "fork": True,
    "steps": {"__all__": {"upload": {"source"}}},
    "windows": {"administrator_password_file"},
    "secrets": {"__all__": {"file"}},
}


def model_digest(spec: ScaleSetSpec, image_digest: str) -> str:
    """16 hex digits over everything that shapes a machine: image, machine, setup, guest ports, further disks.

    Two specs with the same digest make interchangeable machines; counts, pool, policies, endpoints' outer
    side, zones and readiness do not belong to it.
    """
    shape = {
        "image": image_digest,
        # Without what is as by default: a key that a later version adds makes no pool stale.
        "machine": spec.machine.model_dump(mode="json", exclude_defaults=True),
        "setup": spec.setup.model_dump(mode="json", by_alias=True, exclude=_NO_SHAPE, exclude_defaults=True),
        "ports": spec.guest_ports(),
        **storage_shape(spec.local_storage, spec.drives),
    }
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:16]


def _first_double(values: list[str]) -> str:
    return next(value for index, value in enumerate(values) if value in values[:index])
