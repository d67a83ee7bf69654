"""The load balancer driver on a real HAProxy: loopback addresses only."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import secrets
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config.resources import template
from orchestrator.drivers.haproxy import HaproxyBalancer
from orchestrator.drivers.haproxy.runtime import RuntimeApi
from orchestrator.drivers.haproxy.strays import HaproxyProcesses
from orchestrator.drivers.haproxy.superseded import is_alive
from orchestrator.errors import BalancerError
from orchestrator.models.balancing import BalancerConfig, Frontend, HealthCheck, Server
from orchestrator.models.sightings import Rotation
from tests.support.installation import wait_until


class Backend:
    """A small web server that says its name with `status`; may hold its answers back."""

    def __init__(self, name: str) -> None:
        self.release = threading.Event()
        self.release.set()
        self.entered = threading.Event()
        self.status = 200
        self.asked = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                if self.path == "/slow":
                    outer.entered.set()
                    outer.release.wait(10)
                body = name.encode()
                self.send_response(outer.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def backends() -> Iterator[dict[str, Backend]]:
    made = {name: Backend(name) for name in ("web-1", "web-2")}
    yield made
    for backend in made.values():
        backend.close()


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[HaproxyBalancer]:
    made = HaproxyBalancer(tmp_path, template("haproxy.cfg.j2"))
    yield made
    made.converge(BalancerConfig())
    assert not made.observe().running


@pytest.fixture
def front(backends: dict[str, Backend]) -> Frontend:
    address = f"127.{secrets.randbelow(90) + 10}.{secrets.randbelow(250)}.1"
    servers = tuple(
        Server(name, "127.0.0.1", backend.port, Rotation.READY) for name, backend in sorted(backends.items())
    )
    return Frontend("web.http", "http", address, 18080, HealthCheck("/", 200, 0.2, 2), servers)


def get(front: Frontend, path: str = "/") -> str:
    with urllib.request.urlopen(f"http://{front.address}:{front.listen}{path}", timeout=5) as answer:
        return str(answer.read().decode())


class SlowRequest:
    """A request that a server holds back until it is finished."""

    def __init__(self, front: Frontend, backends: dict[str, Backend]) -> None:
        self._front = front
        self._backends = backends
        self._answer: str | OSError | http.client.HTTPException = ""
        self._client = threading.Thread(target=self._ask)
        for backend in backends.values():
            backend.release.clear()
        self._client.start()

    def _ask(self) -> None:
        try:
            self._answer = get(self._front, "/slow")
        except (OSError, http.client.HTTPException) as error:
            self._answer = error

    def finish(self) -> str | OSError | http.client.HTTPException:
        """The answer, or what became of the connection."""
        for backend in self._backends.values():
            backend.release.set()
        self._client.join(10)
        assert not self._client.is_alive()
        return self._answer


@contextlib.contextmanager
def under_way(front: Frontend, backends: dict[str, Backend]) -> Iterator[SlowRequest]:
    """One request is at a server."""
    request = SlowRequest(front, backends)
    try:
        wait_until(lambda: any(one.entered.is_set() for one in backends.values()), 5, "a request is under way")
        yield request
    finally:
        request.finish()


def with_state(front: Frontend, name: str, state: Rotation) -> Frontend:
    servers = tuple(replace(one, state=state) if one.member == name else one for one in front.servers)
    return replace(front, servers=servers)


def pid_of(tmp_path: Path) -> str:
    return (tmp_path / "haproxy.pid").read_text()


def test_traffic_reaches_every_server(balancer: HaproxyBalancer, front: Frontend) -> None:
    config = BalancerConfig((front,))
    balancer.converge(config)
    assert balancer.observe().digest == config.digest()
    assert {get(front) for _ in range(6)} == {"web-1", "web-2"}


def test_servers_come_go_and_change_without_a_reload(
    balancer: HaproxyBalancer, front: Frontend, tmp_path: Path
) -> None:
    first = replace(front, servers=front.servers[:1])
    balancer.converge(BalancerConfig((first,)))
    pid = pid_of(tmp_path)
    for wanted, expected in (
        (front, {"web-1", "web-2"}),
        (with_state(front, "web-1", Rotation.DRAIN), {"web-2"}),
        (with_state(front, "web-1", Rotation.MAINT), {"web-2"}),
        (front, {"web-1", "web-2"}),
        (replace(front, servers=front.servers[1:]), {"web-2"}),
    ):
        config = BalancerConfig((wanted,))
        balancer.converge(config)
        assert balancer.observe().digest == config.digest()
        assert {get(front) for _ in range(6)} == expected
    assert pid_of(tmp_path) == pid


@pytest.mark.parametrize("also", ["", "another endpoint"])
def test_a_server_that_is_there_changes_before_any_file_is_written(
    balancer: HaproxyBalancer, front: Frontend, tmp_path: Path, also: str
) -> None:
    """Also where more than servers changes: a client does not wait for that."""
    balancer.converge(BalancerConfig((with_state(front, "web-1", Rotation.MAINT),)))
    pid = pid_of(tmp_path)
    other = replace(front, name="web.more", listen=18081)
    config = BalancerConfig((front, other) if also else (front,))
    in_the_way = tmp_path / "haproxy.cfg.new"
    in_the_way.unlink(missing_ok=True)
    in_the_way.mkdir()
    try:
        with pytest.raises(BalancerError):
            balancer.converge(config)
        assert {get(front) for _ in range(6)} == {"web-1", "web-2"}
        assert balancer.observe().digest == ""  # the file says otherwise: it is not forgotten
    finally:
        in_the_way.rmdir()
    balancer.converge(config)
    assert balancer.observe().digest == config.digest()
    assert (pid_of(tmp_path) == pid) is not bool(also)


def test_a_restart_forgets_no_drain_and_no_maintenance(
    balancer: HaproxyBalancer, front: Frontend, tmp_path: Path
) -> None:
    config = BalancerConfig((with_state(with_state(front, "web-1", Rotation.DRAIN), "web-2", Rotation.MAINT),))
    balancer.converge(config)
    before = {key: seen.state for key, seen in balancer.observe().servers.items()}
    subprocess.run(["kill", "-9", *pid_of(tmp_path).split()], check=True)
    wait_until(lambda: not balancer.observe().running, 5, "it is dead")
    balancer.converge(config)
    assert {key: seen.state for key, seen in balancer.observe().servers.items()} == before
    balancer.converge(BalancerConfig((front,)))
    wait_until(lambda: {get(front) for _ in range(4)} == {"web-1", "web-2"}, 5, "both are back")


def test_a_change_behind_our_back_shows_as_a_difference(balancer: HaproxyBalancer, front: Frontend) -> None:
    config = BalancerConfig((front,))
    balancer.converge(config)
    balancer._runtime.ask("set server web.http/web-1 state maint")
    assert balancer.observe().digest != config.digest()
    balancer.converge(config)
    assert balancer.observe().digest == config.digest()


def test_a_drained_server_finishes_what_it_serves(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend]
) -> None:
    only = replace(front, servers=front.servers[:1])
    balancer.converge(BalancerConfig((only,)))
    with under_way(front, backends) as request:
        balancer.converge(BalancerConfig((with_state(front, "web-1", Rotation.DRAIN),)))
        assert balancer.observe().servers["web.http", "web-1"].sessions == 1
        assert {get(front) for _ in range(4)} == {"web-2"}
        assert request.finish() == "web-1"
    wait_until(lambda: balancer.observe().servers["web.http", "web-1"].sessions == 0, 5, "drained")


def test_a_new_endpoint_is_loaded_without_losing_the_old(
    balancer: HaproxyBalancer, front: Frontend, tmp_path: Path
) -> None:
    balancer.converge(BalancerConfig((front,)))
    failed = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                get(front)
            except (urllib.error.URLError, OSError) as error:
                failed.append(error)

    client = threading.Thread(target=ask)
    client.start()
    second = replace(front, name="web.other", listen=18081)
    balancer.converge(BalancerConfig((front, second)))
    stop.set()
    client.join()
    assert failed == []
    assert get(second) in {"web-1", "web-2"}


def test_a_kept_connection_survives_a_new_process(balancer: HaproxyBalancer, front: Frontend) -> None:
    balancer.converge(BalancerConfig((front,)))
    client = http.client.HTTPConnection(front.address, front.listen, timeout=5)
    client.request("GET", "/")
    assert client.getresponse().read() in (b"web-1", b"web-2")
    balancer.converge(BalancerConfig((front, replace(front, name="web.other", listen=18081))))
    assert client.sock is not None
    client.request("GET", "/")
    answer = client.getresponse()
    assert (answer.read() in (b"web-1", b"web-2"), answer.will_close) == (True, True)
    client.close()


def test_what_a_replaced_process_serves_counts_until_it_is_done(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend], tmp_path: Path
) -> None:
    only = replace(front, servers=front.servers[:1])
    balancer.converge(BalancerConfig((only,)))
    with under_way(front, backends) as request:
        balancer.converge(BalancerConfig((front, replace(front, name="web.other", listen=18081))))
        file = tmp_path / "haproxy.superseded"
        old = file.stat()
        os.utime(file, (old.st_atime, old.st_mtime - 60))  # a minute later nobody can ask it for something new
        seen = balancer.observe().servers
        assert (seen["web.http", "web-1"].sessions, seen["web.http", "web-2"].sessions) == (1, 0)
        assert request.finish() == "web-1"
    wait_until(lambda: balancer.observe().servers["web.http", "web-1"].sessions == 0, 5, "it is served")


def test_just_after_a_replacement_no_server_counts_as_idle(balancer: HaproxyBalancer, front: Frontend) -> None:
    balancer.converge(BalancerConfig((front,)))
    client = http.client.HTTPConnection(front.address, front.listen, timeout=5)
    client.request("GET", "/")
    client.getresponse().read()
    balancer.converge(BalancerConfig((front, replace(front, name="web.other", listen=18081))))
    # Its next request would be answered by the process that was replaced, by any server.
    assert all(one.sessions >= 1 for one in balancer.observe().servers.values())
    client.close()
    wait_until(lambda: all(one.sessions == 0 for one in balancer.observe().servers.values()), 5, "it has ended")


def test_the_end_of_the_last_endpoint_ends_replaced_processes_too(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend], tmp_path: Path
) -> None:
    balancer.converge(BalancerConfig((replace(front, servers=front.servers[:1]),)))
    with under_way(front, backends) as request:
        old = int(pid_of(tmp_path))
        balancer.converge(BalancerConfig((front, replace(front, name="web.other", listen=18081))))
        assert is_alive(old)
        balancer.converge(BalancerConfig())
        assert isinstance(request.finish(), Exception)
    assert not is_alive(old)
    assert not (tmp_path / "haproxy.superseded").exists()


@pytest.mark.parametrize("began_in", [Rotation.READY, Rotation.MAINT])
def test_who_is_down_stays_down_in_a_new_process(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend], began_in: Rotation
) -> None:
    front = replace(
        front, check=HealthCheck("/", 200, 2.0, 1)
    )  # the new process takes a second to its first check
    balancer.converge(BalancerConfig((with_state(front, "web-2", began_in),)))
    balancer.converge(BalancerConfig((front,)))
    backends["web-2"].status = 503
    wait_until(lambda: not balancer.observe().servers["web.http", "web-2"].is_up, 5, "it is seen down")
    balancer.converge(BalancerConfig((front, replace(front, name="web.other", listen=18081))))
    assert not balancer.observe().servers["web.http", "web-2"].is_up
    assert {get(front) for _ in range(6)} == {"web-1"}
    backends["web-2"].status = 200
    wait_until(lambda: "web-2" in {get(front) for _ in range(4)}, 5, "it is up again")


def test_a_server_that_nobody_has_asked_is_taken_out_for_its_first_answer(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend]
) -> None:
    """Its machine was started by somebody else, and may boot still."""
    front = replace(front, check=HealthCheck("/", 200, 2.0, 3))
    balancer.converge(BalancerConfig((with_state(front, "web-2", Rotation.MAINT),)))
    backends["web-2"].status, backends["web-2"].asked = 503, 0
    balancer.converge(BalancerConfig((front,)))
    wait_until(lambda: backends["web-2"].asked >= 2, 10, "its first answer is known, and it is asked again")
    assert not balancer.observe().servers["web.http", "web-2"].is_up


@pytest.mark.parametrize("status", [200, 503])
def test_a_server_that_moves_with_its_check_is_asked_where_it_is_now(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend], status: int
) -> None:
    """A new process takes the port of a server from the states of the old one, if it finds it there."""
    moved_to = backends["web-1"].port
    alone = replace(front, servers=front.servers[1:])
    balancer.converge(BalancerConfig((alone,)))
    backends["web-2"].status = status
    is_up = status == 200
    wait_until(lambda: balancer.observe().servers["web.http", "web-2"].is_up is is_up, 5, "it is judged")
    (server,) = alone.servers
    config = BalancerConfig(
        (replace(alone, check=HealthCheck("/other", 200, 0.2, 2), servers=(replace(server, port=moved_to),)),)
    )
    balancer.converge(config)
    assert balancer.observe().digest == config.digest()
    assert {get(front) for _ in range(4)} == {"web-1"}


def test_a_server_at_another_address_than_the_file_says_is_a_difference(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend]
) -> None:
    config = BalancerConfig((front,))
    balancer.converge(config)
    port = backends["web-2"].port
    balancer._runtime.ask(f"set server web.http/web-1 addr 127.0.0.1 port {port}")
    assert balancer.observe().digest != config.digest()
    balancer.converge(config)
    assert balancer.observe().digest == config.digest()
    assert {get(front) for _ in range(6)} == {"web-1", "web-2"}


def test_a_dead_server_leaves_rotation_by_itself(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend]
) -> None:
    balancer.converge(BalancerConfig((front,)))
    backends["web-1"].close()
    assert {get(front) for _ in range(8)} == {"web-2"}
    wait_until(lambda: not balancer.observe().servers["web.http", "web-1"].is_up, 5, "it is seen down")
    backends["web-1"] = Backend("web-1")


@pytest.mark.parametrize("change", ["new server", "out of maintenance", "new process", "start"])
def test_a_server_is_not_taken_out_for_one_answer_just_after_a_change(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend], change: str
) -> None:
    """A guest that was resumed a moment ago may be late once: `failures` answers count, as later."""
    front = replace(front, check=HealthCheck("/", 200, 2.0, 3))
    before = {
        "new server": (replace(front, servers=front.servers[:1]),),
        "out of maintenance": (with_state(front, "web-2", Rotation.MAINT),),
        "new process": (front, replace(front, name="web.other", listen=18081)),
        "start": (),
    }
    balancer.converge(BalancerConfig(before[change]))
    backends["web-2"].status, backends["web-2"].asked = 503, 0
    proven = tuple(replace(one, is_proven=True) for one in front.servers)
    balancer.converge(BalancerConfig((replace(front, servers=proven),)))
    wait_until(lambda: backends["web-2"].asked >= 2, 10, "its first answer is known, and it is asked again")
    assert balancer.observe().servers["web.http", "web-2"].is_up
    wait_until(lambda: not balancer.observe().servers["web.http", "web-2"].is_up, 5, "it is seen down")
    assert backends["web-2"].asked >= 3


def test_a_taken_port_is_named_and_the_running_process_goes_on(balancer: HaproxyBalancer, front: Frontend) -> None:
    balancer.converge(BalancerConfig((front,)))
    with socket.socket() as taken:
        taken.bind((front.address, 18082))
        taken.listen()
        assert "another program" in balancer.why_not_bindable(front.address, 18082)
        with pytest.raises(BalancerError, match="18082"):
            balancer.converge(BalancerConfig((front, replace(front, name="web.taken", listen=18082))))
    assert balancer.why_not_bindable(front.address, front.listen) == ""
    assert get(front) in {"web-1", "web-2"}
    assert balancer.observe().digest == BalancerConfig((front,)).digest()


def test_the_files_are_private(balancer: HaproxyBalancer, front: Frontend, tmp_path: Path) -> None:
    balancer.converge(BalancerConfig((front,)))
    assert (tmp_path / "stats.sock").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "haproxy.cfg").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up being root")
def test_started_by_root_no_process_that_serves_is_root_s(
    balancer: HaproxyBalancer, front: Frontend, tmp_path: Path
) -> None:
    balancer.converge(BalancerConfig((front,)))
    (pid,) = (tmp_path / "haproxy.pid").read_text(encoding="utf-8").split()
    done = subprocess.run(["ps", "-o", "user=,group=", "-p", pid], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["haproxy", "haproxy"]
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    facts = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    assert "0" not in facts["Uid"] + facts["Gid"]
    assert set(facts["CapEff"]) == set(facts["CapPrm"]) == {"0000000000000000"}
    assert get(front) in {"web-1", "web-2"}
    assert (tmp_path / "stats.sock").stat().st_uid == 0


# ---- what a crash leaves ---------------------------------------------------------------------------------------


def test_a_file_that_was_written_but_not_loaded_is_not_taken_for_what_runs(
    balancer: HaproxyBalancer, front: Frontend, tmp_path: Path
) -> None:
    """The controller ends between writing the file and starting the process that reads it."""
    balancer.converge(BalancerConfig((front,)))
    moved = BalancerConfig((replace(front, listen=18081),))

    class Dying(HaproxyBalancer):
        def _spawn(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
            if "-x" in arguments:
                raise KeyboardInterrupt
            return super()._spawn(arguments)

    with pytest.raises(KeyboardInterrupt):
        Dying(tmp_path, template("haproxy.cfg.j2")).converge(moved)
    assert balancer.observe().digest != moved.digest()
    balancer.converge(moved)
    assert balancer.observe().digest == moved.digest()
    assert get(moved.frontends[0]) in ("web-1", "web-2")


def test_a_server_whose_adding_was_cut_short_is_checked_after_all(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend], tmp_path: Path
) -> None:
    first, second = front.servers
    balancer.converge(BalancerConfig((replace(front, servers=(first,)),)))
    added = f"add server web.http/web-2 127.0.0.1:{second.port} check inter 200ms fall 2 rise 1"
    RuntimeApi(tmp_path / "stats.sock").ask(added)
    balancer.converge(BalancerConfig((front,)))
    backends["web-2"].close()
    backends.pop("web-2")
    wait_until(lambda: not balancer.observe().servers["web.http", "web-2"].is_up, 5, "it is seen down")


def test_an_haproxy_that_nobody_can_talk_to_is_a_stray_until_it_is_ended(
    balancer: HaproxyBalancer, front: Frontend, tmp_path: Path
) -> None:
    processes = HaproxyProcesses(tmp_path)
    balancer.converge(BalancerConfig((front,)))
    assert processes.find_strays() == ()
    lost = int(pid_of(tmp_path))
    (tmp_path / "stats.sock").unlink()
    assert processes.find_strays() == (lost,)
    processes.end_stray(lost)
    wait_until(lambda: processes.find_strays() == (), 5, "it listens no more")
    balancer.converge(BalancerConfig((front,)))
    assert processes.find_strays() == ()


def test_what_an_ended_stray_still_serves_is_counted(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend], tmp_path: Path
) -> None:
    config = BalancerConfig((front,))
    balancer.converge(config)
    with under_way(front, backends):
        processes, lost = HaproxyProcesses(tmp_path), int(pid_of(tmp_path))
        (tmp_path / "stats.sock").unlink()
        processes.end_stray(lost)
        wait_until(lambda: processes.find_strays() == (), 5, "it listens no more")
        balancer.converge(config)
        assert sum(one.sessions for one in balancer.observe().servers.values()) > 0


def test_an_haproxy_that_finishes_what_it_serves_is_no_stray(
    balancer: HaproxyBalancer, front: Frontend, backends: dict[str, Backend], tmp_path: Path
) -> None:
    balancer.converge(BalancerConfig((front,)))
    with under_way(front, backends):
        old = int(pid_of(tmp_path))
        balancer.converge(BalancerConfig((replace(front, check=HealthCheck("/other", 200, 0.2, 2)),)))
        wait_until(lambda: HaproxyProcesses(tmp_path).find_strays() == (), 5, "the old one listens no more")
        assert Path(f"/proc/{old}").exists()
