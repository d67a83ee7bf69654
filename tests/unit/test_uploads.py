"""Upload archives: what was applied is kept, named by content."""

from __future__ import annotations

import os
import socket
import stat
import tarfile
from pathlib import Path

import pytest

from orchestrator.config.uploads import pack_uploads, prune_uploads, upload_archive
from orchestrator.errors import SpecError
from orchestrator.models.spec import ScaleSetSpec
from tests.builders import make_spec


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    (folder / "css").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>Hello</h1>\n", encoding="utf-8")
    (folder / "css" / "main.css").write_text("h1 {}\n", encoding="utf-8")
    (folder / "run.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    (folder / "run.sh").chmod(0o755)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


def spec_for(source: Path | str, to: str) -> ScaleSetSpec:
    return make_spec(setup={"steps": [{"run": "true"}, {"upload": {"from": str(source), "to": to}}]})


def packed(source: Path | str, to: str, store: Path) -> tarfile.TarFile:
    upload = pack_uploads(spec_for(source, to), store).setup.steps[1].upload
    assert upload is not None
    assert upload.digest is not None
    return tarfile.open(upload_archive(store, upload.digest))


def test_the_content_of_a_folder_goes_below_its_target(site: Path, store: Path) -> None:
    with packed(site, "/srv/www", store) as archive:
        assert archive.getnames() == [
            "srv/www/css",
            "srv/www/css/main.css",
            "srv/www/index.html",
            "srv/www/run.sh",
        ]


def test_a_file_becomes_its_target(site: Path, store: Path) -> None:
    with packed(site / "index.html", "/srv/start.html", store) as archive:
        assert archive.getnames() == ["srv/start.html"]


def test_a_file_goes_into_a_target_that_ends_with_a_slash(site: Path, store: Path) -> None:
    with packed(site / "index.html", "/srv/", store) as archive:
        assert archive.getnames() == ["srv/index.html"]


def test_files_belong_to_root_and_keep_their_mode(site: Path, store: Path) -> None:
    with packed(site, "/srv", store) as archive:
        script = archive.getmember("srv/run.sh")
        assert (script.uid, script.gid, script.uname, script.mtime) == (0, 0, "root", 0)
        assert script.mode & 0o777 == 0o755


def digest(source: Path, store: Path) -> str | None:
    upload = pack_uploads(spec_for(source, "/srv"), store).setup.steps[1].upload
    return upload.digest if upload else None


def test_the_same_content_has_the_same_digest_whenever_it_was_written(site: Path, store: Path) -> None:
    first = digest(site, store)
    os.utime(site / "index.html", (1, 1))
    assert digest(site, store) == first
    assert len(list(store.iterdir())) == 1


def test_other_content_has_another_digest(site: Path, store: Path) -> None:
    first = digest(site, store)
    (site / "index.html").write_text("<h1>Bye</h1>\n", encoding="utf-8")
    assert digest(site, store) != first


def test_an_archive_is_private(site: Path, store: Path) -> None:
    name = digest(site, store)
    assert name is not None
    assert stat.S_IMODE(upload_archive(store, name).stat().st_mode) == 0o600


def test_what_is_packed_is_not_packed_again(site: Path, store: Path) -> None:
    once = pack_uploads(spec_for(site, "/srv"), store)
    (site / "index.html").unlink()
    assert pack_uploads(once, store) == once


def test_archives_that_no_set_needs_are_removed(site: Path, store: Path) -> None:
    kept = pack_uploads(spec_for(site, "/srv"), store)
    dropped = digest(site / "index.html", store)
    prune_uploads([make_spec(), kept], store)
    upload = kept.setup.steps[1].upload
    assert upload is not None
    assert [archive.name for archive in store.iterdir()] == [f"{upload.digest}.tar"]
    assert upload.digest != dropped


def test_a_file_that_went_away_is_named(tmp_path: Path, store: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot upload .*gone"):
        pack_uploads(spec_for(tmp_path / "gone", "/srv"), store)


@pytest.mark.parametrize("kind", ["a named pipe", "a socket"])
def test_what_is_no_file_is_refused_with_its_path_alone_and_within_a_folder(
    kind: str, site: Path, store: Path
) -> None:
    strange = site / "css" / "strange"
    if kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(strange))
    else:
        os.mkfifo(strange)
    for source, to in ((site, "/srv/www"), (strange, "/srv/strange")):
        with pytest.raises(SpecError) as error:
            packed(source, to, store)
        assert error.value.message == f"cannot upload {source}: {strange} is {kind}"
        assert error.value.fix == "files can be uploaded, and folders of files, folders and links"
    assert list(store.iterdir()) == []


def test_a_device_is_refused(store: Path) -> None:
    with pytest.raises(SpecError, match="cannot upload /dev/null: /dev/null is a device"):
        packed("/dev/null", "/srv/null", store)


def test_links_in_a_folder_are_uploaded_as_links_whatever_they_point_to(site: Path, store: Path) -> None:
    (site / "current").symlink_to("/dev/null")
    with packed(site, "/srv/www", store) as archive:
        assert archive.getmember("srv/www/current").linkname == "/dev/null"
