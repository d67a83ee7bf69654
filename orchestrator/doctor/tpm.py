"""Whether emulated TPMs can be made for machines with secure boot.

A libvirtd that was running before swtpm was installed knows no user `tss` and makes TPMs as root. It leaves files
in the authority that signs their certificates which it may not write once it was restarted: every later TPM fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.doctor.finding import Finding

AUTHORITY = Path("/var/lib/swtpm-localca")  # statedir of swtpm-localca.conf(5)


def examine_authority(name: str, directory: Path = AUTHORITY) -> Iterator[Finding]:
    """Nothing where swtpm is not installed: only `firmware: uefi-secure` needs it."""
    if not directory.is_dir():
        return
    owner = directory.stat().st_uid
    foreign = sorted(path.name for path in directory.iterdir() if path.stat().st_uid != owner)
    if foreign:
        yield Finding(
            name,
            "warning",
            f"cannot be made for firmware uefi-secure: {directory / foreign[0]} is not the directory's owner's",
            f"chown -R --reference={directory} {directory}",
        )
    else:
        yield Finding(name, "ok", "their certificates can be signed")
