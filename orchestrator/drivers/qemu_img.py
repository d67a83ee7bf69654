"""qemu-img: what a disk image claims to be, and a clean qcow2 made of it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.drivers.foreign_formats import find_foreign_kind, read_ends, refuse_foreign
from orchestrator.drivers.qcow2 import HeaderNames, end_of_compressed_data, read_header_names
from orchestrator.errors import ImageRefused, UnderstudyError

_QCOW2_MAGIC = b"QFI\xfb"
_INSPECT_SECONDS = 60
_ADDRESS_SPACE = 2**31  # bytes of memory that qemu-img may use
_SPARE_ROOM = 2**29  # bytes that an import leaves free
_SLOWEST = 10 * 2**20  # bytes per second below which a disk is not waited for


@dataclass(frozen=True)
class ImageFacts:
    """`kind` is qemu-img's name of the format: qcow2, raw, vpc (VHD), vhdx or vmdk. `virtual_size` is bytes."""

    kind: str
    virtual_size: int


def inspect_image(file: Path, shown: str = "") -> ImageFacts:
    """What the file is. Raises ImageRefused for everything we do not accept, calling it `shown`.

    The format is decided here and then given to qemu-img explicitly, so that nothing is ever probed: a raw disk
    whose guest wrote a qcow2 header into it must not become a qcow2 file that names host files.
    """
    shown = shown or str(file)
    try:
        ends = read_ends(file)
    except OSError as error:
        raise ImageRefused(f"cannot read image {shown}: {error.strerror}") from error
    start = ends.front[:1024]
    if not start:
        raise ImageRefused(f"{shown} is empty")
    foreign = find_foreign_kind(ends)
    if foreign is not None:
        refuse_foreign(ends, foreign, shown)
        options = image_options(file, foreign)
        info = _run_json(["info", "--force-share", "--image-opts", "--output=json", options], shown)
        _refuse_other_files(info, file, shown)
        return ImageFacts(foreign, int(info["virtual-size"]))
    if not start.startswith(_QCOW2_MAGIC):
        return _inspect_raw(start, file.stat().st_size, shown)
    _refuse_names(read_header_names(ends.front), shown)
    info = _run_json(["info", "--force-share", "-f", "qcow2", "--output=json", str(file)], shown)
    _refuse_other_files(info, file, shown)
    virtual_size = int(info["virtual-size"])
    _check(file, virtual_size, int(info.get("cluster-size", 65536)), shown)
    return ImageFacts("qcow2", virtual_size)


def image_options(file: Path, kind: str) -> str:
    """How qemu-img is told to open the file: as exactly this format (for `--image-opts`)."""
    options = f"driver={kind},file.driver=file,file.filename={str(file).replace(',', ',,')}"
    # A VHD's size is what its footer says, not what its geometry comes to: that would cut the end off some disks.
    return f"{options},force_size_calc=current_size" if kind == "vpc" else options


_FLATTEN = "flatten it first: qemu-img convert -O qcow2 IN OUT, on the machine it came from"


def _refuse_names(names: HeaderNames, shown: str) -> None:
    """The file-read attack, before qemu-img opens the file: a header that names another file of the host."""
    if names.backing is not None:
        raise ImageRefused(f"{shown} is not self-contained: it names the backing file {names.backing!r}", _FLATTEN)
    if names.data is not None:
        raise ImageRefused(f"{shown} keeps its data in another file ({names.data!r})", _FLATTEN)
    if names.encrypted:
        raise ImageRefused(f"{shown} is encrypted", "decrypt it first with qemu-img convert")


def _refuse_other_files(info: dict[str, Any], file: Path, shown: str) -> None:
    """The same by what qemu-img understood."""
    details = info.get("format-specific", {}).get("data", {})
    backing = info.get("backing-filename") or info.get("full-backing-filename")
    if backing:
        raise ImageRefused(f"{shown} is not self-contained: it names the backing file {backing!r}", _FLATTEN)
    others = [str(one.get("filename")) for one in details.get("extents", [])]
    if any(other != str(file) for other in others):
        raise ImageRefused(f"{shown} keeps its data in other files ({', '.join(others)})", _FLATTEN)
    if "data-file" in details or "data-file-raw" in details:
        raise ImageRefused(f"{shown} keeps its data in another file ({details.get('data-file')!r})", _FLATTEN)
    if info.get("encrypted") or details.get("encrypt"):
        raise ImageRefused(f"{shown} is encrypted", "decrypt it first with qemu-img convert")
    if details.get("corrupt"):
        raise ImageRefused(f"{shown} is marked corrupt", "repair it first: qemu-img check -r all")


def _inspect_raw(start: bytes, size: int, shown: str) -> ImageFacts:
    """A raw disk has no header of its own: we ask for the mark of a boot sector or of a GPT."""
    if size % 512 or len(start) < 1024 or (start[510:512] != b"\x55\xaa" and start[512:520] != b"EFI PART"):
        raise ImageRefused(
            f"{shown} is neither a qcow2, VHD, VHDX or VMDK image nor a bootable raw disk",
            "give a file of one of these formats, or a raw disk with a partition table",
        )
    return ImageFacts("raw", size)


def _check(file: Path, virtual_size: int, cluster: int, shown: str) -> None:
    """Raises ImageRefused if the file is truncated or its tables are damaged."""
    again = "copy it again and compare sha256"
    done = _run(["check", "--force-share", "-f", "qcow2", "--output=json", str(file)], _INSPECT_SECONDS * 5)
    # Exit 3: clusters are leaked; that wastes space and harms nobody.
    if done.returncode not in (0, 3):
        raise ImageRefused(f"{shown} is damaged or truncated: {_words(done)}", again)
    end, size = int(json.loads(done.stdout).get("image-end-offset", 0)), file.stat().st_size
    # The last cluster of a compressed image may be shorter than a cluster, but not than its data.
    if end - size >= cluster or end_of_compressed_data(file) > size:
        raise ImageRefused(f"{shown} is truncated: its data ends at byte {end}, the file at {size}", again)
    # Read it all once: damage in compressed clusters shows only then.
    sink = f"driver=null-co,size={virtual_size}"
    source = image_options(file, "qcow2")
    read = _run(["convert", "--image-opts", "-n", "--target-image-opts", source, sink], _INSPECT_SECONDS * 10)
    if read.returncode != 0:
        raise ImageRefused(f"{shown} is damaged or truncated: {_words(read)}", again)


def convert_image(
    source: Path, kind: str, target: Path, on_progress: Callable[[float], None], most_seconds: int | None = None
) -> None:
    """Write `target` as a new qcow2 with the same content. Progress is 0 to 100.

    `most_seconds`, of the clock and of processor time; by default what the slowest disk needs.
    """
    arguments = ["convert", "-p", "--image-opts", "-O", "qcow2", image_options(source, kind), str(target)]
    # A small file can claim to hold a large disk: what is written stays within the space that is there.
    room = max(shutil.disk_usage(target.parent).free - _SPARE_ROOM, 0)
    seconds = most_seconds or _INSPECT_SECONDS * 10 + source.stat().st_size // _SLOWEST
    process = subprocess.Popen(
        [*_limits(f"--fsize={room}", f"--cpu={seconds}"), _tool(), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    late = threading.Event()

    def end_it() -> None:
        late.set()
        process.kill()

    end = threading.Timer(seconds, end_it)
    end.start()
    try:
        assert process.stdout is not None
        for number in _progress(process.stdout):
            on_progress(number)
        _, errors = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        end.cancel()
        end.join()
    if late.is_set():
        raise ImageRefused(f"converting {source} takes more than {seconds} s")
    if process.returncode == -signal.SIGXCPU:
        raise ImageRefused(f"converting {source} takes more than {seconds} s of processor time")
    if process.returncode != 0:
        raise UnderstudyError(
            f"cannot convert {source}: {errors.strip()[-500:] or 'it does not fit on the disk'}",
            "free space, or give another --state-dir",
        )


def compare_images(source: Path, kind: str, target: Path) -> None:
    """Raises UnderstudyError unless the qcow2 `target` has the very content of `source`."""
    opened = [image_options(source, kind), image_options(target, "qcow2")]
    size = max(source.stat().st_size, target.stat().st_size)
    done = _run(["compare", "--force-share", "--image-opts", *opened], _INSPECT_SECONDS * 10 + size // _SLOWEST)
    if done.returncode != 0:
        raise UnderstudyError(
            f"the converted image differs from {source}: {done.stdout.strip() or _words(done)}", "try again"
        )


def _progress(stream: Any) -> Any:
    """qemu-img writes `    (12.34/100%)` with carriage returns."""
    text = ""
    while char := stream.read(1):
        text += char
        if char == ")":
            number = text.rpartition("(")[2].partition("/")[0]
            text = ""
            if number.replace(".", "", 1).isdigit():
                yield float(number)


def _run_json(arguments: list[str], shown: str) -> dict[str, Any]:
    done = _run(arguments, _INSPECT_SECONDS)
    if done.returncode != 0:
        raise ImageRefused(f"{shown} is not a usable image: {_words(done)}")
    return dict(json.loads(done.stdout))


def _run(arguments: list[str], seconds: int) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [*_limits(f"--cpu={seconds}"), _tool(), *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ImageRefused(f"qemu-img {arguments[0]} took longer than {seconds} s on {arguments[-1]}") from error


def _limits(*limits: str) -> list[str]:
    """What goes before qemu-img's own name: a hostile image can ask for much. Without limits none is looked at."""
    if shutil.which("prlimit") is None:
        raise UnderstudyError(
            "prlimit is not installed, and without limits no image is inspected", "apt-get install util-linux"
        )
    return ["prlimit", f"--as={_ADDRESS_SPACE}", *limits]


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().removeprefix("qemu-img: ")[-500:] or f"qemu-img exit status {done.returncode}"


def _tool() -> str:
    found = shutil.which("qemu-img")
    if found is None:
        raise UnderstudyError("qemu-img is not installed", "apt-get install qemu-utils")
    return found
