"""qemu-img: what a disk image claims to be, and a clean qcow2 made of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.drivers.foreign_formats import find_foreign_kind, read_ends, refuse_foreign
from orchestrator.drivers.qcow2 import HeaderNames, end_of_compressed_data, read_header_names
from orchestrator.drivers.qemu_tool import Bounds, OnPercent, bounds_for, run_qemu_img
from orchestrator.errors import HostFull, ImageRefused, UnderstudyError

_QCOW2_MAGIC = b"QFI\xfb"
_INSPECT_SECONDS = 60
_SPARE_ROOM = 2**29  # bytes that an import leaves free
_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@dataclass(frozen=True)
class ImageFacts:
    """`kind` is qemu-img's name of the format: qcow2, raw, vpc (VHD), vhdx or vmdk. `virtual_size` is bytes."""

    kind: str
    virtual_size: int


@dataclass(frozen=True)
class _Qcow2:
    """Both in bytes."""

    virtual_size: int
    cluster: int


def inspect_image(file: Path, shown: str = "", on_percent: OnPercent = lambda _: None) -> ImageFacts:
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
    facts = _look_at_qcow2(file, shown)
    _check(file, facts, shown, on_percent)
    return ImageFacts("qcow2", facts.virtual_size)


def is_qcow2(file: Path) -> bool:
    """By its first bytes, as it is judged. Raises OSError."""
    with file.open("rb") as handle:
        return handle.read(len(_QCOW2_MAGIC)) == _QCOW2_MAGIC


def read_virtual_size(file: Path) -> int:
    """Of a qcow2 of our own making, in bytes."""
    return _look_at_qcow2(file, str(file)).virtual_size


def _look_at_qcow2(file: Path, shown: str) -> _Qcow2:
    info = _run_json(["info", "--force-share", "-f", "qcow2", "--output=json", str(file)], shown)
    _refuse_other_files(info, file, shown)
    return _Qcow2(int(info["virtual-size"]), int(info.get("cluster-size", 65536)))


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


def _check(file: Path, facts: _Qcow2, shown: str, on_percent: OnPercent) -> None:
    """Raises ImageRefused if the file is truncated or its tables are damaged."""
    again = "copy it again and compare sha256"
    size = file.stat().st_size
    bounds = bounds_for(f"checking the tables of {shown}", size, _INSPECT_SECONDS * 5)
    done = run_qemu_img(["check", "--force-share", "-f", "qcow2", "--output=json", str(file)], bounds)
    # Exit 3: clusters are leaked; that wastes space and harms nobody.
    if done.status not in (0, 3):
        raise ImageRefused(f"{shown} is damaged or truncated: {done.words}", again)
    end = int(json.loads(done.output).get("image-end-offset", 0))
    # The last cluster of a compressed image may be shorter than a cluster, but not than its data.
    if end - size >= facts.cluster or end_of_compressed_data(file) > size:
        raise ImageRefused(f"{shown} is truncated: its data ends at byte {end}, the file at {size}", again)
    # Read it all once: damage in compressed clusters shows only then.
    opened = [image_options(file, "qcow2"), f"driver=null-co,size={facts.virtual_size}"]
    bounds = bounds_for(f"reading all of {shown}", size, _INSPECT_SECONDS * 10)
    read = run_qemu_img(
        ["convert", "-p", "--image-opts", "-n", "--target-image-opts", *opened], bounds, on_percent
    )
    if read.status != 0:
        raise ImageRefused(f"{shown} is damaged or truncated: {read.words}", again)


def convert_image(source: Path, kind: str, target: Path, shown: str, on_percent: OnPercent) -> None:
    """Write `target`, a new qcow2, with the content of `source`, called `shown`.

    Raises HostFull, UnderstudyError.
    """
    arguments = ["convert", "-p", "--image-opts", "-O", "qcow2", image_options(source, kind), str(target)]
    # A small file can claim to hold a large disk: what is written stays within the space that is there.
    room = max(shutil.disk_usage(target.parent).free - _SPARE_ROOM, 0)
    bounds = bounds_for(f"converting {shown}", source.stat().st_size, _INSPECT_SECONDS * 10)
    done = run_qemu_img(arguments, replace(bounds, room=room), on_percent)
    if done.status == -signal.SIGXFSZ or any(words in done.words for words in _FULL):
        raise HostFull(
            f"cannot convert {shown}: it does not fit on the disk", "free space, or give another --state-dir"
        )
    if done.status != 0:
        raise UnderstudyError(f"cannot convert {shown}: {done.words}", "compare its sha256 with the original's")


def find_difference(source: Path, kind: str, target: Path, shown: str, on_percent: OnPercent) -> str:
    """Empty if the qcow2 `target` has the very content of `source`, called `shown`. Raises UnderstudyError."""
    opened = [image_options(source, kind), image_options(target, "qcow2")]
    size = max(source.stat().st_size, target.stat().st_size)
    bounds = bounds_for(f"comparing {shown} with what it was converted to", size, _INSPECT_SECONDS * 10)
    done = run_qemu_img(["compare", "-p", "--force-share", "--image-opts", *opened], bounds, on_percent)
    return (done.output or done.words) if done.status != 0 else ""


def _run_json(arguments: list[str], shown: str) -> dict[str, Any]:
    done = run_qemu_img(arguments, Bounds(f"looking at {shown}", _INSPECT_SECONDS))
    if done.status != 0:
        raise ImageRefused(f"{shown} is not a usable image: {done.words}")
    return dict(json.loads(done.output))
