"""Images from a real web server: cut connections, liars, redirects, and going on where an attempt ended."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config.paths import StatePaths
from orchestrator.drivers.http_download import parse_address
from orchestrator.errors import Conflict, DownloadFailed, HostFull, ImageRefused, SpecError, UnderstudyError
from orchestrator.imaging.downloading import DownloadLimits, parse_download
from orchestrator.imaging.importing import import_download
from orchestrator.imaging.repository import Repository
from orchestrator.imaging.stages import prune_stages
from orchestrator.models.members import Image
from tests.support.commands import start_image_command
from tests.support.installation import wait_until
from tests.support.web import Page, Web, serving, write_self_signed

MIB = 2**20
QUICK = DownloadLimits(timeout=20, tries=3, pause=0.01)
DAY = 86400.0


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A qcow2 image of a bit more than 4 MiB."""
    directory = tmp_path_factory.mktemp("disk")
    raw, file = directory / "disk.raw", directory / "disk.qcow2"
    raw.write_bytes(random.Random(1).randbytes(4 * MIB))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, file], check=True)
    return file.read_bytes()


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of this machine stands between the tests and their server."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as made:
        yield made


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    file = tmp_path / "tests.pem"
    write_self_signed(file)
    return file


@pytest.fixture
def trusted_web(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """https with a certificate that is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(certificate) as made:
        yield made


class Site:
    """Adds `disk` from URLs to one repository, and remembers what was said meanwhile."""

    def __init__(self, repository: Repository, disk: bytes) -> None:
        self.repository, self.store, self.paths = repository, repository.store, repository.paths
        self.sha256 = hashlib.sha256(disk).hexdigest()
        self.said: list[tuple[float, str]] = []

    def add(self, url: str, sha256: str = "", limits: DownloadLimits = QUICK, name: str = "web") -> Image:
        download = parse_download(url, sha256 or self.sha256)
        return import_download(self.repository, name, download, lambda *said: self.said.append(said), limits)

    @property
    def partial(self) -> Path:
        return self.paths.work / f"{self.sha256}.partial"

    def leftovers(self) -> list[Path]:
        return [*self.paths.work.iterdir(), *self.paths.images.iterdir()]

    def check_only_the_image_is_there(self, disk: bytes) -> None:
        assert self.leftovers() == [self.paths.images / f"{self.sha256}.qcow2"]
        assert self.leftovers()[0].read_bytes() == disk


@pytest.fixture
def site(repository: Repository, disk: bytes) -> Site:
    return Site(repository, disk)


def ranges(web: Web) -> list[str]:
    return [request.range for request in web.requests]


# ---- what works ------------------------------------------------------------------------------------------


def test_an_image_comes_from_the_web(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk)
    image = site.add(web.url("/x.qcow2?token=secret"), site.sha256.upper())
    assert (image.ref, image.digest, image.source) == ("web:1", site.sha256, web.url("/x.qcow2"))
    assert [(request.path, request.range) for request in web.requests] == [("/x.qcow2?token=secret", "")]
    site.check_only_the_image_is_there(disk)
    percents = [percent for percent, _ in site.said]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert "downloading, 2 of 4 MiB" in [words for _, words in site.said]


def test_a_disk_of_another_format_is_converted(web: Web, site: Site, tmp_path: Path, disk: bytes) -> None:
    (tmp_path / "disk.qcow2").write_bytes(disk)
    files = (tmp_path / "disk.qcow2", tmp_path / "disk.vmdk")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "vmdk", *files], check=True)
    content = (tmp_path / "disk.vmdk").read_bytes()
    web.pages["/x.vmdk"] = Page(content)
    image = site.add(web.url("/x.vmdk"), hashlib.sha256(content).hexdigest())
    assert site.leftovers() == [site.paths.images / f"{image.digest}.qcow2"]
    assert image.virtual_size == 4 * MIB


def test_what_is_there_is_not_downloaded_again(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk)
    assert site.add(web.url("/x.qcow2")) == site.add(web.url("/x.qcow2"))
    assert len(web.requests) == 1


def test_a_body_without_a_length(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, chunked=True, announced=10)  # beside chunks a length does not count
    site.add(web.url("/x.qcow2"))
    site.check_only_the_image_is_there(disk)
    assert "downloading, 2 MiB" in [words for _, words in site.said]


# ---- going on --------------------------------------------------------------------------------------------


def test_a_cut_connection_goes_on_where_it_was(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, cuts=[MIB] * 4)
    site.add(web.url("/x.qcow2"))
    assert ranges(web) == ["", *(f"bytes={done * MIB}-" for done in (1, 2, 3, 4))]
    assert [request.headers.get("If-Range") for request in web.requests] == [None, *['"one"'] * 4]
    site.check_only_the_image_is_there(disk)
    assert any("trying again in 0.01 s" in words for _, words in site.said)


def test_a_stalled_connection_goes_on_where_it_was(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, stalls=[MIB])
    site.add(web.url("/x.qcow2"), limits=DownloadLimits(timeout=1, tries=3, pause=0.01))
    assert ranges(web) == ["", f"bytes={MIB}-"]
    assert any("sent nothing for 1 s" in words for _, words in site.said)
    site.check_only_the_image_is_there(disk)


def test_the_day_of_a_file_stands_in_for_its_tag(web: Web, site: Site, disk: bytes) -> None:
    day = "Wed, 01 Jan 2025 00:00:00 GMT"
    headers = {"ETag": 'W/"weak"', "Last-Modified": day}
    web.pages["/x.qcow2"] = Page(disk, headers, cuts=[MIB])
    site.add(web.url("/x.qcow2"))
    assert web.requests[1].headers["If-Range"] == day
    assert web.requests[1].range == f"bytes={MIB}-"


def test_a_file_without_tag_and_day_goes_on_too(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, {}, cuts=[MIB])
    site.add(web.url("/x.qcow2"))
    assert ranges(web) == ["", f"bytes={MIB}-"]
    assert "If-Range" not in web.requests[1].headers
    site.check_only_the_image_is_there(disk)


def test_what_a_part_does_not_say_is_remembered(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, bare_parts=True, cuts=[MIB, MIB])
    site.add(web.url("/x.qcow2"))
    assert [request.headers.get("If-Range") for request in web.requests] == [None, '"one"', '"one"']
    site.check_only_the_image_is_there(disk)


def test_a_server_without_ranges_starts_over(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, ranges=False, cuts=[MIB])
    site.add(web.url("/x.qcow2"))
    assert ranges(web) == ["", f"bytes={MIB}-"]
    site.check_only_the_image_is_there(disk)


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_changed_meanwhile_starts_over(web: Web, site: Site, disk: bytes, heeds: bool) -> None:
    web.pages["/x.qcow2"] = Page(bytes(len(disk)), {"ETag": '"old"'}, cuts=[MIB, 0, 0])
    with pytest.raises(DownloadFailed):
        site.add(web.url("/x.qcow2"))
    assert site.partial.stat().st_size == MIB
    web.pages["/x.qcow2"] = Page(disk, {"ETag": '"new"'}, heeds_if_range=heeds)
    web.requests.clear()
    site.add(web.url("/x.qcow2"))
    assert web.requests[0].headers["If-Range"] == '"old"'
    assert ranges(web) == [f"bytes={MIB}-"] + ([] if heeds else [""])
    site.check_only_the_image_is_there(disk)


def test_what_arrived_is_kept_and_another_mirror_goes_on(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, cuts=[MIB, 0, 0])
    with pytest.raises(DownloadFailed, match=r"ended after 1 of 4 MiB \(3 times in a row\)") as caught:
        site.add(web.url("/x.qcow2"))
    assert "the same command goes on there" in caught.value.fix
    assert site.partial.read_bytes() == disk[:MIB]
    assert site.partial.stat().st_mode & 0o777 == 0o600
    assert sorted(file.suffix for file in site.leftovers()) == [".origin", ".partial"]
    web.pages["/mirror/y.qcow2"] = Page(disk, {"ETag": '"two"'})
    site.add(web.url("/mirror/y.qcow2"))
    assert web.requests[-1].range == f"bytes={MIB}-"
    assert "If-Range" not in web.requests[-1].headers
    site.check_only_the_image_is_there(disk)


def test_a_mirror_with_a_file_of_another_size_starts_over(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/old.qcow2"] = Page(disk[: 3 * MIB], cuts=[MIB, 0, 0])
    with pytest.raises(DownloadFailed):
        site.add(web.url("/old.qcow2"))
    web.requests.clear()
    web.pages["/new.qcow2"] = Page(disk)
    site.add(web.url("/new.qcow2"))
    assert ranges(web) == [f"bytes={MIB}-", ""]
    site.check_only_the_image_is_there(disk)


def test_interrupted_behind_the_last_byte_nothing_is_asked_again(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk)

    def interrupt(_percent: float, words: str) -> None:
        if words.startswith("computing"):
            raise KeyboardInterrupt

    download = parse_download(web.url("/x.qcow2"), site.sha256)
    with pytest.raises(KeyboardInterrupt):
        import_download(site.repository, "web", download, interrupt, QUICK)
    assert site.partial.read_bytes() == disk
    site.add(web.url("/x.qcow2"))
    assert len(web.requests) == 1
    site.check_only_the_image_is_there(disk)


def test_a_partial_file_that_is_whole_needs_no_more(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk)
    site.partial.write_bytes(disk)
    site.add(web.url("/x.qcow2"))
    assert ranges(web) == [f"bytes={len(disk)}-"]
    site.check_only_the_image_is_there(disk)


def test_a_partial_file_that_is_too_long_starts_over(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk)
    site.partial.write_bytes(disk + b"more")
    site.add(web.url("/x.qcow2"))
    assert ranges(web) == [f"bytes={len(disk) + 4}-", ""]
    site.check_only_the_image_is_there(disk)


def test_a_verified_download_that_was_damaged_is_downloaded_again(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk)
    (site.paths.work / f"{site.sha256}.disk").write_bytes(disk[:-1])
    site.add(web.url("/x.qcow2"))
    site.check_only_the_image_is_there(disk)


def test_a_verified_download_is_not_asked_for_again(web: Web, site: Site, disk: bytes) -> None:
    (site.paths.work / f"{site.sha256}.disk").write_bytes(disk)
    site.add(web.url("/x.qcow2"))
    assert web.requests == []
    site.check_only_the_image_is_there(disk)


# ---- what servers do -------------------------------------------------------------------------------------


def test_a_busy_server_is_asked_again(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, statuses=[500, 503])
    site.add(web.url("/x.qcow2"))
    assert len(web.requests) == 3
    assert any("answers 500 Internal Server Error; trying again" in words for _, words in site.said)


@pytest.mark.parametrize(
    ("status", "words"), [(404, "404 Not Found"), (403, "403 Forbidden"), (204, "204 No Content")]
)
def test_a_server_that_will_not_is_asked_once(web: Web, site: Site, status: int, words: str) -> None:
    web.pages["/x.qcow2"] = Page(statuses=[status])
    with pytest.raises(DownloadFailed, match=f"the server answers {words}") as caught:
        site.add(web.url("/x.qcow2"))
    assert caught.value.fix
    assert len(web.requests) == 1
    assert site.leftovers() == []


def test_nobody_listens(site: Site) -> None:
    with serving() as gone:
        url = gone.url("/x.qcow2")
    with pytest.raises(DownloadFailed, match="Connection refused"):
        site.add(url)
    assert site.leftovers() == []


def test_an_announced_length_that_never_comes(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, announced=len(disk) + MIB, ranges=False)
    with pytest.raises(DownloadFailed, match="ended after 4 of 5 MiB"):
        site.add(web.url("/x.qcow2"))
    assert len(web.requests) == 3


def test_an_announced_length_that_is_too_short(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, announced=MIB)
    found = hashlib.sha256(disk[:MIB]).hexdigest()
    with pytest.raises(ImageRefused, match=f"its sha256 is {found}, not {site.sha256}"):
        site.add(web.url("/x.qcow2"))
    assert site.leftovers() == []


def test_another_file_than_the_one_that_was_meant(web: Web, site: Site, disk: bytes) -> None:
    other = disk[:-1] + b"!"
    web.pages["/x.qcow2"] = Page(other)
    with pytest.raises(ImageRefused, match=hashlib.sha256(other).hexdigest()) as caught:
        site.add(web.url("/x.qcow2"))
    assert site.sha256 in str(caught.value)
    assert site.leftovers() == []
    assert site.store.list_images() == []


def test_what_is_no_image_is_refused_and_leaves_nothing(web: Web, site: Site) -> None:
    text = b"not an image\n" * 200
    web.pages["/x.qcow2"] = Page(text)
    with pytest.raises(ImageRefused, match=r"/x.qcow2 is neither a qcow2"):
        site.add(web.url("/x.qcow2"), hashlib.sha256(text).hexdigest())
    assert site.leftovers() == []


def test_more_than_the_disk_holds_is_refused_before_a_byte(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, announced=10**17)
    with pytest.raises(HostFull, match=r"needs \d+ MiB, .* has \d+ MiB free"):
        site.add(web.url("/x.qcow2"))
    assert site.leftovers() == []


def test_a_body_without_end_stops_before_the_disk_is_full(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, chunked=True, surplus=-1)
    room = shutil.disk_usage(site.paths.work).free - 100 * MIB
    with pytest.raises(HostFull, match=r"stopped after \d+ MiB: .* has \d+ MiB free"):
        site.add(web.url("/x.qcow2"), limits=DownloadLimits(timeout=20, tries=1, spare_room=room))
    assert site.leftovers() == []


def test_more_than_was_announced_is_not_written(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, cuts=[MIB, 0, 0])
    with pytest.raises(DownloadFailed):
        site.add(web.url("/x.qcow2"))
    web.pages["/x.qcow2"] = Page(disk, chunked=True, surplus=-1)
    with pytest.raises(DownloadFailed, match=f"more than the {len(disk)} bytes it announced"):
        site.add(web.url("/x.qcow2"))
    assert site.leftovers() == []


# ---- redirects -------------------------------------------------------------------------------------------


def test_redirects_are_followed_and_the_given_url_is_recorded(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/latest"] = Page(location="/mirror?to=1")
    web.pages["/mirror"] = Page(location=web.url("/x.qcow2?signature=secret"))
    web.pages["/x.qcow2"] = Page(disk, cuts=[MIB])
    assert site.add(web.url("/latest")).source == web.url("/latest")
    assert [request.headers.get("If-Range") for request in web.requests] == [None, None, None, None, None, '"one"']
    assert web.requests[-1].range == f"bytes={MIB}-"


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("/x.qcow2", "redirects more than 10 times"),
        ("file:///etc/passwd", "redirects to a file URL"),
        ("ftp://127.0.0.1/x", "redirects to a ftp URL"),
        ("data:,x", "redirects to a data URL"),
        ("http://[::1/", "redirects to what is no URL"),
        ("https:///x", "redirects to what is no URL"),
        ("http://h:99999/", "redirects to what is no URL"),
    ],
)
def test_redirects_that_are_not_followed(web: Web, site: Site, location: str, words: str) -> None:
    web.pages["/x.qcow2"] = Page(location=location)
    with pytest.raises(DownloadFailed, match=words):
        site.add(web.url("/x.qcow2"))
    assert len(web.requests) == (11 if location.startswith("/") else 1)
    assert site.leftovers() == []


# ---- https and logins ------------------------------------------------------------------------------------


def test_https_with_a_login(trusted_web: Web, site: Site, disk: bytes) -> None:
    trusted_web.pages["/x.qcow2"] = Page(disk)
    image = site.add(trusted_web.url("/x.qcow2", "us%40er:pass%2Fword@"))
    assert trusted_web.requests[0].headers["Authorization"] == "Basic dXNAZXI6cGFzcy93b3Jk"
    assert image.source == trusted_web.url("/x.qcow2")
    site.check_only_the_image_is_there(disk)


def test_a_self_signed_certificate_is_refused(certificate: Path, site: Site, disk: bytes) -> None:
    with serving(certificate) as web:
        web.pages["/x.qcow2"] = Page(disk)
        with pytest.raises(DownloadFailed, match=r"certificate of 127.0.0.1:\d+ is not trusted: self") as caught:
            site.add(web.url("/x.qcow2", "user:secret@"))
        assert web.requests == []
    assert "secret" not in str(caught.value)
    assert site.leftovers() == []


def test_https_is_never_left(trusted_web: Web, web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk)
    trusted_web.pages["/x.qcow2"] = Page(location=web.url("/x.qcow2"))
    with pytest.raises(DownloadFailed, match="redirects from https to plain http"):
        site.add(trusted_web.url("/x.qcow2"))
    assert web.requests == []


def test_http_may_become_https(trusted_web: Web, web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(location=trusted_web.url("/x.qcow2"))
    trusted_web.pages["/x.qcow2"] = Page(disk)
    site.add(web.url("/x.qcow2"))
    site.check_only_the_image_is_there(disk)


def test_a_login_stays_with_its_server(trusted_web: Web, certificate: Path, site: Site, disk: bytes) -> None:
    with serving(certificate) as other:
        trusted_web.pages["/a"] = Page(location="/b")
        trusted_web.pages["/b"] = Page(location=other.url("/x.qcow2", "else:where@"))
        other.pages["/x.qcow2"] = Page(disk)
        site.add(trusted_web.url("/a", "user:secret@"))
        assert ["Authorization" in request.headers for request in trusted_web.requests] == [True, True]
        assert "Authorization" not in other.requests[0].headers


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://h/x", "not downloaded by 'ftp'"),
        ("file:///etc/passwd", "not downloaded by 'file'"),
        ("s3://user:secret@h/x", "not downloaded by 's3'"),
        ("http://user:secret@h/x?secret", "^http://h/x would be given a user name over plain http"),
        ("https:///x", "cannot be read"),
        ("https://user:secret@/x", "cannot be read"),
        ("https://user:sec/ret@h/secret", "cannot be read"),
        ("https://user:secret@h:99999/x", "cannot be read"),
        ("https://user:secret@[::1/x", "cannot be read"),
        ("https://user:sec ret@h/x", "cannot be read"),
        ("https://hö/x", "cannot be read"),
    ],
)
def test_urls_that_are_refused_show_no_password(url: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        parse_download(url, "0" * 64)
    assert "sec" not in str(caught.value)
    assert caught.value.fix


def test_what_is_shown_of_a_url() -> None:
    address = parse_address("HTTPS://user:secret@Mirror.example:8443/a/b.qcow2?secret#secret")
    assert address.shown == "https://mirror.example:8443/a/b.qcow2"
    assert address.url == "https://mirror.example:8443/a/b.qcow2?secret"
    assert "secret" not in repr(address)
    assert parse_address("http://[::1]").url == "http://[::1]/"


def test_a_url_needs_a_checksum() -> None:
    with pytest.raises(SpecError, match="cannot be trusted without a checksum") as caught:
        parse_download("https://user:secret@h/x.qcow2", "")
    assert "--sha256 HEX" in caught.value.fix
    with pytest.raises(SpecError, match="is no sha256"):
        parse_download("https://h/x.qcow2", "abc")


# ---- several at once, and what is left -------------------------------------------------------------------


def test_one_command_at_a_time_is_at_a_download(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk, pause=0.01)
    failures: list[UnderstudyError] = []

    def add_other() -> None:
        try:
            site.add(web.url("/x.qcow2"), name="other")
        except UnderstudyError as error:
            failures.append(error)

    first = threading.Thread(target=add_other)
    first.start()
    wait_until(site.partial.exists, 10, "the download begins")
    with pytest.raises(Conflict, match="another command is downloading the same image"):
        site.add(web.url("/x.qcow2"))
    assert prune_stages(site.paths.work, time.time() + 30 * DAY) == (0, 0)
    first.join()
    assert failures == []
    assert len(web.requests) == 1
    site.check_only_the_image_is_there(disk)


def test_a_lock_of_a_killed_command_holds_nobody_up(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk)
    (site.paths.work / f"{site.sha256}.lock").touch()
    site.add(web.url("/x.qcow2"))
    site.check_only_the_image_is_there(disk)


def test_downloads_nobody_went_on_with_are_pruned(site: Site) -> None:
    now = time.time()
    old, young, done = ("a" * 64, "b" * 64, "c" * 64)
    other = site.paths.work / "import-x"
    other.mkdir()
    for digest, suffix, age in ((old, "partial", 8), (old, "origin", 9), (young, "partial", 6), (done, "disk", 8)):
        file = site.paths.work / f"{digest}.{suffix}"
        file.write_bytes(bytes(MIB))
        os.utime(file, (now - age * DAY,) * 2)
    assert prune_stages(site.paths.work, now) == (2, 2 * MIB)
    assert sorted(site.leftovers()) == sorted([site.paths.work / f"{young}.partial", other])


# ---- the command -----------------------------------------------------------------------------------------


def understudy(paths: StatePaths, *arguments: str) -> subprocess.Popen[str]:
    return start_image_command(paths.root, *arguments)


def test_an_interrupted_command_goes_on_when_it_is_given_again(web: Web, site: Site, disk: bytes) -> None:
    page = web.pages["/x.qcow2"] = Page(disk, pause=0.05)
    command = ("add", "web", web.url("/x.qcow2?token=secret"), "--sha256", site.sha256)
    first = understudy(site.paths, *command)
    wait_until(lambda: site.partial.exists() and site.partial.stat().st_size > MIB, 30, "a MiB arrives")
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=30)
    assert (first.returncode, errors.splitlines()[0]) == (
        130,
        "understudy: interrupted; what was downloaded is kept",
    )
    assert "the same command goes on there" in errors
    kept = site.partial.stat().st_size
    assert MIB < kept < len(disk)
    page.pause = 0
    second = understudy(site.paths, *command)
    said, errors = second.communicate(timeout=60)
    assert (second.returncode, errors) == (0, "")
    assert f"web:1 is ready (sha256 {site.sha256})" in said
    assert "secret" not in said
    assert ranges(web) == ["", f"bytes={kept}-"]
    assert web.requests[1].headers["If-Range"] == '"one"'
    site.check_only_the_image_is_there(disk)


def test_the_command_says_how_far_it_is(web: Web, site: Site, disk: bytes) -> None:
    web.pages["/x.qcow2"] = Page(disk)
    said, _ = understudy(site.paths, "add", "web", web.url("/x.qcow2"), "--sha256", site.sha256).communicate(
        timeout=60
    )
    lines = [line for line in said.splitlines() if "downloading" in line]
    assert lines[0].startswith("adding web:   ")
    assert lines[0].endswith("downloading, 0 of 4 MiB")
    assert len(lines) == 5


def test_a_url_without_a_checksum_touches_nothing(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "new")
    process = understudy(paths, "add", "web", "https://user:secret@127.0.0.1/x.qcow2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.splitlines()[0].endswith("https://127.0.0.1/x.qcow2 cannot be trusted without a checksum")
    assert "secret" not in errors
    assert not paths.root.exists()


def test_pruning_says_how_much_it_removed(site: Site) -> None:
    site.partial.write_bytes(bytes(3 * MIB))
    os.utime(site.partial, (time.time() - 8 * DAY,) * 2)
    said, _ = understudy(site.paths, "prune").communicate(timeout=60)
    assert said == "unfinished additions removed: 1 (3 MiB)\n"
    assert site.leftovers() == []


def test_what_was_converted_of_a_download_is_not_converted_again(
    web: Web, site: Site, tmp_path: Path, disk: bytes
) -> None:
    (tmp_path / "disk.qcow2").write_bytes(disk)
    files = (tmp_path / "disk.qcow2", tmp_path / "disk.vmdk")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "vmdk", *files], check=True)
    content = (tmp_path / "disk.vmdk").read_bytes()
    web.pages["/x.vmdk"] = Page(content)

    def interrupt(_percent: float, words: str) -> None:
        if words.startswith("comparing"):
            raise KeyboardInterrupt

    download = parse_download(web.url("/x.vmdk"), hashlib.sha256(content).hexdigest())
    with pytest.raises(KeyboardInterrupt):
        import_download(site.repository, "web", download, interrupt, QUICK)
    image = site.add(web.url("/x.vmdk"), download.sha256)
    assert len(web.requests) == 1
    assert {words.partition(",")[0] for _, words in site.said} == {
        "comparing with the original",
        "computing the checksum",
        "taking it into the repository",
        "web:1 is in the repository",
    }
    assert site.leftovers() == [site.paths.images / f"{image.digest}.qcow2"]
