"""The owner tag: written, and read back by `adopt`."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.models.members import Role
from orchestrator.models.ownership import OwnerTag, TagState
from orchestrator.render.owner import parse_owner, render_owner
from tests.builders import INSTALLATION
from tests.unit.examples import many

TAG = OwnerTag(
    installation=INSTALLATION,
    set_name="web",
    member="web-4tz9k",
    incarnation=2,
    model="9f3c0d1e2a4b5c6d",
    image="micro:1",
    digest="d1" * 32,
    role=Role.STANDBY,
    state=TagState.SET_UP,
    address="127.77.0.2",
    created_at=1767607781.25,
)


def written(tag: OwnerTag, namespace: str | None = None) -> str:
    element = render_owner(tag) if namespace is None else render_owner(tag, namespace)
    return ElementTree.tostring(element, encoding="unicode")


@many
@given(
    st.sampled_from(Role),
    st.sampled_from(TagState),
    st.integers(1, 10**6),
    st.floats(1, 10**10),
    st.ip_addresses(v=4).map(str),
    st.booleans(),
)
def test_what_is_written_is_read_back(
    role: Role, state: TagState, incarnation: int, created: float, address: str, forked: bool
) -> None:
    tag = replace(TAG, role=role, state=state, incarnation=incarnation, created_at=created, address=address)
    tag = replace(tag, forked=forked)
    assert parse_owner(written(tag)) == tag
    assert parse_owner(written(tag, "")) == tag


@pytest.mark.parametrize("name", list(ElementTree.fromstring(written(TAG)).attrib))
def test_a_tag_that_lacks_something_or_has_something_else_says_nothing(name: str) -> None:
    element = ElementTree.fromstring(written(TAG))
    del element.attrib[name]
    assert parse_owner(ElementTree.tostring(element, encoding="unicode")) is None
    if name == "installation":  # compared, and nothing else
        return
    for strange in ("../../etc", "web-\n", "x" * 300, "web 1", "\u0661"):
        element.set(name, strange)
        assert parse_owner(ElementTree.tostring(element, encoding="unicode")) is None


def test_a_member_of_another_set_than_the_tag_says_is_none() -> None:
    assert parse_owner(written(replace(TAG, set_name="api"))) is None


@many
@given(st.dictionaries(st.sampled_from(["set", "member", "created", "address", "role"]), st.text(max_size=30)))
def test_no_tag_makes_it_fail(words: dict[str, str]) -> None:
    element = ElementTree.Element(
        "owner", {key: "".join(c for c in text if c.isprintable()) for key, text in words.items()}
    )
    parse_owner(ElementTree.tostring(element, encoding="unicode"))
