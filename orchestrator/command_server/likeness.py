"""What two processes must have in common for one to run a command in the other's stead."""

from __future__ import annotations

import os
import sys
import zlib
from typing import Any

from orchestrator import __version__

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - pathlib is slow to load
_NAMESPACES = ("mnt", "net", "pid", "user")
_RIGHTS = ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")  # of /proc/self/status
# Read when the interpreter starts, or a library is loaded.
_READ_AT_START = ("PYTHON", "LIBVIRT_", "LD_", "TYPER_")
# Of these, what makes no difference: where the program was found is compared, and streams are the client's own.
_OF_NO_MATTER = ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONIOENCODING", "PYTHONDONTWRITEBYTECODE", "PYTHONSTARTUP")


def likeness() -> dict[str, Any]:
    """Of this process, as JSON has it: the program and its libraries, and the rights and the world it has.

    A package of which a file was changed, or an installation of libraries that was, makes two processes unlike.
    """
    root = os.stat("/")  # noqa: PTH116
    return {
        "version": [__version__, sys.version, sys.getfilesystemencoding()],
        "package": _PACKAGE,
        "sources": _digest_of_sources(),
        "prefix": sys.prefix,
        "libraries": sorted(
            f"{path} {os.stat(path).st_mtime_ns}"  # noqa: PTH116
            for path in sys.path
            if path.endswith(("site-packages", "dist-packages")) and os.path.isdir(path)  # noqa: PTH112
        ),
        "environment": sorted(
            f"{key}={value}"
            for key, value in os.environ.items()
            if key.startswith(_READ_AT_START) and key not in _OF_NO_MATTER
        ),
        "options": [*sys.warnoptions, *sorted(map(str, sys._xoptions.items())), sys.flags.optimize],
        "user": [os.getuid(), os.geteuid(), os.getgid(), os.getegid()],
        "groups": sorted({os.getegid(), *os.getgroups()}),  # systemd names a group of its own only once
        "rights": _rights(),
        "world": [root.st_dev, root.st_ino, *(os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES)],  # noqa: PTH115
    }


def _digest_of_sources() -> int:
    """Of names, sizes and times of change; another one also where a file is older than before, or gone."""
    found = []
    for folder, _, names in os.walk(_PACKAGE):
        for name in names:
            if name.endswith(".py"):
                path = f"{folder}/{name}"
                seen = os.stat(path)  # noqa: PTH116
                found.append(f"{path} {seen.st_size} {seen.st_mtime_ns}")
    return zlib.crc32("\n".join(sorted(found)).encode(errors="surrogateescape"))


def _rights() -> list[str]:
    with open("/proc/self/status", encoding="utf-8") as status:  # noqa: PTH123
        return [line.strip() for line in status if line.startswith(_RIGHTS)]
