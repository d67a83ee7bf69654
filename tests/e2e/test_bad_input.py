"""Bad input through the command line: exit 2, the value named, the fix in a second line, nothing changed."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup

from orchestrator.cli.catalog import COMMANDS, load_command
from tests.support.installation import Installation, installation
from tests.support.specs import web_set


@pytest.fixture
def empty_micro(empty: Installation, tmp_path: Path) -> Installation:
    """An installation with a disk image that no test boots."""
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], check=True)
    empty.run("image", "add", "micro", str(disk))
    return empty


def refused(site: Installation, text: str, *arguments: str) -> str:
    file = site.write("web.yaml", text)
    said = site.run("apply", str(file), *arguments, expect=2)
    assert site.json("status") == []
    assert site.domains() == []
    return said


def test_unknown_key_names_file_line_and_nearest_key(empty_micro: Installation) -> None:
    said = refused(empty_micro, web_set(empty_micro, more="instnaces: 3\n"))
    assert f"{empty_micro.root}/web.yaml:" in said
    assert "unknown key 'instnaces' (nearest: 'instances')" in said


WINDOWS = "setup: {answer_file: unattend, windows: {administrator_password_file: open.txt"
BAD = [
    ("standby: {state: {running: 20%, stopped: 70%}, max_ready: 4}", "the percentages add up to 90, not to 100"),
    ("standby: {max_ready: 1, min_ready: 4}", "'min_ready' (4) is above 'max_ready' (1)"),
    ("setup: {restarts: -1}", "setup.restarts: Input should be greater than or equal to 0 (given: -1)"),
    ("setup: {steps: [{upload: {from: nosuch/, to: /srv}}]}", "cannot upload 'nosuch/'"),
    ("setup: {steps: [{upload: {from: /dev/null, to: /srv}}]}", "cannot upload /dev/null: /dev/null is a device"),
    (
        "setup: {answer_file: unattend, windows: {administrator_password_file: open.txt}}",
        "open.txt is open to others (mode 0644)\n  (chmod 600 ",
    ),
    (WINDOWS + ", local_storage_letter: S}}", "there is no 'local_storage' to take the letter S"),
    (WINDOWS + "}}\nlocal_storage: {size: 1GiB}", "local_storage: needs 'setup.windows.local_storage_letter'"),
    (
        WINDOWS + ", local_storage_letter: S}}\nlocal_storage: {size: 1GiB, mount: /mnt/local}",
        "local_storage.mount: Windows gives letters, not directories",
    ),
    (WINDOWS + "}}\ndrives: [{name: d, size: 1GiB}]", "drives: not with 'answer_file: unattend'"),
    ("drives: [{name: d, size: 1GiB, mount: /d, instances: [web-1, web-2]}]", "no drive is attached to two"),
    ("drives: [{name: d, size: 1GiB, mount: /d}, {name: d, size: 1GiB, mount: /e}]", "two drives are named 'd'"),
    ("zones: [a, nowhere]", "no host is in zone 'nowhere' (zones: a)"),
    ("setup: {timeout: 10}", "10 needs a number and a unit (ms, s, min, h, d)"),
    ("setup: {timeout: 10m}", "'10m' has the unknown unit 'm' (known: ms, s, min, h, d)"),
    ("hooks: {on_claim: [date], timeout: 1GiB}", "'1GiB' has the unknown unit 'GiB'"),
    ("hooks: {on_claim: [date], timeout: 0s}", "hooks.timeout: Input should be greater than 0"),
    ("setup: {timeout: 10ms}", "setup.timeout: must be from 5s to 1d (given: '10ms'); did you mean 10min?"),
    ("hooks: {timeout: 30ms}", "hooks.timeout: must be from 1s to 1h (given: '30ms'); did you mean 30s?"),
    ("hooks: {timeout: 30d}", "hooks.timeout: must be from 1s to 1h (given: '30d'); did you mean 30s?"),
    ("scale_in: {drain_timeout: 300d}", "must be from 0s to 1d (given: '300d'); did you mean 300s?"),
    (
        "readiness: [{tcp: {port: 80}, interval: 1ms}]",
        "readiness.0.interval: must be from 100ms to 5min (given: '1ms'); did you mean 1s?",
    ),
    ("repair: {grace: 30d}", "repair.grace: must be from 0s to 7d (given: '30d'); did you mean 30min?"),
    ("stanby: {max_ready: 3}", "unknown key 'stanby' (nearest: 'standby')"),
    ("spot: true", "machines here are never preempted"),
    ("fault_domains: 3", "a set has one fault domain in each zone"),
    ("standby: {max_ready: 1, region: north}", "a pool is on the hosts of its set"),
    ("standby: {max_ready: 1, owner: anne}", "a pool belongs to the owner of its set"),
    ("standby: [{max_ready: 1}, {max_ready: 2}]", "a set has one standby pool"),
    ("orchestration: uniform", "sets are flexible"),
    (
        "autoscale: {max: 4}\nstandby: {state: running, max_ready: 4}",
        "with a pool of any state, a running one too",
    ),
]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation with a disk image, for tests that leave it as it is."""
    with installation() as made:
        disk = tmp_path_factory.mktemp("image") / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "64M"], check=True)
        made.run("image", "add", "micro", str(disk))
        made.write("open.txt", "secret\n").chmod(0o644)
        yield made


@pytest.mark.parametrize(("more", "words"), BAD)
def test_what_cannot_be_meant_is_refused_in_its_own_words(bare: Installation, more: str, words: str) -> None:
    said = refused(bare, f"kind: ScaleSet\nname: web\nimage: micro\ninstances: 1\n{more}\n")
    assert words in said
    assert bare.volumes() == []


def test_unknown_image_names_the_command_that_makes_it(empty: Installation) -> None:
    said = refused(empty, web_set(empty))
    assert "image 'micro' is missing" in said
    assert "understudy image build micro" in said


def test_disk_smaller_than_the_image(empty_micro: Installation) -> None:
    text = web_set(empty_micro).replace("memory: 128MiB", "memory: 128MiB, disk: 16MiB")
    assert "smaller than image 'micro:1' (64 MiB)" in refused(empty_micro, text)


def test_more_memory_than_the_host_has(empty_micro: Installation) -> None:
    said = refused(empty_micro, web_set(empty_micro).replace("128MiB", "4TiB"))
    assert "more than any host has" in said


def test_more_machines_than_the_hosts_have_memory_for(empty_micro: Installation) -> None:
    said = refused(empty_micro, web_set(empty_micro, instances=5000))
    assert "the hosts have" in said


def test_port_that_is_taken(empty_micro: Installation) -> None:
    with socket.socket() as taken:
        taken.bind((empty_micro.endpoint, 8080))
        taken.listen()
        said = refused(empty_micro, web_set(empty_micro))
    assert "another program listens there" in said
    assert "ss -ltnp" in said


def test_endpoint_of_another_set(empty_micro: Installation) -> None:
    file = empty_micro.write("one.yaml", web_set(empty_micro, instances=0))
    empty_micro.run("apply", str(file))
    other = empty_micro.write("two.yaml", web_set(empty_micro, instances=0, name="shop"))
    assert "belongs to set 'web'" in empty_micro.run("apply", str(other), expect=2)
    assert [one["name"] for one in empty_micro.json("status")] == ["web"]


def test_two_sets_of_one_name_in_a_file(empty_micro: Installation) -> None:
    text = web_set(empty_micro) + "---\n" + web_set(empty_micro, port=8081)
    assert "second set named 'web'" in refused(empty_micro, text)


def test_deleting_an_image_in_use_is_refused_and_names_the_user(empty_micro: Installation) -> None:
    file = empty_micro.write("web.yaml", web_set(empty_micro, instances=0))
    empty_micro.run("apply", str(file))
    assert "in use by web" in empty_micro.run("image", "remove", "micro", expect=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("scale", "nosuch", "2"), "there is no scale set 'nosuch'"),
        (("delete", "nosuch"), "there is no scale set 'nosuch'"),
        (("events", "nosuch"), "there is no scale set 'nosuch'"),
        (("cost", "nosuch"), "there is no scale set 'nosuch'"),
        (("pool", "nosuch"), "there is no scale set 'nosuch'"),
        (("reimage", "web"), "does not name an instance"),
        (("restart", "web/none"), "there is no scale set 'web'"),
        (("image", "build", "windows"), "recipes: debian-12, micro"),
        (("image", "show", "nosuch"), "there is no image 'nosuch'"),
        (("apply", "/no/such/file"), "cannot read /no/such/file"),
        (("scale", "web", "-1"), "-1"),
    ],
)
def test_what_does_not_exist_is_named(empty: Installation, arguments: tuple[str, ...], words: str) -> None:
    assert words in empty.run(*arguments, expect=2)


def test_broken_settings_name_file_and_key(empty: Installation) -> None:
    (empty.root / "config.toml").write_text("prefx = 'x'\n")
    said = empty.run("status", expect=2)
    assert "config.toml" in said
    assert "nearest: 'prefix'" in said


def test_help_of_every_command_has_an_example(empty: Installation) -> None:
    assert len(COMMANDS) >= 19
    for name in COMMANDS:
        command = load_command(name)
        below = [f"{name} {one}" for one in command.commands] if isinstance(command, TyperGroup) else [name]
        for words in below:
            assert f"understudy {words}" in empty.run(*words.split(), "--help")


def test_what_only_looks_speaks_json(empty_micro: Installation) -> None:
    file = empty_micro.write("web.yaml", web_set(empty_micro, instances=0))
    (previewed,) = empty_micro.json("apply", str(file), "--dry-run")
    assert previewed == {"name": "web", "steps": [{"reason": "the load balancer is not running"}]}
    assert "web: 1 step to begin with\n" in empty_micro.run("apply", str(file), "--dry-run")
    assert "--dry-run" in empty_micro.run("apply", str(file), "--json", expect=2)
    assert empty_micro.json("status") == []
    empty_micro.run("apply", str(file))
    assert empty_micro.json("apply", str(file), "--dry-run") == [{"name": "web", "steps": []}]
    assert empty_micro.json("pool", "web") is None
    empty_micro.run("pool", "web", "--max-ready", "0")
    assert empty_micro.json("pool", "web") == empty_micro.status()["standby"]
    assert "changes nothing" in empty_micro.run("pool", "web", "--max-ready", "1", "--json", expect=2)
    assert empty_micro.json("pool", "web")["max_ready"] == 0
    assert [one["ref"] for one in empty_micro.json("image", "list")] == ["micro:1"]
    assert empty_micro.json("image", "show", "micro")["used_by"] == ["web"]
    assert empty_micro.json("cost", "web")["standby"]["machines"] == 0
    assert {one["kind"] for one in empty_micro.json_lines("events", "web")} >= {"set_declared", "settings_changed"}


def test_a_newer_version_of_the_image_is_told_until_it_is_applied(empty_micro: Installation) -> None:
    file = empty_micro.write("web.yaml", web_set(empty_micro, instances=0))
    empty_micro.run("apply", str(file))
    assert empty_micro.status()["newer_image"] is None
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(empty_micro.root / "two"), "80M"], check=True)
    empty_micro.run("image", "add", "micro", str(empty_micro.root / "two"))
    status = empty_micro.status()
    assert (status["image"], status["newer_image"]) == ("micro:1", "micro:2")
    assert "image micro:2 is newer: applying the file again rolls it out" in empty_micro.run("status", "web")
    assert "nothing to remove" in empty_micro.run("image", "prune")
    empty_micro.run("apply", str(file))
    status = empty_micro.status()
    assert (status["image"], status["newer_image"]) == ("micro:2", None)
    assert "micro:1 is removed" in empty_micro.run("image", "prune")
