"""A web server of the tests that serves files with ranges, and with the faults they ask for."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PIECE = 2**16


@dataclass
class Page:
    """What is served at a path, and how. Lists are used up by one request after the other."""

    content: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    ranges: bool = True
    heeds_if_range: bool = True
    bare_parts: bool = False  # a part comes without headers of the page and without the size of the whole
    statuses: list[int] = field(default_factory=list)  # answered before anything is served
    cuts: list[int] = field(default_factory=list)  # bytes of the body after which the connection is cut
    stalls: list[int] = field(default_factory=list)  # bytes of the body after which nothing comes any more
    announced: int | None = None  # a Content-Length that lies
    chunked: bool = False
    surplus: int = 0  # bytes sent behind the content; -1: without end
    location: str = ""
    pause: float = 0.0  # seconds before each piece


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str:
        return self.headers.get("Range", "")


class Web(ThreadingHTTPServer):
    """`pages` by path; `requests` as they came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        self.scheme = "http"
        self.closing = threading.Event()

    def url(self, path: str, login: str = "") -> str:
        return f"{self.scheme}://{login}127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are what is tested."""


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the overridden one
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.requests.append(Request(self.path, dict(self.headers.items())))
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self._say(404, {"Content-Length": "0"})
        elif page.statuses:
            self._say(page.statuses.pop(0), {"Content-Length": "0"})
        elif page.location:
            self._say(302, {"Content-Length": "0", "Location": page.location})
        else:
            self._serve(page)

    def _serve(self, page: Page) -> None:
        size, start = len(page.content), self._start(page)
        if start >= size > 0:
            self._say(416, {"Content-Length": "0", "Content-Range": f"bytes */{size}"})
            return
        headers = dict(page.headers)
        if start:
            headers = {} if page.bare_parts else headers
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{'*' if page.bare_parts else size}"
        if page.chunked:
            headers["Transfer-Encoding"] = "chunked"
        if not page.chunked or page.announced is not None:
            length = size - start if page.announced is None else page.announced
            headers["Content-Length"] = str(length)
        self._say(206 if start else 200, headers)
        self._send(page, page.content[start:])

    def _start(self, page: Page) -> int:
        wanted = self.headers.get("Range", "")
        if not page.ranges or not wanted:
            return 0
        condition = self.headers.get("If-Range")
        same = condition in (None, page.headers.get("ETag"), page.headers.get("Last-Modified"))
        return int(wanted.removeprefix("bytes=").rstrip("-")) if same or not page.heeds_if_range else 0

    def _say(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, page: Page, body: bytes) -> None:
        cut = page.cuts.pop(0) if page.cuts else None
        stall = page.stalls.pop(0) if page.stalls else None
        end = min(one for one in (cut, stall, len(body)) if one is not None)
        for start in range(0, end, PIECE):
            if page.pause:
                time.sleep(page.pause)
            self._write(page, body[start : min(start + PIECE, end)])
        if stall is not None:
            self.server.closing.wait(60)
        if cut is not None or stall is not None:
            return
        left = page.surplus
        while left and not self.server.closing.is_set():
            self._write(page, bytes(PIECE))
            left = left if left < 0 else max(left - PIECE, 0)
        if page.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, page: Page, piece: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if page.chunked else piece)


@contextlib.contextmanager
def serving(certificate: Path | None = None) -> Iterator[Web]:
    """A server on 127.0.0.1; https if it has a certificate (PEM with its key)."""
    web = Web()
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        web.socket = context.wrap_socket(web.socket, server_side=True, do_handshake_on_connect=False)
        web.scheme = "https"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield web
    finally:
        web.closing.set()
        web.shutdown()
        thread.join()
        web.server_close()


def write_self_signed(file: Path) -> None:
    """A certificate of 127.0.0.1 and its key, good for an hour."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
