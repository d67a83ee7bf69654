"""Seed ISOs written by pycdlib, read back by another reader."""

from __future__ import annotations

import subprocess
from pathlib import Path

from orchestrator.drivers.seed_iso import IsoSeedWriter
from orchestrator.models.windows import WindowsSpec
from orchestrator.render.unattend import UNATTEND_LABEL, render_unattend

FILES = {
    "meta-data": b"instance-id: i-1\nlocal-hostname: web-1\n",
    "user-data": "#cloud-config\n# größe & 'quotes' ]]>\n".encode(),
    "vendor-data": b"#cloud-config\n" + b"x: y\n" * 5000,
    "network-config": b"version: 2\n",
}


def xorriso(iso: Path, *arguments: str, names: str = "any") -> str:
    """`names`: `any` reads the best there are, those of Rock Ridge; `norock` those of Joliet."""
    command = ["xorriso", "-read_fs", names, "-indev", str(iso), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
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


def test_another_reader_finds_the_answer_files_of_windows_by_the_names_windows_looks_for(tmp_path: Path) -> None:
    windows = WindowsSpec(administrator_password_file="admin.txt", synchronous_commands=("echo grüße & <]]>",))
    files = render_unattend(windows, "web-4tz9k", "pw")
    iso = tmp_path / "seed.iso"
    iso.write_bytes(IsoSeedWriter().write(UNATTEND_LABEL, files))
    assert "Volume id    : 'UNATTEND'" in xorriso(iso, "-pvd_info")
    # Windows reads the Joliet names.
    out = tmp_path / "out"
    xorriso(iso, "-osirrox", "on", "-extract", "/", str(out), names="norock")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    assert sorted(files) == ["Autounattend.xml", "unattend.xml"]
