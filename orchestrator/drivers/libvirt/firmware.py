"""Whether a host can give a machine the firmware it asks for, and the TPM that goes with it."""

from __future__ import annotations

from xml.etree import ElementTree

from orchestrator.models.spec import Firmware


def why_no_firmware(capabilities: str, firmware: Firmware) -> str:
    """What libvirt's domain capabilities (of machine type q35) lack for it; empty if nothing."""
    root = ElementTree.fromstring(capabilities)  # noqa: S314 - libvirtd's own document

    def values(path: str) -> set[str | None]:
        return {value.text for value in root.findall(f"{path}/value")}

    if firmware == "bios":
        return ""
    if "efi" not in values("./os/enum[@name='firmware']"):
        return "no UEFI firmware is installed"
    if firmware == "uefi":
        return ""
    if "yes" not in values("./os/loader/enum[@name='secure']"):
        return "no UEFI firmware with secure boot is installed"
    # Older versions of libvirt do not tell the version of the TPM.
    versions = values("./devices/tpm/enum[@name='backendVersion']") or {"2.0"}
    if "emulator" not in values("./devices/tpm/enum[@name='backendModel']") or "2.0" not in versions:
        return "no emulator of a TPM 2.0 is installed"
    return ""
