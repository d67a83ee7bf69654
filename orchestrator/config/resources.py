"""Templates and image recipes: inside the installed package, or beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import UnderstudyError

_PACKAGE = Path(__file__).resolve().parent.parent


def resource(name: str) -> Path:
    """`templates/haproxy.cfg.j2`, `images/micro` … as a real path. Raises UnderstudyError if it is missing."""
    for root in (_PACKAGE / "_resources", _PACKAGE.parent):
        if (root / name).exists():
            return root / name
    raise UnderstudyError(f"the installation lacks {name}", "reinstall understudy")


def template(name: str) -> str:
    """Text of a template."""
    return resource(f"templates/{name}").read_text(encoding="utf-8")
