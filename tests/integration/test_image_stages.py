"""Adding a file is interrupted, in every stage of it, and the same command goes on behind what was finished."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import Conflict, ImageRefused
from orchestrator.imaging.copying import room_needed
from orchestrator.imaging.files import copy_file
from orchestrator.imaging.importing import import_built, import_image
from orchestrator.imaging.repository import Repository
from orchestrator.imaging.stages import prune_stages
from orchestrator.models.members import Image
from tests.support.commands import stand_in, start_image_command
from tests.support.installation import wait_until
from tests.support.repository import add, leftovers, qemu_img, quiet

MIB = 2**20
DAY = 86400.0
COPY, CONVERT, COMPARE, SUM = (
    "copying disk.raw",
    "converting",
    "comparing with the original",
    "computing the checksum",
)
KEEP = "taking it into the repository"


def make_raw(directory: Path, size: int = 4 * MIB) -> Path:
    file = directory / "disk.raw"
    content = bytearray(os.urandom(size))
    content[510:512] = b"\x55\xaa"
    file.write_bytes(content)
    return file


class Attempt:
    """One import, interrupted when it says what begins with `at`."""

    def __init__(self, at: str = "never", meanwhile: Callable[[], object] = lambda: None) -> None:
        self.said: list[tuple[float, str]] = []
        self._at, self._meanwhile = at, meanwhile

    def hear(self, percent: float, words: str) -> None:
        self.said.append((percent, words))
        if words.startswith(self._at):
            self._meanwhile()
            raise KeyboardInterrupt

    def run(self, repository: Repository, file: Path, sha256: str = "") -> Image | None:
        try:
            return import_image(repository, "web", file, self.hear, sha256)
        except KeyboardInterrupt:
            return None

    @property
    def stages(self) -> list[str]:
        """In their order, without the words about the result."""
        told = dict.fromkeys(words.partition(",")[0] for _, words in self.said)
        return [words for words in told if not words.startswith("web:")]


def content_of(repository: Repository, image: Image, directory: Path) -> bytes:
    back = directory / "back.raw"
    qemu_img("convert", "-O", "raw", repository.paths.images / f"{image.digest}.qcow2", back)
    return back.read_bytes()


# ---- what is finished is not done again ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "rest"),
    [
        ("inspecting", ["inspecting the image", CONVERT, COMPARE, SUM, KEEP]),
        (CONVERT, [CONVERT, COMPARE, SUM, KEEP]),
        (COMPARE, [COMPARE, SUM, KEEP]),
        (SUM, [SUM, KEEP]),
        (KEEP, [KEEP]),
    ],
)
def test_the_next_attempt_goes_on_behind_what_was_finished(
    repository: Repository, tmp_path: Path, at: str, rest: list[str]
) -> None:
    file = make_raw(tmp_path)
    assert Attempt(at).run(repository, file) is None
    assert repository.store.list_images() == []
    second = Attempt()
    image = second.run(repository, file)
    assert image is not None
    assert second.stages == rest
    percents = [percent for percent, _ in second.said]
    assert percents == sorted(percents)
    assert content_of(repository, image, tmp_path) == file.read_bytes()
    assert leftovers(repository) == [repository.paths.images / f"{image.digest}.qcow2"]


def test_a_qcow2_is_read_once(repository: Repository, tmp_path: Path) -> None:
    file = tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", make_raw(tmp_path), file)
    first, second = Attempt(SUM), Attempt()
    assert first.run(repository, file) is None
    assert "reading all of it" in first.stages
    image = second.run(repository, file)
    assert second.stages == [SUM, KEEP]
    assert image is not None
    assert image.digest == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_checksum_that_was_given_is_computed_once(repository: Repository, tmp_path: Path) -> None:
    file = make_raw(tmp_path)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    first, second = Attempt(CONVERT), Attempt()
    assert first.run(repository, file, digest) is None
    assert first.stages == [COPY, "checking what was copied", "inspecting the image", CONVERT]
    assert second.run(repository, file, digest.upper()) is not None
    assert second.stages == [CONVERT, COMPARE, SUM, KEEP]


def test_another_name_goes_on_too(repository: Repository, tmp_path: Path) -> None:
    file, said = make_raw(tmp_path), Attempt()
    assert Attempt(COMPARE).run(repository, file) is None
    assert import_image(repository, "other", file, said.hear).ref == "other:1"
    assert COPY not in said.stages


def test_what_was_recorded_before_the_interruption_is_the_same_image(
    repository: Repository, tmp_path: Path
) -> None:
    file = make_raw(tmp_path)
    assert Attempt("web:1 is in").run(repository, file) is None
    (image,) = repository.store.list_images()
    assert Attempt().run(repository, file) == image
    assert leftovers(repository) == [repository.paths.images / f"{image.digest}.qcow2"]


def test_a_converted_disk_that_changed_is_compared_again(repository: Repository, tmp_path: Path) -> None:
    file = make_raw(tmp_path)
    assert Attempt(SUM).run(repository, file) is None
    (converted,) = repository.paths.work.glob("*.qcow2")
    os.utime(converted)
    second = Attempt()
    assert second.run(repository, file) is not None
    assert second.stages == [COMPARE, SUM, KEEP]


# ---- the copy --------------------------------------------------------------------------------------------


def interrupt_copy(repository: Repository, file: Path) -> Path:
    """With the first 64 of 130 MiB written down; its partial file."""
    assert Attempt("copying disk.raw, 128 of").run(repository, file) is None
    (partial,) = repository.paths.work.glob("*.partial")
    return partial


def test_a_copy_goes_on_where_it_was(repository: Repository, tmp_path: Path) -> None:
    file, second = make_raw(tmp_path, 130 * MIB), Attempt()
    interrupt_copy(repository, file)
    image = second.run(repository, file)
    assert image is not None
    assert second.said[0][1] == "copying disk.raw, 64 of 130 MiB"
    assert content_of(repository, image, tmp_path) == file.read_bytes()


def test_a_copy_whose_end_is_not_what_it_should_be_begins_anew(repository: Repository, tmp_path: Path) -> None:
    file, second = make_raw(tmp_path, 130 * MIB), Attempt()
    with interrupt_copy(repository, file).open("r+b") as partial:
        partial.seek(64 * MIB - 4096)
        partial.write(bytes(4096))
    image = second.run(repository, file)
    assert image is not None
    assert second.said[0][1] == "copying disk.raw, 0 of 130 MiB"
    assert content_of(repository, image, tmp_path) == file.read_bytes()


@pytest.mark.parametrize("at", [CONVERT, SUM])
def test_a_file_that_changed_since_is_added_anew(repository: Repository, tmp_path: Path, at: str) -> None:
    file, second = make_raw(tmp_path), Attempt()
    assert Attempt(at).run(repository, file) is None
    before = file.stat()
    with file.open("r+b") as disk:
        disk.seek(MIB)
        disk.write(b"another content")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a careful tool may set it
    image = second.run(repository, file)
    assert image is not None
    assert second.stages == [COPY, "inspecting the image", CONVERT, COMPARE, SUM, KEEP]
    assert content_of(repository, image, tmp_path) == file.read_bytes()
    assert leftovers(repository) == [repository.paths.images / f"{image.digest}.qcow2"]


def test_a_file_that_changes_while_it_is_copied_is_refused(repository: Repository, tmp_path: Path) -> None:
    file = make_raw(tmp_path)

    def hear(_percent: float, words: str) -> None:
        if words.startswith(COPY):
            os.utime(file)

    with pytest.raises(ImageRefused, match=r"disk.raw was changed while it was copied") as caught:
        import_image(repository, "web", file, hear)
    assert "wait until nobody writes to it" in caught.value.fix
    assert leftovers(repository) == []


def test_holes_are_neither_copied_nor_asked_room_for(repository: Repository, tmp_path: Path) -> None:
    """The disk has a TiB, and 4 MiB on it."""
    file = make_raw(tmp_path)
    os.truncate(file, 2**40)
    assert Attempt(CONVERT).run(repository, file) is None
    (copy,) = repository.paths.work.glob("*.disk")
    assert (copy.stat().st_size, copy.stat().st_blocks * 512 < 16 * MIB) == (2**40, True)
    image = Attempt().run(repository, file)
    assert image is not None
    assert image.virtual_size == 2**40


def test_data_behind_and_between_holes_is_copied(tmp_path: Path) -> None:
    file, copy = tmp_path / "disk", tmp_path / "copy"
    with file.open("wb") as disk:
        for place in (3 * MIB, 70 * MIB, 200 * MIB):
            disk.seek(place)
            disk.write(f"at {place}".encode() * 1000)
        disk.truncate(300 * MIB)
    copy_file(file, copy)
    assert subprocess.run(["cmp", file, copy], check=False).returncode == 0
    assert copy.stat().st_blocks * 512 < MIB


def test_room_is_asked_for_what_is_on_the_disk_and_once_more_if_it_is_converted(tmp_path: Path) -> None:
    raw, qcow2 = make_raw(tmp_path), tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
    os.truncate(raw, 2**40)
    assert 8 * MIB <= room_needed(raw) < 9 * MIB
    assert 4 * MIB <= room_needed(qcow2) < 5 * MIB


# ---- several at once, and what is left -------------------------------------------------------------------


def test_one_command_at_a_time_adds_a_file(repository: Repository, tmp_path: Path) -> None:
    file, at, go = make_raw(tmp_path), threading.Event(), threading.Event()

    def wait(_percent: float, words: str) -> None:
        if words == CONVERT:
            at.set()
            go.wait(30)

    first = threading.Thread(target=lambda: import_image(repository, "web", file, wait))
    first.start()
    assert at.wait(30)
    (tmp_path / "link.raw").symlink_to(file)
    for same in (file, tmp_path / "link.raw"):
        with pytest.raises(Conflict, match="another command is adding the same file"):
            add(repository, same, "other")
    assert prune_stages(repository.paths.work, time.time() + 30 * DAY) == (0, 0)
    go.set()
    first.join()
    assert [image.ref for image in repository.store.list_images()] == ["web:1"]


def test_what_nobody_went_on_with_is_pruned(repository: Repository, tmp_path: Path) -> None:
    file = make_raw(tmp_path)
    assert Attempt(SUM).run(repository, file) is None
    assert prune_stages(repository.paths.work, time.time() + 6 * DAY) == (0, 0)
    count, size = prune_stages(repository.paths.work, time.time() + 8 * DAY)
    assert count == 1
    assert size >= 8 * MIB
    assert leftovers(repository) == []


def test_what_was_built_is_moved(repository: Repository, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    file = room / "built.qcow2"
    qemu_img("create", "-f", "qcow2", file, "8M")
    image = import_built(repository, "web", file, quiet)
    assert not file.exists()
    assert leftovers(repository) == [repository.paths.images / f"{image.digest}.qcow2"]


# ---- the command -----------------------------------------------------------------------------------------

SLOW = """
echo "$1" >> {log}
if [ -e {slow} ] && [ "$1" = convert ]; then shift; exec $REAL convert -r 8M "$@"; fi
if [ -e {slow} ] && [ "$1" = compare ]; then kill -STOP $$; fi
exec $REAL "$@"
"""


class Bench:
    """The command beside a qemu-img that takes its time while the file `slow` is there."""

    def __init__(self, repository: Repository, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.repository, self.work = repository, repository.paths.work
        self._slow, self._log = directory / "slow", directory / "log"
        self._slow.touch()
        stand_in(directory, monkeypatch, "qemu-img", SLOW.format(log=self._log, slow=self._slow))

    def called(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").split() if self._log.exists() else []

    def start(self, file: Path) -> subprocess.Popen[str]:
        return start_image_command(self.repository.paths.root, "add", "web", str(file))

    def there(self) -> set[str]:
        return {file.suffix for file in self.work.iterdir()}

    def interrupt(self, process: subprocess.Popen[str], how: signal.Signals) -> None:
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
        if how is signal.SIGINT:
            assert process.returncode == 130
            assert errors.startswith("understudy: interrupted; what was copied and converted is kept\n")
            assert "the same command goes on there" in errors
        else:
            assert process.returncode == -how

    def finish(self, file: Path, directory: Path) -> tuple[list[str], list[str]]:
        """(what the next attempt told, what it called); its image has the file's content."""
        self._slow.unlink()
        self._log.unlink(missing_ok=True)
        process = self.start(file)
        said, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
        assert "web:1 is ready" in said
        (image,) = self.repository.store.list_images()
        called = self.called()
        assert content_of(self.repository, image, directory) == file.read_bytes()
        assert leftovers(self.repository) == [self.repository.paths.images / f"{image.digest}.qcow2"]
        return said.splitlines(), called


@pytest.fixture
def bench(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(repository, tmp_path, monkeypatch)


HOW = pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])


def wait_closely(condition: Callable[[], bool], what: str) -> None:
    """What lasts for less than `wait_until` rests."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.001)


@HOW
def test_a_command_that_is_interrupted_while_it_copies(bench: Bench, tmp_path: Path, how: signal.Signals) -> None:
    file = make_raw(tmp_path, 256 * MIB)
    process = bench.start(file)
    written_down = re.compile(r'"copied": [1-9]')
    wait_closely(
        lambda: any(written_down.search(one.read_text(encoding="utf-8")) for one in bench.work.glob("*.origin")),
        "a piece is copied",
    )
    bench.interrupt(process, how)
    assert ".partial" in bench.there()
    assert ".disk" not in bench.there()
    said, _ = bench.finish(file, tmp_path)
    found = re.search(r"copying disk.raw, (\d+) of 256 MiB", said[0])
    assert found is not None
    assert int(found[1]) >= 64


@HOW
def test_a_command_that_is_interrupted_while_it_converts(
    bench: Bench, tmp_path: Path, how: signal.Signals
) -> None:
    file = make_raw(tmp_path, 48 * MIB)
    process = bench.start(file)
    wait_until(lambda: any(one.stat().st_size > MIB for one in bench.work.glob("*.converting")), 60, "it converts")
    bench.interrupt(process, how)
    assert ".disk" in bench.there()
    assert ".qcow2" not in bench.there()
    said, called = bench.finish(file, tmp_path)
    assert not any("copying" in line for line in said)
    assert called == ["convert", "compare", "info"]


@HOW
def test_a_command_that_is_interrupted_while_it_compares(
    bench: Bench, tmp_path: Path, how: signal.Signals
) -> None:
    file = make_raw(tmp_path)
    process = bench.start(file)
    wait_until(lambda: "compare" in bench.called(), 60, "it compares")
    assert {".disk", ".qcow2"} <= bench.there()
    bench.interrupt(process, how)
    said, called = bench.finish(file, tmp_path)
    assert not any("copying" in line or "converting" in line for line in said)
    assert called == ["compare", "info"]


def test_how_far_the_conversion_is_is_told(bench: Bench, tmp_path: Path) -> None:
    process = bench.start(make_raw(tmp_path, 24 * MIB))
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "comparing" in line:
            break
    bench.interrupt(process, signal.SIGINT)
    percents = [int(line.split()[2]) for line in lines if line.endswith("%  converting\n")]
    assert len(percents) >= 3
    assert percents == sorted(set(percents))
    assert percents[-1] - percents[0] >= 20
