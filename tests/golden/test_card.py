"""Domain XML of a machine that waits for its card, and the filter that it gets."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from orchestrator.models.machine import Nic
from orchestrator.render.card import find_pending, render_bare, render_card, render_held
from orchestrator.render.domain import render_domain
from orchestrator.render.filter import render_filter
from orchestrator.render.fork import render_kept
from tests.golden.golden import assert_golden
from tests.golden.test_domain import FILES, NETWORK, blueprint, only

MEMBER = "web-4tz9k"


def defined(nic: Nic = NETWORK) -> str:
    return render_domain(blueprint(nic=nic), FILES, "tcg")


def held(nic: Nic = NETWORK) -> str:
    return render_held(defined(nic), nic, MEMBER)


def links(document: str) -> list[str | None]:
    return [link.get("state") for link in ElementTree.fromstring(document).findall("./devices/interface/link")]


def test_a_held_machine_is_rendered_like_its_golden_file() -> None:
    assert_golden("domain-held.xml", held() + "\n")


def test_the_products_filter_is_rendered_like_its_golden_file() -> None:
    assert_golden("filter.xml", render_filter() + "\n")


def test_what_was_put_off_is_found_in_the_machine_itself() -> None:
    pending = find_pending(held())
    assert pending is not None
    assert (pending.nic.mac, pending.nic.address, pending.nic.network) == (NETWORK.mac, NETWORK.address, "default")
    assert pending.member == MEMBER
    card = ElementTree.fromstring(render_card(held(), filterref=pending.filterref) or "")
    expected = only(ElementTree.fromstring(defined()), "./devices/interface/filterref")
    assert ElementTree.canonicalize(ElementTree.tostring(only(card, "filterref")), strip_text=True) == (
        ElementTree.canonicalize(ElementTree.tostring(expected), strip_text=True)
    )
    assert only(card, "link").get("state") == "down"


def test_a_filter_that_is_there_is_not_put_off_any_more() -> None:
    pending = find_pending(held())
    assert pending is not None
    root = ElementTree.fromstring(held())
    only(root, "./devices/interface").append(ElementTree.fromstring(pending.filterref))
    after = find_pending(ElementTree.tostring(root, encoding="unicode"))
    assert after == replace(pending, filterref="")


def test_without_a_filter_there_is_a_reservation_to_make() -> None:
    pending = find_pending(held(replace(NETWORK, filter="")))
    assert pending is not None
    assert (pending.filterref, pending.nic.address) == ("", NETWORK.address)


def test_a_machine_that_was_started_from_its_definition_waits_for_nothing() -> None:
    assert find_pending(defined()) is None


def test_a_bare_machine_says_nothing_of_its_link() -> None:
    bare = render_bare(defined(), NETWORK, MEMBER)
    assert links(bare) == []
    assert ElementTree.fromstring(bare).find("./devices/interface/filterref") is None


def test_what_is_kept_of_a_fork_waits_for_nothing_and_says_nothing_of_its_link() -> None:
    kept = render_kept(held())
    assert links(kept) == []
    assert find_pending(kept) is None
    assert "card/1" not in kept


@pytest.mark.parametrize("up", [True, False])
def test_a_card_has_one_link(up: bool) -> None:
    card = render_card(held(), up)
    assert card is not None
    assert [one.get("state") for one in ElementTree.fromstring(card).findall("link")] == ["up" if up else "down"]


def test_in_user_mode_libvirt_knows_of_no_card() -> None:
    document = render_domain(blueprint(), FILES, "tcg")
    assert render_card(document, True) is None
