"""Whom libvirt runs QEMU as, and what that user may do with a file."""

from __future__ import annotations

import os
import pwd
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True)
class QemuUser:
    """A user that is not root, with all groups that libvirt gives a QEMU."""

    uid: int
    groups: frozenset[int]

    def may_open(self, device: Path) -> bool:
        """Whether it may read and write there; its way to it is not looked at."""
        return self._has(device, stat.S_IROTH | stat.S_IWOTH)

    def find_blocked(self, directory: Path) -> Path | None:
        """The first directory on the way that it may not pass through."""
        way = [*reversed(directory.parents), directory]
        return next((path for path in way if not self._has(path, stat.S_IXOTH)), None)

    def _has(self, path: Path, rights: int) -> bool:
        """`rights`: the bits for others."""
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid in self.groups else 0
        return status.st_mode >> shift & rights == rights


def find_qemu_user(capabilities: str) -> QemuUser | None:
    """Read from virConnectGetCapabilities. None: root, or not told.

    The label's group need not be that of the password file, which counts too: libvirt gives QEMU its user's own
    groups and the label's (virGetGroupList). Debian's libvirt-qemu is in kvm by its password entry alone.
    """
    document = ElementTree.fromstring(capabilities)  # noqa: S314 - libvirtd's own document
    label = document.findtext("./host/secmodel[model='dac']/baselabel[@type='kvm']") or ""
    match = re.match(r"\+?(\d+):\+?(\d+)", label)
    if match is None or match[1] == "0":
        return None
    uid, gid = int(match[1]), int(match[2])
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return QemuUser(uid, frozenset([gid]))
    return QemuUser(uid, frozenset([gid, *os.getgrouplist(entry.pw_name, entry.pw_gid)]))
