"""A store that is lost, or of yesterday, on real guests: nothing is removed, everything is found again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation
from tests.support.specs import web_set

pytestmark = pytest.mark.guest

DRIVES = "drives: [{name: data, size: 16MiB, mount: /mnt/data}]\n"
STANDBY = "{max_ready: 3, state: {running: 50%, stopped: 50%}}"


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """An instance with a drive, a pool of a running and a stopped member; changed by the tests in their order."""
    with installation() as made:
        made.run("image", "add", "micro", str(micro_image))
        made.write("web.yaml", web_set(made, instances=1, standby=STANDBY, more=DRIVES))
        made.run("apply", str(made.root / "web.yaml"))
        yield made


def machines(web: Installation) -> dict[str, tuple[str, str]]:
    """Domain -> (UUID, id of the running process or '-')."""
    found = {}
    for name in web.domains():
        uuid = virsh("domuuid", name)
        found[name] = (uuid, virsh("domid", name))
    return found


def virsh(*arguments: str) -> str:
    done = subprocess.run(
        ["virsh", "-q", "-c", "qemu:///system", *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def essence(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Members without what only says when and why."""
    return [
        {key: value for key, value in row.items() if key not in ("reason", "since")} for row in status["members"]
    ]


def lose_the_store(web: Installation) -> None:
    for file in (web.root / "private").glob("store.sqlite*"):
        file.unlink()


def test_with_a_lost_store_nothing_is_done(web: Installation) -> None:
    one = web.members("instance")[0]["name"]
    web.run("ssh", f"web/{one}", "--", "echo precious > /mnt/data/kept; sync")
    web.run("backup", str(web.root / "yesterday.tar"))
    (web.root / "status.json").write_text(json.dumps(web.status()), encoding="utf-8")
    before = machines(web)
    lose_the_store(web)
    for command in (["apply", str(web.root / "web.yaml")], ["scale", "web", "2"], ["delete", "web"]):
        said = web.run(*command, expect=2)
        assert "its store was lost" in said
        assert "understudy adopt" in said
    assert machines(web) == before
    assert web.fetch() == one


def test_a_controller_with_a_lost_store_removes_nothing(web: Installation) -> None:
    before = machines(web)
    with web.serving():
        assert "its store was lost" in web.run("apply", str(web.root / "web.yaml"), expect=2)
        assert web.fetch() != ""
    assert machines(web) == before


def test_a_dry_run_shows_what_would_be_adopted_and_writes_nothing(web: Installation) -> None:
    shown = web.json("adopt", "--dry-run")
    assert (shown["needed"], shown["dry_run"]) == (True, True)
    assert {row["name"] for row in shown["members"]} == {name[len(web.prefix) + 1 :] for name in web.domains()}
    assert [(row["name"], row["member"] is not None) for row in shown["drives"]] == [("data", True)]
    assert "its store was lost" in web.run("scale", "web", "2", expect=2)


def test_adopt_gives_back_what_was_there_and_starts_nothing(web: Installation) -> None:
    before, status = machines(web), json.loads((web.root / "status.json").read_text(encoding="utf-8"))
    stranger = f"{web.prefix}-web-f0r31"
    rest = "<memory unit='MiB'>32</memory><os><type>hvm</type></os>"
    xml = f"<domain type='qemu'><name>{stranger}</name>{rest}</domain>"
    subprocess.run(
        ["virsh", "-q", "-c", "qemu:///system", "define", "/dev/stdin"], input=xml, text=True, check=True
    )
    said = web.run("adopt")
    assert f"left alone: domain {stranger}" in said
    virsh("undefine", stranger)  # still there, or this fails
    assert machines(web) == before
    after = web.status()
    assert after["converged"] is True
    assert essence(after) == essence(status)
    assert after["drives"] == status["drives"]
    one = after["members"][0]["name"]
    assert web.fetch() in {row["name"] for row in web.members("instance")}, one
    assert "nothing to adopt" in web.run("adopt")


def test_after_it_a_claim_takes_a_machine_of_the_pool(web: Installation) -> None:
    pool, before = {row["name"] for row in web.members("standby")}, machines(web)
    said = web.run("scale", "web", "2")
    assert "claimed" in said
    assert machines(web).items() >= {name: made for name, made in before.items() if made[1] != "-"}.items(), (
        "what ran goes on running"
    )
    assert {row["name"] for row in web.members("instance")} & pool
    first = next(row for row in web.members("instance") if row["name"] not in pool)
    assert web.run("ssh", f"web/{first['name']}", "--", "cat /mnt/data/kept").strip() == "precious"


def test_a_copy_of_yesterday_put_in_by_hand_is_found_out(web: Installation) -> None:
    before = machines(web)
    lose_the_store(web)
    subprocess.run(
        ["tar", "-xf", str(web.root / "yesterday.tar"), "-C", str(web.root / "private"), "store.sqlite"],
        check=True,
    )
    said = web.run("scale", "web", "1", expect=2)
    assert "older than its copy" in said
    assert machines(web) == before


def test_yesterdays_backup_after_a_scale_out_loses_nobody(web: Installation) -> None:
    before = {name: made for name, made in machines(web).items() if made[1] != "-"}
    instances = {row["name"] for row in web.members("instance")} | {web.fetch()}
    assert "there is a store already" in web.run("restore", str(web.root / "yesterday.tar"), expect=2)
    web.run("restore", str(web.root / "yesterday.tar"), "--force")
    after = web.status()
    assert after["converged"] is True
    assert after["instances"] == {"desired": 2, "in_service": 2}
    assert machines(web).items() >= before.items()
    assert instances <= {row["name"] for row in after["members"]}
    assert {web.fetch() for _ in range(8)} == {row["name"] for row in web.members("instance")}


def test_a_backup_comes_back_into_an_empty_state_directory(web: Installation) -> None:
    """The disk with the state directory is lost; of images and volumes only what libvirt holds is left."""
    web.run("backup", str(web.root / "today.tar"))
    before = machines(web)
    (web.root / "private").rename(web.root / "lost")
    (web.root / "config.toml").unlink()
    web.run("restore", str(web.root / "today.tar"))
    assert machines(web) == before
    assert web.status()["converged"] is True
    assert (web.root / "private" / "keys" / "identity.secret").read_bytes() == (
        web.root / "lost" / "keys" / "identity.secret"
    ).read_bytes()
    name = web.members("instance")[0]["name"]
    assert web.run("ssh", f"web/{name}", "--", "hostname").strip() == name
