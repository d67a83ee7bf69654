"""Copies of what only the store would know, beside it: declarations of scale sets and descriptions of images.

They may hold secrets (user data), so they are 0600, and they never go to a host. A copy is written after the
store's commit and before the first effect of what it says. So a copy never tells of a wish that was not recorded,
and what exists on hosts was never made for a wish that is in no copy. A copy that is newer than the store says
that the store is an old one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from orchestrator.config.rooms import GIVEN, write_kept
from orchestrator.errors import StoreError
from orchestrator.models.adoption import Declaration
from orchestrator.models.members import Image, ScaleSet

_DECLARATION = TypeAdapter(Declaration)
_IMAGE = TypeAdapter(Image)
_SUFFIX = ".json"
_Kind = TypeVar("_Kind")


class Ledger:
    """`sets` and `images` are its two directories; both may be missing."""

    def __init__(self, sets: Path, images: Path) -> None:
        self._sets = sets
        self._images = images
        self._written: dict[str, Declaration] = {}

    # ---- declarations ------------------------------------------------------------------------------------

    def keep(self, wanted: Sequence[ScaleSet]) -> str:
        """Every set's copy says what the store says. Else why the store must be old; then nothing is written.

        Raises StoreError.
        """
        found = self.find_newer(wanted)
        if found:
            return found
        there = self._names()
        for one in wanted:
            declared = Declaration.of(one)
            if one.name not in there or not _is_same(self._find(one.name), declared):
                # One writer, the controller: what a killed one left is written over by the next.
                _write(self._set_file(one.name), _DECLARATION.dump_json(declared), "partial")
                self._written[one.name] = declared
        return ""

    def find_newer(self, wanted: Sequence[ScaleSet]) -> str:
        """Why the store must be older than these copies; empty if it is not."""
        known = {one.name: one for one in wanted}
        for name in self._names():
            if name not in known:
                return f"the store does not know set {name!r}, as its copy {self._set_file(name)} does: it is old"
            copy, declared = self._find(name), Declaration.of(known[name])
            if copy is None:
                continue
            is_newer = copy.generation > declared.generation
            if is_newer or (copy.generation == declared.generation and not _is_same(copy, declared)):
                return f"the store's declaration of set {name!r} is older than its copy {self._set_file(name)}"
        return ""

    def forget(self, name: str) -> None:
        """Call it before the store forgets the set: no copy outlives its record."""
        self._written.pop(name, None)
        try:
            self._set_file(name).unlink(missing_ok=True)
        except OSError as error:
            raise _failed(self._set_file(name), error) from error

    def declarations(self) -> tuple[Declaration, ...]:
        """Every copy that can be read. Raises StoreError naming one that cannot."""
        return tuple(_read(self._set_file(name), _DECLARATION) for name in self._names())

    def _names(self) -> list[str]:
        try:
            return sorted(file.stem for file in self._sets.iterdir() if _is_copy(file))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed(self._sets, error) from error

    def _find(self, name: str) -> Declaration | None:
        """None if there is none, or none that can be read: the store has it too, and it is written again."""
        if name not in self._written:
            with contextlib.suppress(StoreError):
                self._written[name] = _read(self._set_file(name), _DECLARATION)
        return self._written.get(name)

    def _set_file(self, name: str) -> Path:
        return self._sets / f"{name}{_SUFFIX}"

    # ---- images ------------------------------------------------------------------------------------------

    def keep_images(self, images: Iterable[Image], given: Mapping[str, int]) -> None:
        """A description of every one of them, as the store has it now. Raises StoreError.

        `given`: name -> the highest version number that was ever given. It is remembered when the image is gone.
        """
        for image in images:
            content = _IMAGE.dump_json(image)
            if _content(self._image_file(image)) != content:
                _write(self._image_file(image), content, str(os.getpid()))
        for name, version in given.items():
            self._remember_given(name, version)

    def forget_image(self, image: Image) -> None:
        """Its number stays given. Raises StoreError."""
        self._remember_given(image.name, image.version)
        try:
            self._image_file(image).unlink(missing_ok=True)
        except OSError as error:
            raise _failed(self._image_file(image), error) from error

    def images(self) -> tuple[Image, ...]:
        """Raises StoreError."""
        return tuple(_read(file, _IMAGE) for file in sorted(self._images.glob(f"*@*{_SUFFIX}")))

    def given_versions(self) -> dict[str, int]:
        """Image's name -> the highest version number of which there is, or was, a description."""
        given: dict[str, int] = {}
        for _, name, version in (*self._numbered(_SUFFIX), *self._numbered(GIVEN)):
            given[name] = max(given.get(name, 0), version)
        return given

    def _remember_given(self, name: str, version: int) -> None:
        """An empty file for each number, the highest of which counts: no writer takes another's back."""
        marks = {number: file for file, of, number in self._numbered(GIVEN) if of == name}
        if max(marks, default=0) < version:
            _write(self._images / f"{name}@{version}{GIVEN}", b"", str(os.getpid()))
            for lower in marks.values():
                lower.unlink(missing_ok=True)

    def _numbered(self, suffix: str) -> Iterator[tuple[Path, str, int]]:
        """(file, image's name, version) of each file with that suffix."""
        for file in self._images.glob(f"[!.]*@*{suffix}"):
            name, _, version = file.name.removesuffix(suffix).partition("@")
            if version.isdigit():
                yield file, name, int(version)

    def _image_file(self, image: Image) -> Path:
        return self._images / f"{image.name}@{image.version}{_SUFFIX}"


def _content(file: Path) -> bytes | None:
    """None if it is not there, or cannot be read: then it is written again."""
    try:
        return file.read_bytes()
    except OSError:
        return None


def _is_copy(file: Path) -> bool:
    """Not one that is being written."""
    return file.suffix == _SUFFIX and not file.name.startswith(".")


def _is_same(copy: Declaration | None, declared: Declaration) -> bool:
    """Whatever their generations."""
    return copy is not None and {**vars(copy), "generation": 0} == {**vars(declared), "generation": 0}


def _read(file: Path, kind: TypeAdapter[_Kind]) -> _Kind:
    try:
        return kind.validate_json(file.read_bytes())
    except OSError as error:
        raise _failed(file, error) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise StoreError(
            f"{file} is damaged: {first['msg']}", "move it away, and give the set's file: understudy adopt FILE"
        ) from error


def _write(file: Path, content: bytes, suffix: str) -> None:
    """`suffix` ends its name until it is whole."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(file, error) from error
    write_kept(file, content, f".{file.name}.{suffix}")


def _failed(file: Path, error: OSError) -> StoreError:
    return StoreError(
        f"cannot keep {file}: {error.strerror}", "check the disk space and rights of the state directory"
    )
