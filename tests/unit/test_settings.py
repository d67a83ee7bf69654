"""config.toml: every key has a default, every mistake its file and key."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.config.settings import Settings, load_settings
from orchestrator.errors import SpecError
from tests.unit.examples import many


def load(folder: Path, text: str) -> Settings:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file)


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(SpecError) as error:
        load(folder, text)
    return error.value.message.replace(f"{folder}/", "")


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    made = load_settings(tmp_path / "config.toml")
    assert made == Settings()
    assert [host.name for host in made.hosts] == ["local"]
    assert made.hosts[0].uri in ("qemu:///system", "qemu:///session")
    assert (made.prefix, made.network.mode, made.network.range) == ("understudy", "user", "127.77.0.0/16")
    assert (made.limits.retry_pause, made.limits.retry_pause_max) == (30.0, 600.0)
    assert made.limits.golden_free == 10


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Settings()


def test_every_key_can_be_set(tmp_path: Path) -> None:
    made = load(
        tmp_path,
        """
        prefix = "lab"
        store = "postgresql://db/understudy"
        [[hosts]]
        name = "one"
        uri = "qemu+ssh://one/system"
        zone = "east"
        accelerator = "tcg"
        pool_path = "/srv/volumes"
        [[hosts]]
        name = "two"
        [network]
        mode = "network"
        name = "default"
        range = "192.168.122.128/25"
        outbound = true
        [limits]
        parallel = 8
        memory_ratio = 1.5
        retry_pause = "5s"
        retry_pause_max = "1min"
        shutdown_timeout = "90s"
        """,
    )
    assert [(host.name, host.zone) for host in made.hosts] == [("one", "east"), ("two", "a")]
    assert (made.network.name, made.network.outbound) == ("default", True)
    assert (made.limits.parallel, made.limits.memory_ratio, made.limits.retry_pause) == (8, 1.5, 5.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("prefx = 'a'\n", "config.toml: unknown key 'prefx' (nearest: 'prefix')"),
        ("[limits]\nparalel = 2\n", "config.toml: unknown key 'paralel' (nearest: 'parallel')"),
        ("[[hosts]]\nzon = 'a'\n", "config.toml: unknown key 'zon' (nearest: 'zone')"),
        ("[network]\nrange = 'lan'\n", "network.range: 'lan' is not an IPv4 network such as 127.77.0.0/16"),
        ("[network]\nrange = '127.77.0.1/16'\n", "network.range: '127.77.0.1/16' is not an IPv4 network"),
        ("[network]\nmode = 'bridge'\n", "network.mode: Input should be 'user' or 'network' (given: 'bridge')"),
        ("hosts = []\n", "hosts: at least one host is needed"),
        ("[[hosts]]\n[[hosts]]\n", "hosts: two hosts have the same name"),
        ("[limits]\nretry_pause = 30\n", "limits.retry_pause: 30 needs a number and a unit"),
        ("[limits]\ngolden_free = 20\n", "limits.golden_free: "),
        ('[limits]\ngolden_free = "101%"\n', "limits.golden_free: "),
        ("[limits]\nparallel = 0\n", "limits.parallel: Input should be greater than or equal to 1 (given: 0)"),
        ("[limits]\nmemory_ratio = 0.0\n", "limits.memory_ratio: Input should be greater than 0 (given: 0.0)"),
        ("[limits]\nmemory_ratio = nan\n", "limits.memory_ratio: Input should be"),
        ("prefix = 'My Lab'\n", "prefix: String should match pattern"),
        ("[[hosts]]\naccelerator = 'hvf'\n", "hosts.0.accelerator: Input should be 'auto', 'kvm' or 'tcg'"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path: Path, text: str, expected: str) -> None:
    said = complaint(tmp_path, text)
    assert said.startswith("config.toml: ")
    assert expected in said


@pytest.mark.parametrize(
    "uri",
    [
        "qemu:///system",
        "qemu:///session",
        "qemu+unix:///system?socket=/srv/h2/libvirt-sock",
        "qemu+unix:///session?socket=/run/user/1000/libvirt/libvirt-sock&no_verify=1",
        "qemu+ssh://root@h2.example:2222/system?keyfile=/root/.ssh/id&no_tty=1&known_hosts=/root/hosts",
        "qemu+libssh://h2/system?sshauth=agent",
        "qemu+libssh2://h2/system",
        "qemu+tls://h2/system?pkipath=/etc/pki/h2",
        "qemu://h2/system",
        "qemu+tcp://[fd00::1]:16509/system",
        "test:///default",
        "test:///srv/node.xml",
    ],
)
def test_a_host_of_every_known_kind_is_accepted(tmp_path: Path, uri: str) -> None:
    assert load(tmp_path, f"[[hosts]]\nuri = '{uri}'\n").hosts[0].uri == uri


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("qemu+ext:///system?command=/tmp/x", "'ext'"),
        ("qemu+ext://h2/system", "'ext'"),
        ("qemu+ssh://h2/system?command=/tmp/x", "'command'"),
        ("qemu+ssh://h2/system?no_tty=1&command=/tmp/x", "'command'"),
        ("qemu+ssh://h2/system?no_tty=1;command=/tmp/x", "'command'"),
        ("qemu+ssh://h2/system?%63ommand=/tmp/x", "'%63ommand'"),
        ("qemu+ssh://h2/system?COMMAND=/tmp/x", "'COMMAND'"),
        ("qemu+ssh://h2/system?netcat=/tmp/x", "'netcat'"),
        ("qemu+unix:///system?name=qemu%2Bext:///system", "'name'"),
        ("qemu+ssh://-oProxyCommand=x/system", "'-oProxyCommand=x'"),
        ("qemu+ssh://-l@h2/system", "'-l@h2'"),
        ("qemu:///embed?root=/tmp/x", "'/embed'"),
        ("QEMU+ssh://h2/system", "'QEMU'"),
        ("lxc:///system", "'lxc'"),
        ("xen+ssh://h2/", "'xen'"),
        ("h2", "'h2'"),
        ("", "''"),
        ("qemu:///system#x", "'qemu:///system#x'"),
        ("qemu+ssh://h2/system\\n", "such as qemu:///system"),
    ],
)
def test_a_uri_that_could_start_a_program_is_refused(tmp_path: Path, uri: str, named: str) -> None:
    said = complaint(tmp_path, f'[[hosts]]\nuri = "{uri}"\n')
    assert said.startswith("config.toml: hosts.0.uri: ")
    assert named in said


def test_what_is_not_toml_is_refused_with_its_place(tmp_path: Path) -> None:
    assert "line 1" in complaint(tmp_path, "prefix = \n")


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "config.toml: " in complaint(tmp_path, "prefix = 'a'\nprefix = 'b'\n")


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read"):
        load_settings(tmp_path)


@settings(many, suppress_health_check=[*HealthCheck])
@given(text=st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_settings_or_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text, encoding="utf-8", newline="")
    try:
        load_settings(file)
    except SpecError as error:
        assert str(file) in error.message
