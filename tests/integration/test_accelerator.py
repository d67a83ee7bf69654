"""The probe guest: its embedded bytes are its source, and it runs to its end where QEMU runs guests."""

from __future__ import annotations

import subprocess
from pathlib import Path

from orchestrator.drivers.libvirt import accelerator
from tests.support.benchmarks import running_machines

SOURCE = Path(accelerator.__file__).with_name("accelerator_probe.S")


def test_embedded_guest_is_what_its_source_assembles_to(tmp_path: Path) -> None:
    subprocess.run(["as", "--64", str(SOURCE), "-o", str(tmp_path / "probe.o")], check=True)
    link = ["ld", "-m", "elf_x86_64", "-Ttext", "0x7c00", "--oformat", "binary"]
    subprocess.run([*link, str(tmp_path / "probe.o"), "-o", str(tmp_path / "probe.img")], check=True)
    assert (tmp_path / "probe.img").read_bytes() == accelerator.PROBE_GUEST


def test_probe_guest_says_so_and_powers_off_under_emulation(tmp_path: Path) -> None:
    disk = tmp_path / "probe.img"
    disk.write_bytes(accelerator.PROBE_GUEST.ljust(4096, b"\0"))
    drive = f"file={disk},format=raw,if=ide"
    command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "pc", "-m", "32", "-display", "none"]
    done = subprocess.run(
        [*command, "-nodefaults", "-serial", "stdio", "-drive", drive],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert "long mode, paging and timer work" in done.stdout


def observed(folder: Path, accelerator: str, remembered: str = "") -> bool | None:
    """Whether a host of libvirt's test driver emulates, as far as it is known before a machine is made there."""
    folder.mkdir(exist_ok=True)
    host = f'[[hosts]]\nuri = "test:///default"\naccelerator = "{accelerator}"\n'
    (folder / "config.toml").write_text(host, encoding="utf-8")
    runtime = running_machines.TestDriverRuntime(folder)
    if remembered:
        fact = {"versions": "1/1", "kind": remembered, "why": "it was tried", "seconds": None}
        runtime.store.write_fact("accelerator:test:///default", fact)
    try:
        (seen,) = runtime.observe().hosts.values()
        assert seen.answers
        assert seen.cpus > 0
        return seen.emulates
    finally:
        runtime.close()


def test_whether_a_host_emulates_is_known_before_anything_is_tried_if_it_was_once(tmp_path: Path) -> None:
    assert observed(tmp_path / "tcg", "tcg") is True
    assert observed(tmp_path / "kvm", "kvm") is False
    assert observed(tmp_path / "auto", "auto") is None
    assert observed(tmp_path / "auto", "auto", "kvm") is False
    assert observed(tmp_path / "auto", "auto", "tcg") is True
