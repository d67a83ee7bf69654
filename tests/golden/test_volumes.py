"""Storage pool and volume XML."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.render.volumes import render_disk_volume, render_overlay, render_pool, render_volume
from tests.builders import GIB
from tests.golden.golden import assert_golden
from tests.unit.examples import many


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pool.xml", render_pool("understudy", "/var/lib/understudy/volumes")),
        ("volume-raw.xml", render_volume("understudy-web-4tz9k.1.seed.iso", 376832, "raw")),
        ("volume-image.xml", render_volume("understudy-image-d1.qcow2", 20 * 2**20, "raw", mode="0444")),
        ("volume-disk.xml", render_disk_volume("understudy-drive.web.data.0.qcow2", 4 * GIB)),
        ("volume-overlay.xml", render_overlay("understudy-web-4tz9k.1.qcow2", 4 * GIB, "/srv/base.qcow2")),
    ],
)
def test_a_volume_is_rendered_like_its_golden_file(name: str, text: str) -> None:
    assert_golden(name, text + "\n")


def test_a_pool_can_be_passed_through_but_not_listed() -> None:
    pool = ElementTree.fromstring(render_pool("understudy", "/srv/volumes"))
    assert pool.get("type") == "dir"
    assert pool.findtext("target/path") == "/srv/volumes"
    assert pool.findtext("target/permissions/mode") == "0711"


def test_an_overlay_names_its_base_and_its_format() -> None:
    volume = ElementTree.fromstring(render_overlay("a.qcow2", 4 * GIB, "/srv/base.qcow2"))
    backing = volume.find("backingStore")
    assert backing is not None
    assert backing.findtext("path") == "/srv/base.qcow2"
    assert [one.get("type") for one in volume.iter("format")] == ["qcow2", "qcow2"]
    assert (volume.findtext("capacity"), volume.findtext("target/permissions/mode")) == (str(4 * GIB), "0600")


def test_a_disk_for_guests_is_qcow2_and_stands_alone() -> None:
    volume = ElementTree.fromstring(render_disk_volume("a", 5))
    assert [one.get("type") for one in volume.iter("format")] == ["qcow2"]
    assert (volume.find("backingStore"), volume.find("allocation")) == (None, None)


def test_a_raw_volume_takes_no_room_until_it_is_filled() -> None:
    assert ElementTree.fromstring(render_volume("a", 5, "raw")).findtext("allocation") == "0"


@many
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1))
def test_no_name_or_path_breaks_out(text: str) -> None:
    assert ElementTree.fromstring(render_pool(text, text)).findtext("target/path") == text
    assert ElementTree.fromstring(render_volume(text, 1, "raw")).findtext("name") == text
    assert ElementTree.fromstring(render_overlay(text, 1, text)).findtext("backingStore/path") == text
