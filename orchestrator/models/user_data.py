"""What user data may be: text of a kind that cloud-init knows or a mapping, and without the keys that are ours."""

from __future__ import annotations

import json
import re
from typing import Any

# Keys of cloud-config through which the operator would lock the product out of its own guest.
RESERVED_USER_DATA = ("ssh_keys", "disable_root", "ssh_deletekeys", "manual_cache_clean")

# A key as YAML writes it: at the start of a line, or after the brace or comma of a mapping in flow style. The text
# is not parsed here, because before Jinja2 has filled it in it need not be YAML.
_KEY = re.compile(r"""(?:^|[{,])\s*["']?([A-Za-z_]+)["']?\s*:""")


def refuse_reserved(user_data: dict[str, Any] | str) -> None:
    """Raises ValueError if user data would take the keys by which Understudy reaches the guest."""
    keys = user_data if isinstance(user_data, dict) else _top_level_keys(user_data)
    for key in RESERVED_USER_DATA:
        if key in keys:
            raise ValueError(f"user data may not set {key!r}: Understudy needs it to reach the guest")


def refuse_what_json_cannot_hold(user_data: dict[str, Any] | str) -> None:
    """The spec is kept as JSON: dates, sets, bytes or keys that are no text would come back as something else.
    Raises ValueError."""
    try:
        text = json.dumps(user_data, ensure_ascii=False, allow_nan=False)
        text.encode()
        same = json.loads(text) == user_data
    except (TypeError, ValueError, RecursionError):
        same = False
    if not same:
        raise ValueError("user data may hold only text, numbers, true/false, lists and mappings with text keys")


def _top_level_keys(text: str) -> set[str]:
    if not text.startswith("#cloud-config"):
        return set()
    lines = (line for line in text.splitlines() if line[:1] not in ("", " ", "#"))
    return {match[1] for line in lines for match in _KEY.finditer(line)}
