"""What a guest can reach and pretend: tried from inside, against listeners of the test's own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, installation
from tests.support.private_host import PrivateHost, private_host
from tests.support.specs import web_set

pytestmark = pytest.mark.guest


class Listener:
    """A service on the host's loopback that counts who comes, over TCP and UDP."""

    def __init__(self) -> None:
        self._stream = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._stream.getsockname()[1]
        self._datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagram.bind(("127.0.0.1", self.port))
        self.visits: list[str] = []
        self._threads = [threading.Thread(target=one) for one in (self._accept, self._receive)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._stream.accept()
                connection.close()
                self.visits.append("tcp")

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while self._datagram.recvfrom(100)[0] != b"end":
                self.visits.append("udp")

    def close(self) -> None:
        self._datagram.sendto(b"end", ("127.0.0.1", self.port))
        self._stream.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=10)
        self._stream.close()
        self._datagram.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    try:
        yield made
    finally:
        made.close()


def ssh(on: Installation, row: dict[str, Any], command: str) -> str:
    return on.run("ssh", f"web/{row['name']}", "--", command).strip()


def knock(on: Installation, row: dict[str, Any], port: int) -> None:
    """From inside a guest, at every address its host has on the user network, with a route of its own making."""
    ssh(
        on,
        row,
        "ip route add default via 10.0.2.2 2>/dev/null; for to in 10.0.2.2 10.0.2.3; do "
        f"nc -w 2 $to {port} < /dev/null; timeout 3 tftp -g -r x -l /dev/null $to {port}; done 2> /dev/null; true",
    )


@pytest.mark.parametrize("outbound", [False, True])
def test_the_hosts_loopback_is_reached_only_where_outbound_is_declared(
    site: Installation, listener: Listener, outbound: bool
) -> None:
    network = f'[network]\nrange = "{site.net}.0/24"\noutbound = {str(outbound).lower()}\n'
    site.configure(network=network if outbound else "")
    site.write("web.yaml", web_set(site, instances=1))
    site.run("apply", str(site.root / "web.yaml"))
    (row,) = site.members("instance")
    with socket.create_connection(("127.0.0.1", listener.port), timeout=5):
        pass  # so that silence below means that nobody came
    knock(site, row, listener.port)
    came = set(listener.visits[1:])
    assert listener.visits[0] == "tcp"
    assert came == ({"tcp", "udp"} if outbound else set())


@pytest.fixture(scope="module")
def host() -> Iterator[PrivateHost]:
    with private_host() as made:
        yield made


@pytest.fixture
def there(host: PrivateHost, micro_image: Path) -> Iterator[Installation]:
    """Two guests on a libvirt network of a private host."""
    with installation(enter=host.enter) as made:
        network = made.write(
            "network.xml",
            "<network><name>ustnet</name><bridge name='ust0'/>"
            "<ip address='192.168.203.1' netmask='255.255.255.0'/></network>",
        )
        host.run("virsh", "-q", "net-create", str(network))
        made.configure(network='[network]\nmode = "network"\nname = "ustnet"\n')
        made.run("image", "add", "micro", str(micro_image))
        made.write("web.yaml", web_set(made, instances=2))
        made.run("apply", str(made.root / "web.yaml"))
        yield made
        made.run("delete", "web")
        host.run("virsh", "-q", "net-destroy", "ustnet")


STRANGER, FOREIGN_MAC = "192.168.203.77", "52:54:00:fe:fe:fe"
# Who the guest can be to its neighbours: itself, another address, another card. It gets its own back in any case.
PRETEND = f"""\
sees() {{ ping -c 1 -W 2 -I "$1" 192.168.203.1 > /dev/null 2>&1 && echo "$2"; }}
own=$(cat /sys/class/net/eth0/address)
sees eth0 itself
ip address add {STRANGER}/24 dev eth0
sees {STRANGER} stranger
ip address del {STRANGER}/24 dev eth0
becomes() {{ ip link set eth0 down; ip link set eth0 address "$1"; ip link set eth0 up; }}
{{ becomes {FOREIGN_MAC}; sees eth0 foreign-card; becomes "$own"; }} 2> /dev/null
true
"""


def test_no_guest_of_a_network_pretends_to_be_another(host: PrivateHost, there: Installation) -> None:
    one, other = there.members("instance")
    steal = (
        f"ip address add {other['address']}/32 dev eth0; arping -c 3 -w 4 -U -I eth0 -s {other['address']} "
        f"{other['address']} > /dev/null 2>&1; ip address del {other['address']}/32 dev eth0"
    )

    def card_of_other() -> str:
        host.run("sh", "-c", f"ip neigh flush dev ust0; ping -c 1 -W 2 {other['address']} > /dev/null; true")
        ssh(there, one, steal)
        return host.run("ip", "neigh", "show", other["address"]).split("lladdr ")[1].split()[0]

    mine, others = (ssh(there, row, "cat /sys/class/net/eth0/address") for row in (one, other))
    there.run("scale", "web", "3")
    (fork,) = [row for row in there.members("instance") if row["name"] not in (one["name"], other["name"])]
    assert (one["forked"], fork["forked"]) == (False, True)
    for row in (one, fork):
        assert ssh(there, row, PRETEND).split() == ["itself"]
    assert card_of_other() == others
    assert there.fetch() in {one["name"], other["name"], fork["name"]}

    # The same guest without a filter: it is the filter that holds it back.
    there.configure(network='[network]\nmode = "network"\nname = "ustnet"\nfilter = ""\n')
    there.run("reimage", f"web/{one['name']}")
    assert ssh(there, one, PRETEND).split() == ["itself", "stranger", "foreign-card"]
    assert card_of_other() == mine


def test_a_host_without_the_filter_is_told_what_to_install(there: Installation) -> None:
    usual = (there.root / "config.toml").read_text(encoding="utf-8")
    there.configure(network='[network]\nmode = "network"\nname = "ustnet"\nfilter = "no-such"\n')
    for command in (("apply", str(there.root / "web.yaml")), ("doctor",)):
        said = there.run(*command, expect=2 if command[0] == "apply" else 1)
        assert "has no network filter 'no-such'" in said
        assert "libvirt-daemon-config-nwfilter" in said
    (there.root / "config.toml").write_text(usual, encoding="utf-8")
