"""What libvirt's domain capabilities say of firmware and TPM."""

from __future__ import annotations

import pytest

from orchestrator.drivers.libvirt.firmware import why_no_firmware


def enum(name: str, *values: str) -> str:
    return f"<enum name='{name}'>" + "".join(f"<value>{value}</value>" for value in values) + "</enum>"


def capabilities(
    firmware: tuple[str, ...] = ("bios", "efi"),
    secure: tuple[str, ...] = ("yes", "no"),
    backends: tuple[str, ...] = ("passthrough", "emulator"),
    versions: tuple[str, ...] | None = ("1.2", "2.0"),
) -> str:
    """The parts that matter of what libvirt 9.0 says of machine type q35."""
    loader = f"<loader supported='yes'>{enum('type', 'rom', 'pflash')}{enum('secure', *secure)}</loader>"
    told = enum("backendVersion", *versions) if versions is not None else ""
    tpm = (
        f"<tpm supported='yes'>{enum('model', 'tpm-tis', 'tpm-crb')}{enum('backendModel', *backends)}{told}</tpm>"
    )
    return (
        f"<domainCapabilities><os supported='yes'>{enum('firmware', *firmware)}{loader}</os>"
        f"<devices>{tpm}</devices></domainCapabilities>"
    )


def test_a_host_with_everything_installed_offers_any_firmware() -> None:
    for firmware in ("bios", "uefi", "uefi-secure"):
        assert why_no_firmware(capabilities(), firmware) == ""


def test_bios_is_part_of_qemu() -> None:
    assert why_no_firmware(capabilities(firmware=(), secure=("no",), backends=()), "bios") == ""


def test_uefi_needs_a_firmware_and_nothing_else() -> None:
    assert why_no_firmware(capabilities(firmware=()), "uefi") == "no UEFI firmware is installed"
    assert why_no_firmware(capabilities(secure=("no",), backends=("passthrough",)), "uefi") == ""


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (capabilities(firmware=()), "no UEFI firmware is installed"),
        (capabilities(secure=("no",)), "no UEFI firmware with secure boot is installed"),
        (capabilities(backends=("passthrough",)), "no emulator of a TPM 2.0 is installed"),
        (capabilities(versions=("1.2",)), "no emulator of a TPM 2.0 is installed"),
        (capabilities(versions=None), ""),
        ("<domainCapabilities/>", "no UEFI firmware is installed"),
    ],
)
def test_secure_uefi_needs_secure_boot_and_a_tpm(told: str, why: str) -> None:
    assert why_no_firmware(told, "uefi-secure") == why
