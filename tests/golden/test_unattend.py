"""Answer files of Windows: as files, and held against the structure that Microsoft documents.

https://learn.microsoft.com/windows-hardware/customize/desktop/unattend/ (settings by component, with examples)
"""

from __future__ import annotations

import base64
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.models.machine import Hardware
from orchestrator.models.naming import LOCAL_SERIAL
from orchestrator.models.storage import ExtraDisk
from orchestrator.models.windows import MAX_LOGON_COMMAND, WindowsSpec
from orchestrator.render.domain import render_disk
from orchestrator.render.unattend import hide_password, logon_commands, render_unattend
from tests.golden.golden import assert_golden
from tests.unit.examples import many

NS = "{urn:schemas-microsoft-com:unattend}"
WCM_ACTION = "{http://schemas.microsoft.com/WMIConfig/2002/State}action"
SHELL = "Microsoft-Windows-Shell-Setup"
DEPLOYMENT = "Microsoft-Windows-Deployment"
INTERNATIONAL = "Microsoft-Windows-International-Core"
KEY = "ABCDE-12345-FGHIJ-67890-KLMNO"

NASTY = (
    "echo a&b",
    'cmd /c "type <C:\\in.txt >C:\\out.txt"',
    "echo ]]> <!-- '&amp;' -->",
    "echo grüße 你好 🙂\tend",
)

# (pass, component) -> settings of that component that are valid in that pass, in the order of the reference.
SETTINGS = {
    ("specialize", DEPLOYMENT): ("RunSynchronous",),
    ("specialize", SHELL): ("ComputerName", "ProductKey", "TimeZone"),
    ("oobeSystem", INTERNATIONAL): ("InputLocale", "SystemLocale", "UILanguage", "UserLocale"),
    ("oobeSystem", SHELL): ("AutoLogon", "FirstLogonCommands", "OOBE", "UserAccounts"),
}
# Setting -> its children, in the order of the reference's examples; what is not here holds text.
CHILDREN = {
    "RunSynchronous": ("RunSynchronousCommand",),
    "RunSynchronousCommand": ("Credentials", "Description", "Order", "Path", "WillReboot"),
    "AutoLogon": ("Password", "Domain", "Enabled", "LogonCount", "Username"),
    "Password": ("Value", "PlainText"),
    "FirstLogonCommands": ("SynchronousCommand",),
    "SynchronousCommand": ("CommandLine", "Description", "Order", "RequiresUserInput"),
    "OOBE": (
        "HideEULAPage",
        "HideLocalAccountScreen",
        "HideOEMRegistrationScreen",
        "HideOnlineAccountScreens",
        "HideWirelessSetupInOOBE",
        "NetworkLocation",
        "OEMAppId",
        "ProtectYourPC",
    ),
    "UserAccounts": ("AdministratorPassword", "DomainAccounts", "LocalAccounts"),
    "AdministratorPassword": ("Value", "PlainText"),
}
LISTS = ("RunSynchronous", "FirstLogonCommands")


def windows(**fields: Any) -> WindowsSpec:
    return WindowsSpec.model_validate({"administrator_password_file": "/secrets/admin.txt", **fields})


def render(spec: WindowsSpec | None = None, member: str = "web-4tz9k", password: str = "Correct-Horse-1") -> bytes:
    files = render_unattend(spec or windows(), member, password)
    assert sorted(files) == ["Autounattend.xml", "unattend.xml"]
    assert files["Autounattend.xml"] == files["unattend.xml"]
    return files["unattend.xml"]


def parsed(spec: WindowsSpec | None = None, **fields: Any) -> ElementTree.Element:
    return ElementTree.fromstring(render(spec, **fields))


def component(root: ElementTree.Element, in_pass: str, name: str) -> ElementTree.Element:
    (found,) = root.findall(f"{NS}settings[@pass='{in_pass}']/{NS}component[@name='{name}']")
    return found


def texts(parent: ElementTree.Element, path: str) -> list[str | None]:
    return [one.text for one in parent.findall("/".join(NS + part for part in path.split("/")))]


def assert_structure(root: ElementTree.Element) -> None:
    """Passes, components and settings are those of the reference, in its order, and nothing else is there."""
    assert root.tag == f"{NS}unattend"
    assert [one.get("pass") for one in root] == ["specialize", "oobeSystem"]
    for settings in root:
        assert settings.tag == f"{NS}settings"
        for one in settings:
            name = one.get("name")
            assert one.tag == f"{NS}component"
            assert one.attrib == {
                "name": name,
                "processorArchitecture": "amd64",
                "publicKeyToken": "31bf3856ad364e35",
                "language": "neutral",
                "versionScope": "nonSxS",
            }
            assert_children(one, SETTINGS[str(settings.get("pass")), str(name)])


def assert_children(parent: ElementTree.Element, known: tuple[str, ...]) -> None:
    names = [one.tag.removeprefix(NS) for one in parent]
    assert names == sorted(names, key=known.index)
    is_list = parent.tag.removeprefix(NS) in LISTS
    assert is_list or len(set(names)) == len(names)
    for name, one in zip(names, parent, strict=True):
        assert one.attrib == ({WCM_ACTION: "add"} if is_list else {})
        if name in CHILDREN:
            assert not (one.text or "").strip()
            assert len(one) > 0
            assert_children(one, CHILDREN[name])
        else:
            assert len(one) == 0
            assert one.text
    if is_list:
        numbers = [int(one.findtext(f"{NS}Order") or "") for one in parent]
        assert numbers == list(range(1, len(numbers) + 1))
        assert numbers[-1] <= 500


FULL = {
    "locale": "de-DE",
    "time_zone": "W. Europe Standard Time",
    "product_key": KEY,
    "synchronous_commands": NASTY,
    "first_logon_commands": NASTY,
    "local_storage_letter": "S",
}


@pytest.mark.parametrize(
    ("name", "fields", "member", "password"),
    [
        ("plain", {}, "web-4tz9k", "Correct-Horse-1"),
        ("full", FULL, "a-long-and-windy-name-4tz9k", "p&<w>\"']]> ü🙂"),
    ],
)
def test_an_answer_file_is_rendered_like_its_golden_file(
    name: str, fields: dict[str, Any], member: str, password: str
) -> None:
    document = render(windows(**fields), member, password)
    assert_golden(f"unattend/{name}.xml", document.decode())
    assert_structure(ElementTree.fromstring(document))


def test_both_namespaces_are_declared_as_documented() -> None:
    document = render(windows(synchronous_commands=["x"])).decode()
    assert document.startswith(
        "<?xml version='1.0' encoding='utf-8'?>\n<unattend xmlns=\"urn:schemas-microsoft-com:"
    )
    assert 'xmlns:wcm="http://schemas.microsoft.com/WMIConfig/2002/State"' in document
    assert '<RunSynchronousCommand wcm:action="add">' in document


def test_a_machine_becomes_itself_in_specialize() -> None:
    shell = component(parsed(windows(time_zone="Tokyo Standard Time")), "specialize", SHELL)
    assert texts(shell, "ComputerName") == ["web-4tz9k"]
    assert texts(shell, "TimeZone") == ["Tokyo Standard Time"]
    assert texts(shell, "ProductKey") == []
    assert texts(component(parsed(windows(product_key=KEY)), "specialize", SHELL), "ProductKey") == [KEY]


def test_one_locale_is_that_of_keyboard_system_and_user() -> None:
    core = component(parsed(windows(locale="de-DE")), "oobeSystem", INTERNATIONAL)
    assert [one.text for one in core] == ["de-DE"] * 4


def test_nobody_logs_on_where_nothing_runs_at_the_first_logon() -> None:
    shell = component(parsed(windows(synchronous_commands=["x"])), "oobeSystem", SHELL)
    assert shell.find(f"{NS}AutoLogon") is None
    assert shell.find(f"{NS}FirstLogonCommands") is None


@pytest.mark.parametrize("fields", [{"first_logon_commands": ["x"]}, {"local_storage_letter": "S"}])
def test_somebody_logs_on_once_for_the_commands_of_the_first_logon(fields: dict[str, Any]) -> None:
    logon = component(parsed(windows(**fields)), "oobeSystem", SHELL)
    assert texts(logon, "AutoLogon/LogonCount") == ["1"]
    assert texts(logon, "AutoLogon/Username") == ["Administrator"]
    assert texts(logon, "AutoLogon/Password/Value") == [hide_password("Correct-Horse-1", "Password")]


def test_a_password_is_hidden_as_the_reference_shows() -> None:
    # The example of Microsoft-Windows-Shell-Setup | UserAccounts | AdministratorPassword | Value.
    value = "cAB3AEEAZABtAGkAbgBpAHMAdAByAGEAdABvAHIAUABhAHMAcwB3AG8AcgBkAA=="
    assert hide_password("pw", "AdministratorPassword") == value
    accounts = component(parsed(password="pw"), "oobeSystem", SHELL)
    assert texts(accounts, "UserAccounts/AdministratorPassword/Value") == [value]
    assert texts(accounts, "UserAccounts/AdministratorPassword/PlainText") == ["false"]


def test_the_disk_of_the_letter_comes_before_the_operators_commands() -> None:
    disk, first = logon_commands(windows(local_storage_letter="S", first_logon_commands=["mine"]))
    assert first == "mine"
    assert len(disk) <= MAX_LOGON_COMMAND
    other, _ = logon_commands(windows(local_storage_letter="T", first_logon_commands=["mine"]))
    assert disk.replace("DriveLetter S", "DriveLetter T").replace("'S'", "'T'").replace(" S:", " T:") == other


def test_the_disk_is_that_of_local_storage_as_its_domain_names_it_and_never_another() -> None:
    (disk,) = logon_commands(windows(local_storage_letter="S"))
    local = render_disk(ExtraDisk("a-volume", LOCAL_SERIAL, 0, 2**30), "/srv/a-volume", Hardware())
    serial = ElementTree.fromstring(local).findtext("serial")
    chosen, found, rest = disk.partition(f"Where-Object {{ ([string]$_.SerialNumber).Trim() -eq '{serial}' }});")
    assert found
    assert chosen.count("Get-Disk") == 1
    assert rest.startswith(" if ($d.Count -ne 1) { exit 1 }; $n = $d[0].Number;")
    # From there on everything is about disk $n.
    assert set(re.findall(r"(?:Disk|DiskNumber|Number) (\$?\w+)", rest)) == {"$n"}
    assert "-First 1" not in chosen


def test_the_disk_is_formatted_only_if_nothing_is_on_it() -> None:
    (disk,) = logon_commands(windows(local_storage_letter="S"))
    # One argument for PowerShell: in double quotes, none within.
    found = re.fullmatch(r'powershell\.exe [^"]* -Command "([^"]*)"', disk)
    assert found is not None
    blocks = innermost_blocks(found[1])
    (formatting,) = (block for block in blocks if "Format-Volume" in block)
    before, _, _ = found[1].partition("{" + formatting)
    assert before.endswith("if ((Get-Disk -Number $n).PartitionStyle -eq 'RAW') ")


def innermost_blocks(script: str) -> list[str]:
    """What stands in braces that hold no others; every brace has its partner."""
    found, open_at = [], []
    for place, char in enumerate(script):
        if char == "{":
            open_at.append(place)
        elif char == "}":
            begin = open_at.pop()
            block = script[begin + 1 : place]
            found += [block] if "{" not in block else []
    assert open_at == []
    return found


lines = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")
    | st.just("\t"),
    min_size=1,
    max_size=60,
).filter(lambda text: bool(text.strip()))
lines |= st.sampled_from(["]]>", "<!--", "'\"&<>", "</Path>", "&amp;", "%TEMP%", " a  b ", "\u0085x", "\u2028x"])
passwords = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=127)


@many
@given(st.lists(lines, max_size=4), st.lists(lines, max_size=4), passwords)
def test_whatever_the_operator_writes_comes_out_as_it_was_given(
    early: list[str], late: list[str], password: str
) -> None:
    spec = windows(synchronous_commands=early, first_logon_commands=late)
    root = parsed(spec, password=password)
    assert_structure(root)
    if early:
        deployment = component(root, "specialize", DEPLOYMENT)
        assert texts(deployment, "RunSynchronous/RunSynchronousCommand/Path") == early
    shell = component(root, "oobeSystem", SHELL)
    assert texts(shell, "FirstLogonCommands/SynchronousCommand/CommandLine") == late
    (hidden,) = texts(shell, "UserAccounts/AdministratorPassword/Value")
    assert base64.b64decode(hidden or "").decode("utf-16-le") == f"{password}AdministratorPassword"


def test_no_password_stands_in_clear() -> None:
    spec = windows(first_logon_commands=["x"])
    assert b"Correct-Horse-1" not in render(spec, password="Correct-Horse-1")


def test_an_answer_file_is_the_same_whenever_it_is_rendered() -> None:
    assert render(windows(**FULL)) == render(windows(**FULL))
