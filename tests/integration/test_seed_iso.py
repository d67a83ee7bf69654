"""Seed ISOs written by pycdlib, read back by another reader."""

from __future__ import annotations

import subprocess
from pathlib import Path

from orchestrator.drivers.seed_iso import IsoSeedWriter

FILES = {
    "meta-data": b"instance-id: i-1\nlocal-hostname: web-1\n",
    "user-data": "#cloud-config\n# größe & 'quotes' ]]>\n".encode(),
    "vendor-data": b"#cloud-config\n" + b"x: y\n" * 5000,
    "network-config": b"version: 2\n",
}


def xorriso(iso: Path, *arguments: str) -> str:
    done = subprocess.run(["xorriso", "-indev", str(iso), *arguments], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_another_reader_finds_the_same_files_and_the_label(tmp_path: Path) -> None:
    iso = tmp_path / "seed.iso"
    iso.write_bytes(IsoSeedWriter().write("cidata", FILES))
    assert "Volume id    : 'cidata'" in xorriso(iso, "-pvd_info")
    out = tmp_path / "out"
    xorriso(iso, "-osirrox", "on", "-extract", "/", str(out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == FILES


def test_the_kernel_of_blkid_sees_a_cidata_volume(tmp_path: Path) -> None:
    iso = tmp_path / "seed.iso"
    iso.write_bytes(IsoSeedWriter().write("cidata", FILES))
    done = subprocess.run(["blkid", "-p", "-o", "export", str(iso)], capture_output=True, text=True, check=True)
    assert "LABEL=cidata" in done.stdout
    assert "TYPE=iso9660" in done.stdout
