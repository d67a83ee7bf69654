"""The answer file of one Windows machine, built as a tree: no value can break out of its place.

A generalized image runs two passes on its first boot: `specialize` (the machine becomes itself) and `oobeSystem`
(its first start). Windows looks for `unattend.xml` or `Autounattend.xml` at the root of removable media, depending
on how it was installed: the seed holds the same document under both names.
Reference: https://learn.microsoft.com/windows-hardware/customize/desktop/unattend/
"""

from __future__ import annotations

import base64
from xml.etree.ElementTree import Element, SubElement, indent, register_namespace, tostring

from orchestrator.models.naming import LOCAL_SERIAL, windows_computer_name
from orchestrator.models.windows import WindowsSpec

UNATTEND_LABEL = "UNATTEND"
UNATTEND_FILES = ("Autounattend.xml", "unattend.xml")
UNATTEND_NS = "urn:schemas-microsoft-com:unattend"
WCM_NS = "http://schemas.microsoft.com/WMIConfig/2002/State"

_ADMINISTRATOR = "Administrator"
_OOBE = (
    ("HideEULAPage", "true"),
    ("HideLocalAccountScreen", "true"),
    ("HideOEMRegistrationScreen", "true"),
    ("HideOnlineAccountScreens", "true"),
    ("HideWirelessSetupInOOBE", "true"),
    ("ProtectYourPC", "3"),  # neither asks nor turns anything on
)

# For PowerShell, between double quotes: it may hold none itself. The disk with that serial, and no other, is
# brought up, formatted only if it has no partition table, and takes the letter, from a CD-ROM if need be. Some
# drivers fill the serial up with spaces.
_BRING_UP_DISK = (
    "$d = @(Get-Disk | Where-Object {{ ([string]$_.SerialNumber).Trim() -eq '{serial}' }});"
    " if ($d.Count -ne 1) {{ exit 1 }}; $n = $d[0].Number;"
    " Set-Disk -Number $n -IsOffline $false; Set-Disk -Number $n -IsReadOnly $false;"
    " if (Get-Volume | Where-Object {{ $_.DriveType -eq 'CD-ROM' -and $_.DriveLetter -eq '{letter}' }})"
    " {{ mountvol {letter}: /D }};"
    " if ((Get-Disk -Number $n).PartitionStyle -eq 'RAW') {{ Initialize-Disk -Number $n -PartitionStyle GPT;"
    " New-Partition -DiskNumber $n -UseMaximumSize -DriveLetter {letter}"
    " | Format-Volume -FileSystem NTFS -Confirm:$false }}"
    " else {{ $p = Get-Partition -DiskNumber $n | Where-Object Type -in 'Basic', 'IFS' | Select-Object -First 1;"
    " if ($p.DriveLetter -ne '{letter}') {{ $p | Set-Partition -NewDriveLetter {letter} }} }}"
)


def render_unattend(windows: WindowsSpec, member: str, password: str) -> dict[str, bytes]:
    """File name -> content: the answer file of the member's machine, under each of its names."""
    register_namespace("", UNATTEND_NS)
    register_namespace("wcm", WCM_NS)
    root = Element(_tag("unattend"))
    _specialize(_pass(root, "specialize"), windows, windows_computer_name(member))
    _oobe_system(_pass(root, "oobeSystem"), windows, password)
    indent(root)
    document = tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"
    return dict.fromkeys(UNATTEND_FILES, document)


def hide_password(password: str, setting: str) -> str:
    """As Windows writes a password that is not `PlainText`: it keeps out glances, nothing more."""
    return base64.b64encode(f"{password}{setting}".encode("utf-16-le")).decode()


def logon_commands(windows: WindowsSpec) -> tuple[str, ...]:
    """What runs at the first logon, in order."""
    if not windows.local_storage_letter:
        return windows.first_logon_commands
    script = _BRING_UP_DISK.format(serial=LOCAL_SERIAL, letter=windows.local_storage_letter)
    command = f'powershell.exe -NoProfile -NonInteractive -ExecutionPolicy Bypass -Command "{script}"'
    return (command, *windows.first_logon_commands)


def _specialize(settings: Element, windows: WindowsSpec, computer_name: str) -> None:
    if windows.synchronous_commands:
        deployment = _component(settings, "Microsoft-Windows-Deployment")
        commands = _add(deployment, "RunSynchronous")
        for order, command in enumerate(windows.synchronous_commands, start=1):
            one = _add_item(commands, "RunSynchronousCommand")
            _text(one, "Order", str(order))
            _text(one, "Path", command)
    shell = _component(settings, "Microsoft-Windows-Shell-Setup")
    _text(shell, "ComputerName", computer_name)
    if windows.product_key:
        _text(shell, "ProductKey", windows.product_key)
    _text(shell, "TimeZone", windows.time_zone)


def _oobe_system(settings: Element, windows: WindowsSpec, password: str) -> None:
    international = _component(settings, "Microsoft-Windows-International-Core")
    for name in ("InputLocale", "SystemLocale", "UILanguage", "UserLocale"):
        _text(international, name, windows.locale)
    shell = _component(settings, "Microsoft-Windows-Shell-Setup")
    commands = logon_commands(windows)
    if commands:
        _auto_logon(shell, password)
        _first_logon(shell, commands)
    oobe = _add(shell, "OOBE")
    for name, value in _OOBE:
        _text(oobe, name, value)
    _password(_add(shell, "UserAccounts"), "AdministratorPassword", password)


def _auto_logon(shell: Element, password: str) -> None:
    """Once, because nobody else logs on to have the commands of the first logon run."""
    logon = _add(shell, "AutoLogon")
    _password(logon, "Password", password)
    _text(logon, "Enabled", "true")
    _text(logon, "LogonCount", "1")
    _text(logon, "Username", _ADMINISTRATOR)


def _first_logon(shell: Element, commands: tuple[str, ...]) -> None:
    parent = _add(shell, "FirstLogonCommands")
    for order, command in enumerate(commands, start=1):
        one = _add_item(parent, "SynchronousCommand")
        _text(one, "CommandLine", command)
        _text(one, "Order", str(order))


def _password(parent: Element, setting: str, password: str) -> None:
    element = _add(parent, setting)
    _text(element, "Value", hide_password(password, setting))
    _text(element, "PlainText", "false")


def _pass(root: Element, name: str) -> Element:
    settings = _add(root, "settings")
    settings.set("pass", name)
    return settings


def _component(settings: Element, name: str) -> Element:
    component = _add(settings, "component")
    component.set("name", name)
    component.set("processorArchitecture", "amd64")
    component.set("publicKeyToken", "31bf3856ad364e35")
    component.set("language", "neutral")
    component.set("versionScope", "nonSxS")
    return component


def _add_item(parent: Element, name: str) -> Element:
    """An item of a list, which the answer file adds to what the image may have."""
    item = _add(parent, name)
    item.set(f"{{{WCM_NS}}}action", "add")
    return item


def _text(parent: Element, name: str, value: str) -> None:
    _add(parent, name).text = value


def _add(parent: Element, name: str) -> Element:
    return SubElement(parent, _tag(name))


def _tag(name: str) -> str:
    return f"{{{UNATTEND_NS}}}{name}"
