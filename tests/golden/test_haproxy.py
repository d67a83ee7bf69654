"""haproxy.cfg: as a file, and its lines taken apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.config.resources import template
from orchestrator.models.balancing import BalancerConfig, Frontend, HealthCheck, Server
from orchestrator.models.sightings import Rotation
from orchestrator.render.haproxy import HaproxyProcess, check_options, render_haproxy
from tests.golden.golden import assert_golden

PROCESS = HaproxyProcess("/run/u/stats.sock", "/run/u/haproxy.pid", "/run/u/servers.state")
SERVERS = (
    Server("web-00001", "127.77.0.3", 20080, Rotation.READY),
    Server("web-00002", "127.77.0.4", 20080, Rotation.DRAIN),
    Server("web-00003", "127.77.0.5", 20080, Rotation.MAINT),
)
HTTP = Frontend("web.http", "http", "127.0.0.1", 8080, HealthCheck("/up", 204, 0.25, 5), SERVERS)
TCP = Frontend("db.sql", "tcp", "10.0.0.1", 5432, HealthCheck())


def render(*frontends: Frontend, process: HaproxyProcess = PROCESS) -> str:
    return render_haproxy(template("haproxy.cfg.j2"), BalancerConfig(frontends), process)


def section(text: str, header: str) -> list[str]:
    """Stripped lines of one section."""
    lines = text.splitlines()
    start = lines.index(header) + 1
    body = []
    for line in lines[start:]:
        if line and not line.startswith((" ", "#")):
            break
        body.append(line.strip())
    return [line for line in body if line]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("haproxy-two.cfg", render(TCP, HTTP)),
        ("haproxy-as-root.cfg", render(HTTP, process=replace(PROCESS, user="haproxy", group="haproxy"))),
        ("haproxy-empty.cfg", render()),
    ],
)
def test_a_configuration_is_rendered_like_its_golden_file(name: str, text: str) -> None:
    assert_golden(name, text)


def test_the_file_carries_the_digest_of_its_configuration() -> None:
    assert f"# understudy-digest: {BalancerConfig((HTTP,)).digest()}\n" in render(HTTP)


def test_a_frontend_listens_on_its_socket_and_sends_to_its_backend() -> None:
    lines = section(render(HTTP), "frontend f.web.http")
    assert [line for line in lines if not line.startswith("#")] == [
        "mode http",
        "bind 127.0.0.1:8080",
        "option idle-close-on-response",
        "default_backend web.http",
    ]


def test_every_server_stands_with_its_address_and_its_state() -> None:
    lines = [line.split() for line in section(render(HTTP), "backend web.http") if line.startswith("server ")]
    assert [(words[1], words[2]) for words in lines] == [
        ("web-00001", "127.77.0.3:20080"),
        ("web-00002", "127.77.0.4:20080"),
        ("web-00003", "127.77.0.5:20080"),
    ]
    assert [words[3:] for words in lines] == [[], ["weight", "0"], ["disabled"]]


def test_http_is_checked_as_declared_and_retried_unless_it_changes_something() -> None:
    lines = section(render(HTTP), "backend web.http")
    assert "option httpchk GET /up" in lines
    assert "http-check expect status 204" in lines
    assert "http-request disable-l7-retry unless METH_GET" in lines


def test_tcp_is_passed_on_untouched() -> None:
    lines = section(render(TCP), "backend db.sql")
    assert lines[:2] == ["mode tcp", "balance roundrobin"]
    assert not [line for line in lines if "http" in line]


def test_a_process_that_is_replaced_ends_kept_connections_with_an_answer_and_passes_on_who_is_down() -> None:
    assert "server-state-file /run/u/servers.state" in section(render(HTTP), "global")
    assert "load-server-state-from-file global" in section(render(HTTP), "defaults")
    assert "option idle-close-on-response" not in section(render(TCP), "frontend f.db.sql")


def test_the_statistics_socket_is_private() -> None:
    (line,) = (one for one in section(render(HTTP), "global") if one.startswith("stats socket"))
    assert line.startswith("stats socket /run/u/stats.sock mode 600 ")


def test_only_a_process_started_by_root_changes_its_user() -> None:
    assert not [line for line in section(render(HTTP), "global") if line.startswith(("user", "group"))]
    as_root = section(render(HTTP, process=replace(PROCESS, user="haproxy")), "global")
    assert "user haproxy" in as_root


@pytest.mark.parametrize(
    ("check", "options"),
    [
        (HealthCheck(), "inter 1000 fastinter 200 downinter 200 fall 3"),
        (HealthCheck(interval=0.25, failures=5), "inter 250 fastinter 50 downinter 50 fall 5"),
        (HealthCheck(interval=0.001), "inter 10 fastinter 10 downinter 10 fall 3"),
    ],
)
def test_a_server_that_fails_is_asked_more_often(check: HealthCheck, options: str) -> None:
    assert f" {options} " in check_options(check)


def test_every_line_of_a_section_is_indented_and_no_line_is_left_of_a_template() -> None:
    text = render(TCP, HTTP)
    assert "{" not in text
    assert "}" not in text
    for line in text.splitlines():
        head = line.split(" ", maxsplit=1)[0]
        assert not line or line.startswith("    ") or head in ("#", "global", "defaults", "frontend", "backend")
