"""Repair on real guests: machines that die, services that stop, guests that hang, setups that fail (A10, D4), and
setups that restart (A5, A6)."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation, wait_until
from tests.support.specs import WEB, web_set

pytestmark = pytest.mark.guest

LIMITS = 'retry_pause = "200ms"\nrepair_patience = "1s"\nshutdown_timeout = "3s"\n'
REPAIR = "repair: {{action: {action}, grace: 1s}}\n"
BACK = 90  # seconds for a guest to be back in service


def web_of(made: Installation, action: str = "restart", **fields: Any) -> str:
    text = web_set(made, more=REPAIR.format(action=action), **fields)
    return text.replace("interval: 1s, failures: 3", "interval: 200ms, failures: 3")


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """One instance that is repaired by a restart, under a running controller."""
    with installation() as made:
        made.configure(limits=LIMITS)
        made.run("image", "add", "micro", str(micro_image))
        probe = "  - {command: test ! -e /run/ill, failures: 1}\n"
        made.write("web.yaml", web_of(made, instances=1).replace("readiness:\n", f"readiness:\n{probe}"))
        made.run("apply", str(made.root / "web.yaml"))
        with made.serving():
            yield made


def in_guest(on: Installation, command: str) -> None:
    in_guest_of(on, f"web/{on.members('instance')[0]['name']}", command)


def in_guest_of(on: Installation, target: str, command: str) -> None:
    """The guest may go down under it: how the command ends does not matter."""
    subprocess.run(on.command("ssh", target, "--", command), capture_output=True, timeout=60, check=False)


def kill_qemu(on: Installation, row: dict[str, Any]) -> None:
    (pid,) = subprocess.run(
        ["pgrep", "-f", f"guest={row['domain']},"], capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["kill", "-9", pid], check=True)


def stop_qemu(on: Installation, row: dict[str, Any]) -> None:
    """A QEMU that hangs: it neither serves nor answers its monitor, and SIGTERM does not end it."""
    (pid,) = subprocess.run(
        ["pgrep", "-f", f"guest={row['domain']},"], capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["kill", "-STOP", pid], check=True)


def destroy_domain(on: Installation, row: dict[str, Any]) -> None:
    subprocess.run(["virsh", "-q", "-c", on.uri, "destroy", row["domain"]], check=True, capture_output=True)


def panic(on: Installation, row: dict[str, Any]) -> None:
    in_guest(on, "(sleep 0.2; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &")


def hang(on: Installation, row: dict[str, Any]) -> None:
    """The kernel stops without a word to the hypervisor: its panic driver is gone before."""
    in_guest(on, "rmmod pvpanic_mmio pvpanic; (sleep 0.2; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &")


def stop_service(on: Installation, row: dict[str, Any]) -> None:
    in_guest(on, "killall httpd")


def fail_command(on: Installation, row: dict[str, Any]) -> None:
    """Of a probe that the balancer does not ask."""
    in_guest(on, "touch /run/ill")


@pytest.mark.parametrize("fault", [kill_qemu, stop_qemu, destroy_domain, panic, stop_service, hang, fail_command])
def test_an_instance_that_stops_serving_is_restarted_with_its_disk(web: Installation, fault: Any) -> None:
    (row,) = web.members("instance")
    boots = len(web.fetch("/boots").split())
    fault(web, row)
    wait_until(lambda: web.fetch() == "", 30, f"{fault.__name__} is felt")
    wait_until(lambda: len(web.fetch("/boots").split()) == boots + 1, BACK, f"it is back after {fault.__name__}")
    wait_until(lambda: web.status()["converged"], 20, "the set is as declared")
    (after,) = web.members("instance")
    assert (after["name"], after["incarnation"], after["address"]) == (row["name"], 1, row["address"])
    wait_until(lambda: web.members("instance")[0]["failures"] == 0, 10, "what is well for a while is well")


def test_a_machine_that_vanished_is_made_anew(web: Installation) -> None:
    (row,) = web.members("instance")
    destroy_domain(web, row)
    subprocess.run(["virsh", "-q", "-c", web.uri, "undefine", row["domain"]], check=False, capture_output=True)
    wait_until(lambda: web.members("instance")[0]["incarnation"] == 2, 20, "a new machine is begun")
    wait_until(lambda: web.fetch("/boots") == "boot", BACK, "it serves, with a new disk")


def test_an_instance_that_does_not_answer_is_replaced_from_the_pool_where_that_is_declared(
    web: Installation,
) -> None:
    web.write("replace.yaml", web_of(web, action="replace", instances=1, standby="{state: stopped, max_ready: 2}"))
    web.run("apply", str(web.root / "replace.yaml"))
    (broken,), (spare,) = web.members("instance"), web.members("standby")
    wait_until(lambda: web.members("instance")[0]["failures"] == 0, 10, "it is well")
    stop_service(web, broken)
    wait_until(lambda: [row["name"] for row in web.members("instance")] == [spare["name"]], 30, "it is claimed")
    wait_until(lambda: web.fetch() == spare["name"], BACK, "it serves")
    wait_until(lambda: web.status()["standby"]["ready"] == 1, BACK, "the pool is filled again")
    assert f"claimed {spare['name']} in place of {broken['name']}" in web.run("events", "web")


def test_a_setup_that_always_fails_is_given_up_and_a_change_begins_anew(web: Installation) -> None:
    good = web_of(web, instances=1, name="api", port=8081)
    bad = good.replace("    #!/bin/sh\n", "    #!/bin/sh\n    exit 7\n", 1)
    assert bad != good
    web.write("api.yaml", bad)
    web.run("apply", str(web.root / "api.yaml"), expect=1)
    # Of the instance, and then of what the set waits for.
    wait_until(lambda: web.run("events", "api").count("gave up on") >= 2, 240, "it is given up")
    status = web.status("api")
    assert (status["health"], status["members"][0]["failures"]) == ("degraded", 5)
    assert "gave up on api-" in status["reason"]
    assert web.run("events", "api").count("gave up on") == 2
    web.write("api.yaml", good)
    web.run("apply", str(web.root / "api.yaml"))
    assert web.fetch(port=8081).startswith("api-")
    web.run("delete", "api")


# With a mark on its disk, the next boot stops in its middle, without a word to the hypervisor, or takes too long.
HANGING = """\
cat > /etc/boot.d/10-hang <<'END'
#!/bin/sh
[ ! -e /root/hang ] || { rm /root/hang; sync; rmmod pvpanic_mmio pvpanic; echo c > /proc/sysrq-trigger; }
[ ! -e /root/late ] || { rm /root/late; sync; sleep 40; }
END
chmod +x /etc/boot.d/10-hang
"""
# (set, repair.action, how its next boot goes)
RESTARTED = (("kept", "restart", "hang"), ("left", "none", "late"), ("anew", "reimage", "hang"))


def test_an_instance_in_service_that_does_not_come_up_loses_its_disk_only_where_that_is_declared(
    web: Installation,
) -> None:
    """Three sets at once. Their time runs out before a boot that takes too long is done."""
    ports = {name: 8081 + number for number, (name, _, _) in enumerate(RESTARTED)}
    texts = [
        web_of(web, action, instances=1, name=name, port=ports[name], user_data=WEB + HANGING)
        for name, action, _ in RESTARTED
    ]
    for timeout in ("2min", "20s"):  # which is no change of the model
        text = "---\n".join(texts).replace("timeout: 2min", f"timeout: {timeout}")
        web.write("restarted.yaml", text)
        web.run("apply", str(web.root / "restarted.yaml"))
    before = {name: web.members("instance", name)[0] for name, _, _ in RESTARTED}
    for name, _, boot in RESTARTED:
        target = f"{name}/{before[name]['name']}"
        web.run("ssh", target, "--", f"echo mark >> /srv/www/boots; touch /root/{boot}; sync")
    restarting = [web.start("restart", f"{name}/{row['name']}") for name, row in before.items()]
    for process in restarting:  # whether they end well depends on when they look
        process.communicate(timeout=240)
    boots = {"kept": "boot mark boot", "left": "boot mark boot", "anew": "boot"}
    for name, expected in boots.items():
        wait_until(
            lambda: web.fetch("/boots", port=ports[name]).split() == expected.split(),  # noqa: B023
            BACK,
            f"{name} serves with its disk, or with a new one",
        )
    after = {name: web.members("instance", name)[0] for name, _, _ in RESTARTED}
    assert {name: row["name"] for name, row in after.items()} == {n: row["name"] for n, row in before.items()}
    assert {name: row["incarnation"] for name, row in after.items()} == {"kept": 1, "left": 1, "anew": 2}
    for name, _, _ in RESTARTED:
        kinds = [event["kind"] for event in web.json_lines("events", name)]
        assert "gave_up" not in kinds
        assert ("unhealthy" in kinds, "failed" in kinds) == (name != "anew", name == "anew")
        web.run("delete", name)


# With the mark on its disk, each boot comes to its services, and ends a moment later.
LOOPING = """\
cat > /etc/boot.d/60-loop <<'END'
#!/bin/sh
[ ! -e /root/loop ] || (sleep 3; sync; reboot -f) >/dev/null 2>&1 &
END
chmod +x /etc/boot.d/60-loop
"""


def test_a_guest_that_restarts_over_and_over_is_held_back_and_given_up(web: Installation) -> None:
    text = web_of(web, instances=1, name="api", port=8081, user_data=WEB + LOOPING)
    web.write("api.yaml", text.replace("grace: 1s", "grace: 5min"))
    web.run("apply", str(web.root / "api.yaml"))
    (row,) = web.members("instance", "api")
    web.run("ssh", f"api/{row['name']}", "--", "touch /root/loop; sync")
    in_guest_of(web, f"api/{row['name']}", "(sleep 0.2; reboot -f) >/dev/null 2>&1 &")
    wait_until(lambda: f"gave up on {row['name']} " in web.run("events", "api"), 120, "it is given up")
    status = web.status("api")
    assert (status["health"], status["converged"]) == ("degraded", False)
    (after,) = status["members"]
    assert (after["name"], after["incarnation"], after["in_rotation"]) == (row["name"], 1, False)
    assert "restarts over and over" in after["reason"]
    assert web.fetch(port=8081) == ""
    web.run("delete", "api")


RESTARTING = """\
#!/bin/sh
mkdir -p /srv/www /etc/boot.d
cat > /etc/boot.d/50-web <<'END'
#!/bin/sh
echo boot >> /srv/www/boots
cp /srv/www/boots /srv/www/index.html
httpd -p 80 -h /srv/www
[ "$(grep -c boot /srv/www/boots)" -gt 1 ] || (sleep 2; sync; reboot) >/dev/null 2>&1 &
END
chmod +x /etc/boot.d/50-web
"""


def test_an_instance_whose_setup_restarts_gets_no_request_before_its_second_boot(web: Installation) -> None:
    text = web_of(web, instances=1, name="api", port=8081, user_data=RESTARTING)
    web.write("api.yaml", text.replace("setup:\n", "setup:\n  restarts: 1\n"))
    answers: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.1):
            answer = web.fetch(port=8081, seconds=2)
            if answer:
                answers.append(answer)

    client = threading.Thread(target=ask)
    client.start()
    try:
        web.run("apply", str(web.root / "api.yaml"))
        wait_until(lambda: len(answers) >= 3, 10, "it answers")
    finally:
        done.set()
        client.join()
    assert set(answers) == {"boot\nboot"}
    assert "restart 1 of 1 of the setup" in web.run("events", "api")
    assert requests_to(web, "api.http") == len(answers)
    web.run("delete", "api")


def requests_to(on: Installation, backend: str) -> int:
    """Requests that HAProxy counted for the servers of a backend."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(on.root / "haproxy" / "stats.sock"))
        connection.sendall(b"show stat json\n")
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    total = 0
    for entry in json.loads(said):
        values = {field["field"]["name"]: field["value"]["value"] for field in entry}
        if values["pxname"] == backend and values["svname"] not in ("FRONTEND", "BACKEND"):
            total += int(values["stot"])
    return total


def test_an_instance_that_does_not_answer_is_made_anew_where_that_is_declared(web: Installation) -> None:
    web.write("api.yaml", web_of(web, action="reimage", instances=1, name="api", port=8081))
    web.run("apply", str(web.root / "api.yaml"))
    (row,) = web.members("instance", "api")
    wait_until(lambda: web.fetch("/boots", port=8081) == "boot", 10, "it serves")
    web.run("ssh", f"api/{row['name']}", "--", "echo mark >> /srv/www/boots; killall httpd")
    wait_until(lambda: web.members("instance", "api")[0]["incarnation"] == 2, 30, "a new machine is begun")
    wait_until(lambda: web.fetch("/boots", port=8081) == "boot", BACK, "it serves, with a new disk")
    assert web.members("instance", "api")[0]["name"] == row["name"]
    web.run("delete", "api")
