"""The NoCloud answer files of one machine.

What Understudy needs (host key, root login by key) goes into vendor-data and meta-data; user-data belongs to
the operator and is passed on as written, after Jinja2. cloud-init itself lays user-data over vendor-data.
Contract: https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from orchestrator.errors import SpecError
from orchestrator.models.spec import ScaleSetSpec

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

SEED_LABEL = "cidata"


@dataclass(frozen=True)
class GuestNetwork:
    """Static configuration of the guest's first card. `address` is in CIDR form, as the guest sees it."""

    mac: str
    address: str
    gateway: str = ""
    nameservers: tuple[str, ...] = ()


@dataclass(frozen=True)
class GuestIdentity:
    """Who a machine is: unique for every incarnation, except the name and the address."""

    instance_id: str
    name: str
    address: str
    host_key_private: str
    host_key_public: str
    operator_key: str
    network: GuestNetwork


def render_seed(
    spec: ScaleSetSpec, identity: GuestIdentity, secrets: Mapping[str, str] | None = None
) -> dict[str, bytes]:
    """File name -> content. `secrets`: of the spec, name -> value. Raises SpecError if user-data's template cannot
    be rendered."""
    meta = {
        "instance-id": identity.instance_id,
        "local-hostname": identity.name,
        "public-keys": [identity.operator_key],
    }
    vendor = {
        "ssh_keys": {
            "ed25519_private": identity.host_key_private,
            "ed25519_public": identity.host_key_public,
        },
        "ssh_pwauth": False,
        "disable_root": False,
        "manage_etc_hosts": "localhost",
        # The seed is taken out after setup: without it, a boot is still one of this instance.
        "manual_cache_clean": True,
    }
    documents = {
        "meta-data": _dump(meta),
        "vendor-data": "#cloud-config\n" + _dump(vendor),
        "network-config": _dump(_network(identity.network)),
        "user-data": render_user_data(spec, identity.name, identity.address, secrets),
    }
    return {name: text.encode() for name, text in documents.items()}


def render_user_data(
    spec: ScaleSetSpec, instance: str, address: str, secrets: Mapping[str, str] | None = None
) -> str:
    """User-data with its variables filled in: `instance.name`, `instance.address`, `set.name`, `secrets.NAME`."""
    wanted = spec.setup.user_data
    variables = {
        "instance": {"name": instance, "address": address},
        "set": {"name": spec.name},
        "secrets": SimpleNamespace(**(secrets or {})),
    }
    if wanted is None:
        return "#cloud-config\n{}\n"
    if isinstance(wanted, str):
        return _fill(wanted, variables)
    return "#cloud-config\n" + _dump(_fill_tree(wanted, variables))


def _network(network: GuestNetwork) -> dict[str, Any]:
    card: dict[str, Any] = {
        "match": {"macaddress": network.mac},
        "dhcp4": False,
        "addresses": [network.address],
    }
    if network.gateway:
        # Not `default`: cloud-init 22.4 of Debian 12 does not know the word.
        card["routes"] = [{"to": "0.0.0.0/0", "via": network.gateway}]
    if network.nameservers:
        card["nameservers"] = {"addresses": list(network.nameservers)}
    return {"version": 2, "ethernets": {"primary": card}}


def _dump(document: Any) -> str:
    # Loaded where a machine is made: most commands check user data, and write none.
    from orchestrator.render.block_yaml import dump_blocks

    return dump_blocks(document)


# `{#` begins a comment in Jinja2 and a length in a shell (`${#name}`): comments are moved out of the way.
_COMMENT = ("{##--", "--##}")
_MARKS = ("{{", "{%", _COMMENT[0])


@cache
def _environment() -> SandboxedEnvironment:
    # Loaded by the first text that has something to fill in: most have not, and a creation waits for it.
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment(
        undefined=StrictUndefined,
        comment_start_string=_COMMENT[0],
        comment_end_string=_COMMENT[1],
        keep_trailing_newline=True,
    )


def _fill(text: str, variables: dict[str, Any]) -> str:
    if not any(mark in text for mark in _MARKS):
        return text
    environment = _environment()
    from jinja2 import TemplateError

    # Jinja2 makes all line ends alike: those of DOS are put back, for the operator meant them.
    dos = "\r\n" in text
    try:
        filled = environment.from_string(text).render(variables)
        return filled.replace("\n", "\r\n") if dos else filled
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError) as error:
        number = getattr(error, "lineno", None)
        line = f" (line {number})" if number else ""
        raise SpecError(
            f"user_data is not a usable Jinja2 template{line}: {error}",
            "known: instance.name, instance.address, set.name, secrets.NAME; put literal braces in {% raw %}",
        ) from error


def _fill_tree(value: Any, variables: dict[str, Any]) -> Any:
    if isinstance(value, str):
        return _fill(value, variables)
    if isinstance(value, dict):
        return {key: _fill_tree(item, variables) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fill_tree(item, variables) for item in value]
    return value
