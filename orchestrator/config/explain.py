"""pydantic's complaints in an operator's words: where, what, and the nearest key."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

# Keys of similar services that cannot mean here what they mean there (row B15): key -> why, and what to do.
_SPOT = "machines here are never preempted, and a pool of preemptible ones would be no reserve: leave the key out"
_ONE_DOMAIN = "a set has one fault domain in each zone; spread it with 'zones'"
_ONE_PLACE = "a pool is on the hosts of its set, in no other region or host group: leave the key out"
_ONE_OWNER = "a pool belongs to the owner of its set, and an installation has one owner: leave the key out"
_FLEXIBLE = (
    "sets are flexible: instances are named and live one by one; a uniform set has no pool. Leave the key out"
)
ELSEWHERE = {
    "spot": _SPOT,
    "preemptible": _SPOT,
    "priority": _SPOT,
    "eviction_policy": _SPOT,
    "fault_domains": _ONE_DOMAIN,
    "fault_domain_count": _ONE_DOMAIN,
    "platform_fault_domain_count": _ONE_DOMAIN,
    "region": _ONE_PLACE,
    "location": _ONE_PLACE,
    "host_group": _ONE_PLACE,
    "owner": _ONE_OWNER,
    "tenant": _ONE_OWNER,
    "subscription": _ONE_OWNER,
    "orchestration": _FLEXIBLE,
    "orchestration_mode": _FLEXIBLE,
    "standby_pools": "a set has one standby pool: 'standby', in several states by a mix of percentages",
    "autoscale": (
        "it is reserved and not there yet; it will go with a pool of any state, a running one too. "
        "Leave the key out, and set 'instances' or run: understudy scale SET N"
    ),
}
_OWN_DRIVE = "every instance gets a drive of its own, and no drive is attached to two: leave the key out"
_OF_DRIVES = dict.fromkeys(
    ("instance", "instances", "member", "members", "attach", "attached_to", "shared"), _OWN_DRIVE
)
_KINDS = {"tuple_type": "must be a list", "dict_type": "must be a mapping", "model_type": "must be a mapping"}
_CAPITAL = re.compile("(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Problem:
    """`where`: keys and list positions from the document's root."""

    where: tuple[str | int, ...]
    text: str


def explain(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """One problem for each complaint, in document order."""
    return [_problem(dict(item), model) for item in error.errors(include_url=False)]


def _problem(item: dict[str, Any], model: type[BaseModel]) -> Problem:
    where = tuple(item["loc"])
    path = ".".join(str(part) for part in where)
    if item["type"] == "extra_forbidden":
        return Problem(where, _unknown_key(where, model))
    if item["type"] == "missing":
        return Problem(where[:-1], f"key {path!r} is missing")
    message = _KINDS.get(str(item["type"])) or str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return Problem(where, f"{path}: {message}" if path else message)
    return Problem(where, f"{path}: {message} (given: {item['input']!r})")


def _unknown_key(where: tuple[str | int, ...], model: type[BaseModel]) -> str:
    key = str(where[-1])
    meant = _CAPITAL.sub("_", key).lower()
    why = (_OF_DRIVES.get(meant) if where[0] == "drives" else None) or ELSEWHERE.get(meant)
    if why:
        return f"key {key!r} is refused: {why}"
    known = _keys_at(model, where[:-1])
    nearest = difflib.get_close_matches(key, known, n=1)
    if nearest:
        return f"unknown key {key!r} (nearest: {nearest[0]!r})"
    return f"unknown key {key!r} (known: {', '.join(sorted(known))})"


def _keys_at(model: type[BaseModel], where: tuple[str | int, ...]) -> list[str]:
    current = model
    parts = iter(where)
    for part in parts:
        if isinstance(part, int):
            continue
        field = next((field for name, field in current.model_fields.items() if part in (name, field.alias)), None)
        found = _model_in(field.annotation) if field else None
        if found is None:
            return []
        if field is not None and get_origin(field.annotation) is dict:
            next(parts, None)  # a name that the operator chose
        current = found
    return [field.alias or name for name, field in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if (found := _model_in(argument)) is not None:
            return found
    return None
