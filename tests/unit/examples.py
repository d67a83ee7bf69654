"""How hard property tests try. `UNDERSTUDY_EXAMPLES=2000` makes a long search of it."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_EXAMPLES = int(os.environ.get("UNDERSTUDY_EXAMPLES", "80"))

many = settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
some = settings(many, max_examples=max(_EXAMPLES * 3 // 5, 1))
