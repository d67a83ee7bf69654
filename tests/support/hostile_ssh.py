"""SSH servers on loopback as a hostile guest may run them: paramiko's own, and bare sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from paramiko import common
from paramiko.packet import Packetizer

from orchestrator.ports.guest import GuestAddress

Serve = Callable[[socket.socket, threading.Event], None]
"""What is done with a connection; the event says that the test is over."""


def make_key(file: Path) -> str:
    """A private key as a file; returns its public half as OpenSSH writes it."""
    made = Ed25519PrivateKey.generate()
    file.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    return made.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@contextlib.contextmanager
def listening(serve: Serve, host_key: str) -> Iterator[GuestAddress]:
    """A guest at whose SSH port each connection is served by `serve`, in a thread of its own."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)

        def accept() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, _ = listener.accept()
                    threads.append(threading.Thread(target=serve_one, args=(connection,)))
                    threads[-1].start()

        def serve_one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                connection.settimeout(None)
                serve(connection, over)

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield GuestAddress("web-1", "127.0.0.1", listener.getsockname()[1], lambda: host_key)
        finally:
            over.set()
            accepting.join()
            for thread in threads:
                thread.join()


class Server(paramiko.ServerInterface):
    """Lets everybody in and begins every command; a variant hangs or floods somewhere."""

    def __init__(self, over: threading.Event) -> None:
        self.over = over

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return common.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._work, args=(channel,), daemon=True).start()
        return True

    def _work(self, channel: paramiko.Channel) -> None:
        self.over.wait(0.1)  # paramiko answers the request when this thread has been started
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.work(channel)

    def work(self, channel: paramiko.Channel) -> None:
        """What a command does; ends well by default."""
        channel.sendall(b"hello\n")
        channel.send_exit_status(0)
        channel.close()

    def flood(self, channel: paramiko.Channel) -> None:
        """Sends without waiting to be told to go on."""
        while not self.over.is_set():
            channel.out_window_size = 2**30
            channel.sendall(b"x" * 32_000)


class LetsNobodyIn(Server):
    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        self.over.wait()
        return common.AUTH_FAILED


class OpensNoChannel(Server):
    def check_channel_request(self, kind: str, chanid: int) -> int:
        self.over.wait()
        return common.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED


class AnswersNoCommand(Server):
    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.over.wait()
        return False


class FloodsInPlaceOfAnAnswer(Server):
    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.flood(channel)
        return False


class FloodsBeforeTheEnd(Server):
    def work(self, channel: paramiko.Channel) -> None:
        self.flood(channel)


class FloodsAfterTheEnd(Server):
    def work(self, channel: paramiko.Channel) -> None:
        channel.send_exit_status(0)
        self.over.wait(0.05)
        self.flood(channel)


class TalksOnAfterTheEnd(Server):
    """As much as it is told to, for ever: what a command leaves running may do so."""

    def work(self, channel: paramiko.Channel) -> None:
        channel.send_exit_status(0)
        while not self.over.is_set():
            channel.sendall(b"x" * 32_000)


class ReadsNothing(Server):
    def work(self, channel: paramiko.Channel) -> None:
        self.over.wait()


class _DeafPackets(Packetizer):
    """Once the command was begun nothing is taken from the socket, which fills."""

    deaf: threading.Event
    over: threading.Event

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if self.deaf.is_set():
            self.over.wait()
            raise EOFError
        return super().read_all(n, check_rekey)


class IsDeaf(Server):
    """Promises to read as much as there is, and then does not even take it from its socket."""

    window = 2**31 - 1

    def __init__(self, over: threading.Event) -> None:
        super().__init__(over)
        self.deaf = threading.Event()

    def work(self, channel: paramiko.Channel) -> None:
        self.deaf.set()


class IsDeafDuringRekeying(IsDeaf):
    """Begins another key exchange and leaves it there."""

    def work(self, channel: paramiko.Channel) -> None:
        self.deaf.set()
        channel.get_transport()._send_kex_init()  # type: ignore[attr-defined]


def paramiko_server(kind: type[Server], key_file: Path) -> Serve:
    """Each connection is served by a new one of this kind."""

    def serve(connection: socket.socket, over: threading.Event) -> None:
        server = kind(over)
        options: dict[str, Any] = {"packetizer_class": _packets(server)} if isinstance(server, IsDeaf) else {}
        transport = paramiko.Transport(connection, default_window_size=getattr(server, "window", 2**21), **options)
        transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(key_file)))
        try:
            transport.start_server(server=server)
            over.wait()
        finally:
            transport.packetizer.complete_handshake()
            transport.close()

    return serve


def _packets(server: IsDeaf) -> type[Packetizer]:
    return type("DeafPackets", (_DeafPackets,), {"deaf": server.deaf, "over": server.over})


def giant_banner(connection: socket.socket, over: threading.Event) -> None:
    """One line without an end."""
    connection.settimeout(0.1)
    connection.sendall(b"SSH-2.0-")
    _pour(connection, over)


def giant_packet(connection: socket.socket, over: threading.Event) -> None:
    """A first packet that says it has 2 GiB, and comes."""
    connection.settimeout(0.1)
    connection.sendall(b"SSH-2.0-x\r\n" + (2**31 + 4).to_bytes(4, "big") + bytes(4))
    _pour(connection, over)


def no_key_exchange(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"SSH-2.0-x\r\n")
    over.wait()


def dripping_banner(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"SSH-")
    while not over.wait(0.2):
        connection.sendall(b"x")


def _pour(connection: socket.socket, over: threading.Event) -> None:
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            connection.send(b"x" * 65536)
