"""Run in the network of the guests: says when each of them first answers, the same way whichever tool made them.

`python -m tests.support.benchmarks.tools.answering COUNT SECONDS ADDRESS...` asks every address for its page until
COUNT of them gave one, and prints a line `ready`, then for each answer its address and the monotonic clock.
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
from collections.abc import Sequence

PORT = 80
PAUSE = 0.03
# Short: a guest that is not there yet keeps one try from being the next.
TIMEOUT = 0.4


def ask(address: str, port: int) -> bool:
    """Whether the page is there."""
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def await_answers(count: int, seconds: float, addresses: Sequence[str], port: int = PORT) -> dict[str, float]:
    """The first `count` addresses that answer, with the monotonic clock; fewer if time is up before."""
    end = time.monotonic() + seconds
    found: dict[str, float] = {}
    enough = threading.Event()

    def watch(address: str) -> None:
        while time.monotonic() < end and not enough.is_set():
            if ask(address, port):
                found[address] = time.monotonic()
                if len(found) >= count:
                    enough.set()
                return
            enough.wait(PAUSE)

    threads = [threading.Thread(target=watch, args=(address,)) for address in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def main() -> None:
    count, seconds, *addresses = sys.argv[1:]
    print("ready", flush=True)
    for address, moment in await_answers(int(count), float(seconds), addresses).items():
        print(address, moment, flush=True)


if __name__ == "__main__":
    main()
