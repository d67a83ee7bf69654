"""Two waits for one guest at the same time, where neither needs what the other waits for.

```
  this thread   ──┬── the block ──────────────┬── both are done
  another one     └── `work` ─────────────────┘   (whichever fails first ends the other, and is what is raised)
```

What is done was decided under a lease, which each thread has to say for itself (`store.fence`). So only this one
asks whether it is still wanted, and `work` must not look up a host: it gets what it needs beforehand.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace

from orchestrator.errors import Interrupted
from orchestrator.ports.guest import Patience

_LOOK_SECONDS = 0.05


@contextmanager
def beside(work: Callable[[Patience], None], patience: Patience) -> Iterator[Patience]:
    """Does `work` while the block runs, which gets the patience that it is to have. Raises what failed first,
    Interrupted if neither is wanted any more; nothing goes on afterwards."""
    given_up = threading.Event()
    with ThreadPoolExecutor(1, "beside") as pool:
        done = pool.submit(work, replace(patience, is_cancelled=given_up.is_set))
        try:
            try:
                yield replace(patience, is_cancelled=lambda: patience.is_cancelled() or _has_failed(done))
            except Interrupted:
                if _has_failed(done):
                    done.result()
                raise
            _await(done, patience)
        finally:
            given_up.set()


def _has_failed(done: Future[None]) -> bool:
    return done.done() and done.exception() is not None


def _await(done: Future[None], patience: Patience) -> None:
    while not wait({done}, _LOOK_SECONDS).done:
        if patience.is_cancelled():
            raise Interrupted("the work is no longer wanted")
    done.result()
