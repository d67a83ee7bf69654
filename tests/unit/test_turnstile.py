"""Who waits for whom when machines are started at once."""

from __future__ import annotations

import threading

from orchestrator.drivers.libvirt.turnstile import Turnstile


def test_nobody_waits_for_nobody() -> None:
    Turnstile().await_empty(1000)


def test_the_last_one_out_lets_everybody_go_on() -> None:
    turnstile = Turnstile()
    went_on = threading.Event()

    def wait() -> None:
        turnstile.await_empty(1000)
        went_on.set()

    with turnstile.inside():
        with turnstile.inside():
            waiting = threading.Thread(target=wait)
            waiting.start()
        assert not went_on.is_set()
    waiting.join(timeout=60)
    assert went_on.is_set()


def test_nobody_waits_longer_than_given() -> None:
    turnstile = Turnstile()
    with turnstile.inside():
        turnstile.await_empty(0)


def test_one_that_fails_holds_up_nobody() -> None:
    turnstile = Turnstile()
    try:
        with turnstile.inside():
            raise OSError
    except OSError:
        turnstile.await_empty(1000)
