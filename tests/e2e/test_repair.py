"""Repair on real guests: machines that die, services that stop, guests that hang, setups that fail (A7, A10, D4),
and setups that restart (A5, A6). Faults come to many instances at once: most of the time goes into boots."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation, wait_until
from tests.support.specs import WEB, web_set

pytestmark = pytest.mark.guest

# Long enough for a guest that serves to answer once while others boot beside it.
LIMITS = 'retry_pause = "200ms"\nrepair_patience = "3s"\nshutdown_timeout = "3s"\n'
REPAIR = "repair: {{action: {action}, grace: 1s, max_unhealthy: 100%}}\n"
BACK = 240  # seconds for guests to be back in service

Row = dict[str, Any]
Fault = Callable[[Installation, str, Row], None]


def web_of(made: Installation, action: str = "restart", **fields: Any) -> str:
    text = web_set(made, more=REPAIR.format(action=action), **fields)
    return text.replace("interval: 1s, failures: 3", "interval: 500ms, failures: 3")


# ---- faults --------------------------------------------------------------------------------------------------


def in_guest(on: Installation, name: str, row: Row, command: str) -> None:
    """The guest may go down under it: how the command ends does not matter."""
    target = f"{name}/{row['name']}"
    subprocess.run(on.command("ssh", target, "--", command), capture_output=True, timeout=60, check=False)


def signal_qemu(row: Row, signal: str) -> None:
    (pid,) = subprocess.run(
        ["pgrep", "-f", f"guest={row['domain']},"], capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["kill", signal, pid], check=True)


def virsh(on: Installation, *arguments: str) -> None:
    subprocess.run(["virsh", "-q", "-c", on.uri, *arguments], check=True, capture_output=True)


def kill_qemu(_on: Installation, _name: str, row: Row) -> None:
    signal_qemu(row, "-9")


def destroy_domain(on: Installation, _name: str, row: Row) -> None:
    virsh(on, "destroy", row["domain"])


def vanish(on: Installation, _name: str, row: Row) -> None:
    """Undefined first, so that it is gone with its end and nobody starts it in between."""
    virsh(on, "undefine", row["domain"])
    virsh(on, "destroy", row["domain"])


def panic(on: Installation, name: str, row: Row) -> None:
    in_guest(on, name, row, "(sleep 0.2; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &")


def hang(on: Installation, name: str, row: Row) -> None:
    """The kernel stops without a word to the hypervisor: its panic driver is gone before."""
    stop = "rmmod pvpanic_mmio pvpanic; (sleep 0.2; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &"
    in_guest(on, name, row, stop)


def stop_service(on: Installation, name: str, row: Row) -> None:
    in_guest(on, name, row, "killall httpd")


def fail_command(on: Installation, name: str, row: Row) -> None:
    """Of a probe that the balancer does not ask."""
    in_guest(on, name, row, "touch /run/ill")


def break_at_once(on: Installation, faults: list[tuple[Fault, str, Row]]) -> None:
    with ThreadPoolExecutor(len(faults)) as pool:
        for done in [pool.submit(fault, on, name, row) for fault, name, row in faults]:
            done.result()


def boots(row: Row) -> list[str]:
    """What is written on its disk, asked of the instance itself: a word for each boot, and the marks of tests."""
    url = f"http://{row['address']}:20080/boots"
    done = subprocess.run(["curl", "-sf", "-m", "5", url], capture_output=True, text=True, check=False)
    return done.stdout.split()


def mark_all(on: Installation, rows: dict[str, list[Row]], command: str = "") -> None:
    """A word on each disk that only a new body is without."""

    def mark(_on: Installation, name: str, row: Row) -> None:
        on.run("ssh", f"{name}/{row['name']}", "--", f"echo mark >> /srv/www/boots; {command or 'true'}; sync")

    break_at_once(on, [(mark, name, row) for name, some in rows.items() for row in some])


KEPT, ANEW = ["boot", "mark", "boot"], ["boot"]


def wait_for_disk(row: Row, expected: list[str], what: str) -> None:
    """A repair that was needed once more is no fault of this kind; another disk is."""

    def is_there() -> bool:
        words = boots(row)
        return words[: len(expected)] == expected and ("mark" in words) == ("mark" in expected)

    wait_until(is_there, BACK, f"{row['name']} is back after {what}: {' '.join(expected)}")


def by_name(on: Installation, name: str) -> dict[str, Row]:
    return {row["name"]: row for row in on.members("instance", name)}


# ---- what was in service -------------------------------------------------------------------------------------

FAULTS: tuple[tuple[Fault, list[str]], ...] = (
    (kill_qemu, KEPT),
    (destroy_domain, KEPT),
    (panic, KEPT),
    (stop_service, KEPT),
    (hang, KEPT),
    (vanish, ANEW),
)


@pytest.fixture(scope="module")
def web(micro_image: Path) -> Iterator[Installation]:
    """An instance for each fault, repaired by a restart, under a running controller."""
    with installation() as made:
        made.configure(limits=LIMITS)
        made.run("image", "add", "micro", str(micro_image))
        made.write("web.yaml", web_of(made, instances=len(FAULTS)))
        made.run("apply", str(made.root / "web.yaml"))
        with made.serving():
            yield made


def test_instances_that_stop_serving_are_restarted_with_their_disks(web: Installation) -> None:
    probe = "  - {command: test ! -e /run/ill, failures: 1}\n"
    text = web_of(web, instances=1, name="asked", port=8081).replace("readiness:\n", f"readiness:\n{probe}")
    web.write("asked.yaml", text)
    web.run("apply", str(web.root / "asked.yaml"))
    rows, (asked,) = web.members("instance"), web.members("instance", "asked")
    mark_all(web, {"web": rows, "asked": [asked]})
    cases = [(fault, "web", row, disk) for (fault, disk), row in zip(FAULTS, rows, strict=True)]
    cases.append((fail_command, "asked", asked, KEPT))
    break_at_once(web, [(fault, name, row) for fault, name, row, _ in cases])
    for fault, _, row, disk in cases:
        wait_for_disk(row, disk, getattr(fault, "__name__", ""))
    for name in ("web", "asked"):
        wait_until(lambda: web.status(name)["converged"], BACK, f"{name} is as declared")  # noqa: B023
    after = {**by_name(web, "web"), **by_name(web, "asked")}
    for _, _, row, disk in cases:
        body = row["incarnation"] + (disk == ANEW)
        assert (after[row["name"]]["incarnation"], after[row["name"]]["address"]) == (body, row["address"])
    # What is well for a while is well.
    wait_until(lambda: all(row["failures"] == 0 for row in web.members("instance")), 20, "the tries are forgotten")
    web.run("delete", "asked")
    web.run("scale", "web", "1")


def test_an_instance_whose_qemu_hangs_is_restarted_with_its_disk(web: Installation) -> None:
    """It neither serves nor answers its monitor, and SIGTERM does not end it."""
    row = web.members("instance")[0]
    before = boots(row)
    signal_qemu(row, "-STOP")
    wait_for_disk(row, [*before, "boot"], "its QEMU hung")
    wait_until(lambda: web.status()["converged"], BACK, "the set is as declared")
    assert by_name(web, "web")[row["name"]]["incarnation"] == row["incarnation"]


# (set, repair.action, what becomes of its first instance and of its second)
DECLARED: tuple[tuple[str, str, Fault, Fault], ...] = (
    ("anew", "reimage", kill_qemu, stop_service),
    ("swap", "replace", vanish, stop_service),
    ("left", "none", kill_qemu, stop_service),
)


@pytest.fixture
def declared(web: Installation) -> Iterator[dict[str, list[Row]]]:
    """The instances of three sets of two; `swap` has a pool of two. Each has a mark on its disk."""
    texts = [
        web_of(
            web,
            action,
            instances=2,
            name=name,
            port=8081 + number,
            standby="{state: stopped, max_ready: 4}" if action == "replace" else "",
        )
        for number, (name, action, _, _) in enumerate(DECLARED)
    ]
    web.write("declared.yaml", "---\n".join(texts))
    web.run("apply", str(web.root / "declared.yaml"))
    rows = {name: web.members("instance", name) for name, _, _, _ in DECLARED}
    mark_all(web, rows)
    yield rows
    for name in rows:
        web.run("delete", name)


def test_what_is_done_about_a_fault_is_what_is_declared(web: Installation, declared: dict[str, list[Row]]) -> None:
    spares = {row["name"] for row in web.members("standby", "swap")}
    assert len(spares) == 2
    for name, rows in declared.items():  # each has been well for its grace
        wait_until(lambda: web.status(name)["converged"], BACK, f"{name} is as declared")  # noqa: B023
        assert [row["failures"] for row in rows] == [0, 0]
    faults = [
        (fault, name, row) for name, _, *both in DECLARED for fault, row in zip(both, declared[name], strict=True)
    ]
    break_at_once(web, faults)

    for row in declared["anew"]:
        wait_for_disk(row, ANEW, "a fault that costs the body")
    wait_until(lambda: web.status("anew")["converged"], BACK, "anew is as declared")
    assert {name: row["incarnation"] for name, row in by_name(web, "anew").items()} == {
        row["name"]: 2 for row in declared["anew"]
    }

    wait_until(lambda: set(by_name(web, "swap")) == spares, BACK, "the members of the pool are claimed")
    wait_until(lambda: web.status("swap")["standby"]["ready"] == 2, BACK, "the pool is filled again")
    wait_until(lambda: web.status("swap")["converged"], BACK, "swap is as declared")
    assert set(by_name(web, "swap")) == spares
    said = web.run("events", "swap")
    assert all(f" in place of {row['name']}: " in said for row in declared["swap"])

    assert_left_until_asked(web, declared["left"])


def assert_left_until_asked(on: Installation, rows: list[Row]) -> None:
    killed, silent = rows
    words = f"machine of {killed['name']} is crashed; repair is off"
    wait_until(lambda: words in on.status("left")["reason"], BACK, "left says that one is off")
    words = f"{silent['name']} does not pass its readiness checks; repair is off"
    wait_until(lambda: words in on.status("left")["reason"], BACK, "left says that one does not answer")
    status = on.status("left")
    assert (status["converged"], status["health"]) == (False, "degraded")
    now = by_name(on, "left")
    assert {name: row["incarnation"] for name, row in now.items()} == {row["name"]: 1 for row in rows}
    assert (now[killed["name"]]["power"], boots(silent)) == ("stopped", [])
    # Each command says what the other instance still waits for: only both together mend the set.
    for process in [on.start("restart", f"left/{row['name']}") for row in rows]:
        process.communicate(timeout=240)
    for row in rows:
        wait_for_disk(row, KEPT, "the operator restarted it")
    wait_until(lambda: on.status("left")["converged"], BACK, "left is as declared")


# With a mark on its disk, the next boot stops in its middle, without a word to the hypervisor, or takes too long.
HANGING = """\
cat > /etc/boot.d/10-hang <<'END'
#!/bin/sh
[ ! -e /root/hang ] || { rm /root/hang; sync; rmmod pvpanic_mmio pvpanic; echo c > /proc/sysrq-trigger; }
[ ! -e /root/late ] || { rm /root/late; sync; sleep 45; }
END
chmod +x /etc/boot.d/10-hang
"""
# (set, repair.action, how its next boot goes)
RESTARTED = (("kept", "restart", "hang"), ("left", "none", "late"), ("anew", "reimage", "hang"))


def test_an_instance_in_service_that_does_not_come_up_loses_its_disk_only_where_that_is_declared(
    web: Installation,
) -> None:
    """Three sets at once. Their time runs out before a boot that takes too long is done."""
    texts = [
        web_of(web, action, instances=1, name=name, port=8081 + number, user_data=WEB + HANGING)
        for number, (name, action, _) in enumerate(RESTARTED)
    ]
    for timeout in ("2min", "30s"):  # which is no change of the model
        web.write("restarted.yaml", "---\n".join(texts).replace("timeout: 2min", f"timeout: {timeout}"))
        web.run("apply", str(web.root / "restarted.yaml"))
    before = {name: web.members("instance", name)[0] for name, _, _ in RESTARTED}
    for name, _, boot in RESTARTED:
        mark_all(web, {name: [before[name]]}, f"touch /root/{boot}")
    restarting = [web.start("restart", f"{name}/{row['name']}") for name, row in before.items()]
    for process in restarting:  # whether they end well depends on when they look
        process.communicate(timeout=240)
    for name, disk in (("kept", KEPT), ("left", KEPT), ("anew", ANEW)):
        wait_for_disk(before[name], disk, "a boot that did not come to its services in time")
        wait_until(lambda: web.members("instance", name)[0]["in_rotation"], BACK, f"{name} serves")  # noqa: B023
    for name, row in before.items():
        after = by_name(web, name)[row["name"]]
        # A new body that a busy machine does not boot in time is made once more.
        assert after["incarnation"] > 1 if name == "anew" else after["incarnation"] == 1
        kinds = [event["kind"] for event in web.json_lines("events", name)]
        assert "gave_up" not in kinds
        assert ("failed" if name == "anew" else "unhealthy") in kinds
        assert name == "anew" or "failed" not in kinds
        web.run("delete", name)


# ---- what never comes to serve, or not for long --------------------------------------------------------------

# With the mark on its disk, each boot comes to its services, and ends a moment later.
LOOPING = """\
cat > /etc/boot.d/60-loop <<'END'
#!/bin/sh
[ ! -e /root/loop ] || (sleep 3; sync; reboot -f) >/dev/null 2>&1 &
END
chmod +x /etc/boot.d/60-loop
"""


def test_a_setup_that_always_fails_and_a_guest_that_restarts_over_and_over_are_given_up(web: Installation) -> None:
    good = web_of(web, instances=1, name="api", port=8081)
    bad = good.replace("    #!/bin/sh\n", "    #!/bin/sh\n    exit 7\n", 1)
    assert bad != good
    web.write("api.yaml", bad)
    web.run("apply", str(web.root / "api.yaml"), expect=1)
    text = web_of(web, instances=1, name="loop", port=8082, user_data=WEB + LOOPING)
    web.write("loop.yaml", text.replace("grace: 1s", "grace: 5min"))
    web.run("apply", str(web.root / "loop.yaml"))
    (row,) = web.members("instance", "loop")
    mark_all(web, {"loop": [row]}, "touch /root/loop")
    in_guest(web, "loop", row, "(sleep 0.2; reboot -f) >/dev/null 2>&1 &")

    wait_until(lambda: f"gave up on {row['name']} " in web.run("events", "loop"), BACK, "the guest is given up")
    assert_held(web, row)
    # Of the instance, and then of what the set waits for.
    wait_until(lambda: web.run("events", "api").count("gave up on") >= 2, 240, "the setup is given up")
    assert_given_up(web)
    web.write("api.yaml", good)
    web.run("apply", str(web.root / "api.yaml"))
    assert web.fetch(port=8081).startswith("api-")
    web.run("delete", "api")
    web.run("delete", "loop")


def assert_held(on: Installation, row: Row) -> None:
    status = on.status("loop")
    assert (status["health"], status["converged"]) == ("degraded", False)
    (after,) = status["members"]
    assert (after["name"], after["incarnation"], after["in_rotation"]) == (row["name"], 1, False)
    assert "restarts over and over" in after["reason"]
    assert on.fetch(port=8082) == ""


def assert_given_up(on: Installation) -> None:
    status = on.status("api")
    (failed,) = status["members"]
    assert (status["health"], failed["health"], failed["failures"]) == ("degraded", "failed", 5)
    assert "gave up on api-" in status["reason"]
    assert failed["last_failure"].partition("\n")[0] in status["health_reason"]
    assert on.run("events", "api").count("gave up on") == 2


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
