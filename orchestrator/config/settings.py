"""config.toml: settings of the installation. Every key has a working default."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from orchestrator.config.explain import explain
from orchestrator.config.host_uri import check_host_uri
from orchestrator.errors import SpecError
from orchestrator.models.naming import OWN_FILTER
from orchestrator.models.units import Duration, Percent

Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _default_uri() -> str:
    return "qemu:///system" if os.geteuid() == 0 else "qemu:///session"


class HostSettings(_Part):
    """A machine running libvirtd. `accelerator: auto` finds out by booting a tiny guest."""

    name: Name = "local"
    uri: str = Field(default_factory=_default_uri)
    zone: Name = "a"
    accelerator: Literal["auto", "kvm", "tcg"] = "auto"
    pool_path: str | None = None

    @field_validator("uri")
    @classmethod
    def _of_a_host(cls, value: str) -> str:
        return check_host_uri(value)


class NetworkSettings(_Part):
    """How guests are reached: `user` (a loopback address each) or `network` (a libvirt network by name).

    `filter`: libvirt's network filter (nwfilter) for each card in mode `network`; empty for none.
    """

    mode: Literal["user", "network"] = "user"
    name: str = ""
    range: str = "127.77.0.0/16"
    outbound: bool = False
    filter: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = OWN_FILTER

    @field_validator("range")
    @classmethod
    def _a_network(cls, value: str) -> str:
        try:
            ipaddress.IPv4Network(value)
        except ValueError as error:
            raise ValueError(f"{value!r} is not an IPv4 network such as 127.77.0.0/16") from error
        return value


class LimitSettings(_Part):
    """`parallel`: works under way at once per host, in each of two lanes. `memory_ratio`: committed to physical
    memory.

    `repair_patience`: how long services are silent before an instance is repaired, at least. `golden_free`: share
    of a storage pool's file system that stays free when a golden image is taken.
    """

    parallel: Annotated[int, Field(ge=1, le=256)] = 8
    memory_ratio: Annotated[float, Field(gt=0, le=16)] = 1.0
    retry_pause: Annotated[Duration, Field(gt=0)] = 30.0
    retry_pause_max: Annotated[Duration, Field(gt=0)] = 600.0
    repair_patience: Annotated[Duration, Field(gt=0)] = 15.0
    shutdown_timeout: Annotated[Duration, Field(gt=0)] = 60.0
    golden_free: Percent = 10


class PriceSettings(_Part):
    """Prices in any currency: a virtual processor and a GiB of memory per hour, a GiB of disk per month."""

    vcpu_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    memory_gib_hour: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    disk_gib_month: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    currency: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,8}$")] = ""


class Settings(_Part):
    """All of config.toml. `prefix` begins the name of every domain, volume and pool of this installation."""

    prefix: Name = "understudy"
    store: str = ""
    hosts: tuple[HostSettings, ...] = (HostSettings(),)
    network: NetworkSettings = NetworkSettings()
    limits: LimitSettings = LimitSettings()
    prices: PriceSettings = PriceSettings()

    @field_validator("hosts")
    @classmethod
    def _unique(cls, hosts: tuple[HostSettings, ...]) -> tuple[HostSettings, ...]:
        if not hosts:
            raise ValueError("at least one host is needed")
        names = [host.name for host in hosts]
        if len(set(names)) < len(names):
            raise ValueError("two hosts have the same name")
        return hosts


def load_settings(file: Path) -> Settings:
    """Read config.toml; a missing file is all defaults. Raises SpecError naming file and key."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{file}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {file}: {error}") from error
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        problems = explain(error, Settings)
        raise SpecError("\n".join(f"{file}: {problem.text}" for problem in problems)) from error
