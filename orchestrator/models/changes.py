"""What differs between two declarations of a set, in a line for its operator. Pure."""

from __future__ import annotations

from typing import Any

from orchestrator.models.spec import ScaleSetSpec

# What is in it may be long, or nobody's business: only its keys are told.
_UNTOLD = frozenset({"setup", "hooks"})


def describe_changes(before: ScaleSetSpec, after: ScaleSetSpec, images: tuple[str, str]) -> str:
    """`instances 2 -> 3; standby.max_ready 4 -> 6; setup.steps`; `images`: the versions (name:version) of both."""
    old: dict[str, Any] = before.model_dump(mode="json", by_alias=True)
    new: dict[str, Any] = after.model_dump(mode="json", by_alias=True)
    old["image"], new["image"] = images
    words = []
    for key, value in new.items():
        if old[key] == value:
            continue
        if isinstance(old[key], dict) and isinstance(value, dict):
            words += _within(key, old[key], value)
        else:
            words.append(_change(key, old[key], value))
    return "; ".join(words) or "only how it is written"


def _within(key: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    names = [name for name in new if old.get(name) != new[name]]
    return [
        f"{key}.{name}" if key in _UNTOLD else _change(f"{key}.{name}", old.get(name), new[name]) for name in names
    ]


def _change(key: str, old: object, new: object) -> str:
    """With both values where these are short."""
    texts = [_text(one) for one in (old, new)]
    if None not in texts:
        return f"{key} {texts[0]} -> {texts[1]}"
    return key if old and new else f"{key} {'added' if new else 'given up'}"


def _text(value: object) -> str | None:
    """None for what does not fit in a line: lists and mappings of anything but single values."""
    if value is None or value in ([], {}):
        return "none"
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return None if isinstance(value, dict | list) else str(value)
