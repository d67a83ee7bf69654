"""YAML in the shape that small NoCloud readers understand: multi-line strings as block scalars."""

from __future__ import annotations

from typing import Any

import yaml


class _BlockDumper(yaml.SafeDumper):
    """Has a representer of its own for text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_BlockDumper.add_representer(str, _represent_text)


def dump_blocks(document: Any) -> str:
    return yaml.dump(document, Dumper=_BlockDumper, default_flow_style=False, sort_keys=False, width=4096)
