"""qemu-img: what a disk image claims to be, and a clean qcow2 made of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ImageRefused, UnderstudyError

_QCOW2_MAGIC = b"QFI\xfb"
_INSPECT_SECONDS = 60
# What qemu-img may use while it reads a file somebody handed us: a hostile image can ask for much.
_LIMITS = ["prlimit", "--as=2147483648", "--cpu=600"]


@dataclass(frozen=True)
class ImageFacts:
    """`kind` is qcow2 or raw; `virtual_size` is bytes."""

    kind: str
    virtual_size: int


def inspect_image(file: Path) -> ImageFacts:
    """What the file is. Raises ImageRefused for everything we do not accept, naming the reason.

    The format is decided here and then given to qemu-img explicitly, so that nothing is ever probed: a raw disk
    whose guest wrote a qcow2 header into it must not become a qcow2 file that names host files.
    """
    try:
        with file.open("rb") as handle:
            head = handle.read(4)
            size = file.stat().st_size
    except OSError as error:
        raise ImageRefused(f"cannot read image {file}: {error.strerror}") from error
    if size == 0:
        raise ImageRefused(f"{file} is empty")
    if head != _QCOW2_MAGIC:
        return _inspect_raw(file, size)
    info = _run_json(["info", "--force-share", "-f", "qcow2", "--output=json", str(file)], file)
    details = info.get("format-specific", {}).get("data", {})
    for key in ("backing-filename", "full-backing-filename"):
        if info.get(key):
            raise ImageRefused(
                f"{file} is not self-contained: it names the backing file {info[key]!r}",
                "flatten it first: qemu-img convert -O qcow2 IN OUT, on the machine it came from",
            )
    if details.get("data-file") or "data-file" in json.dumps(details):
        raise ImageRefused(
            f"{file} keeps its data in another file ({details.get('data-file', 'unnamed')!r})",
            "flatten it first: qemu-img convert -O qcow2 IN OUT, on the machine it came from",
        )
    if details.get("encrypt"):
        raise ImageRefused(f"{file} is encrypted", "decrypt it first with qemu-img convert")
    if details.get("corrupt"):
        raise ImageRefused(f"{file} is marked corrupt", "repair it first: qemu-img check -r all")
    _check(file)
    return ImageFacts("qcow2", int(info["virtual-size"]))


def _inspect_raw(file: Path, size: int) -> ImageFacts:
    """A raw disk has no header of its own: we ask for the mark of a boot sector or of a GPT."""
    with file.open("rb") as handle:
        start = handle.read(1024)
    for magic, name in (
        (b"KDMV", "VMDK"),
        (b"vhdxfile", "VHDX"),
        (b"conectix", "VHD"),
        (b"# Disk Desc", "VMDK"),
    ):
        if start.startswith(magic):
            raise ImageRefused(
                f"{file} is a {name} image; this version takes qcow2 and raw",
                "convert it first: qemu-img convert -O qcow2 IN OUT",
            )
    if size % 512 or len(start) < 1024 or (start[510:512] != b"\x55\xaa" and start[512:520] != b"EFI PART"):
        raise ImageRefused(
            f"{file} is neither a qcow2 image nor a bootable raw disk",
            "give a qcow2 file, or a raw disk with a partition table",
        )
    return ImageFacts("raw", size)


def _check(file: Path) -> None:
    """Raises ImageRefused if the file is truncated or its tables are damaged."""
    done = _run(["check", "--force-share", "-f", "qcow2", "--output=json", str(file)], _INSPECT_SECONDS * 5)
    # Exit 3: clusters are leaked; that wastes space and harms nobody.
    if done.returncode not in (0, 3):
        raise ImageRefused(f"{file} is damaged or truncated: {_words(done)}", "copy it again and compare sha256")
    report = json.loads(done.stdout)
    end = int(report.get("image-end-offset", 0))
    if end > file.stat().st_size:
        raise ImageRefused(
            f"{file} is truncated: its last cluster ends at byte {end}, the file at {file.stat().st_size}",
            "copy it again and compare sha256",
        )


def convert_image(source: Path, kind: str, target: Path, on_progress: Callable[[float], None]) -> None:
    """Write `target` as a new qcow2 with the same content. Progress is 0 to 100."""
    arguments = ["convert", "-p", "-f", kind, "-O", "qcow2"]
    process = subprocess.Popen(
        [_tool(), *arguments, str(source), str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        for number in _progress(process.stdout):
            on_progress(number)
        _, errors = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode != 0:
        raise UnderstudyError(f"cannot convert {source}: {errors.strip()[-500:]}")


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


def _run_json(arguments: list[str], file: Path) -> dict[str, Any]:
    done = _run(arguments, _INSPECT_SECONDS)
    if done.returncode != 0:
        raise ImageRefused(f"{file} is not a usable image: {_words(done)}")
    return dict(json.loads(done.stdout))


def _run(arguments: list[str], seconds: int) -> subprocess.CompletedProcess[str]:
    limits = _LIMITS if shutil.which("prlimit") else []
    try:
        return subprocess.run(
            [*limits, _tool(), *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise ImageRefused(f"qemu-img {arguments[0]} took longer than {seconds} s on {arguments[-1]}") from error


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().removeprefix("qemu-img: ")[-500:] or f"qemu-img exit status {done.returncode}"


def _tool() -> str:
    found = shutil.which("qemu-img")
    if found is None:
        raise UnderstudyError("qemu-img is not installed", "apt-get install qemu-utils")
    return found
