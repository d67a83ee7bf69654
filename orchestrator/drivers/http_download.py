"""HTTP and HTTPS: a file, or what is missing of it.

Redirects are followed to http and https only and never out of TLS. Certificates are checked against the system's
store (or SSL_CERT_FILE); proxies are those of the environment.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import ssl
import string
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.message import Message
from urllib.error import URLError
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit, urlunsplit

from orchestrator.errors import DownloadCut, DownloadFailed, SpecError

_SCHEMES = ("http", "https")
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 10
_BUSY = (408, 425, 429)
_PIECE = 2**18  # bytes read at once
_MAX_VALIDATOR = 200


@dataclass(frozen=True)
class WebAddress:
    """`url` has no user name, password and fragment; `shown` has no query either: it may be printed and kept."""

    url: str = field(repr=False)
    shown: str
    authorization: str = field(default="", repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.shown).netloc


@dataclass(frozen=True)
class Known:
    """The first `size` bytes are there; `validator` is what the server at `shown` called the file they are of."""

    size: int = 0
    shown: str = ""
    validator: str = ""


@dataclass(frozen=True)
class Answer:
    """`chunks` begin at byte `start` of the file (-1: at none that is of use), which has `total` bytes, if known.

    `validator`: a strong ETag or Last-Modified, else empty. Reading chunks raises DownloadCut.
    """

    shown: str
    start: int
    total: int | None
    validator: str
    chunks: Iterator[bytes]


def is_url(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def parse_address(text: str) -> WebAddress:
    """A URL as the operator gives it. Raises SpecError, which never shows what may be a password."""
    scheme = text.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise SpecError(
            f"images are not downloaded by {scheme!r}", "give an http:// or https:// URL, or the path of a file"
        )
    try:
        parts = _split(text)
    except ValueError:
        raise SpecError(
            f"the {scheme} URL cannot be read", f"give {scheme}://HOST/PATH, special characters percent-encoded"
        ) from None
    address = _address(parts)
    if "@" not in parts.netloc:
        return address
    if parts.scheme == "http":
        raise SpecError(
            f"{address.shown} would be given a user name over plain http, for everybody on the way to read",
            "use https, or leave the user name out",
        )
    login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return replace(address, authorization="Basic " + base64.b64encode(login.encode()).decode())


@contextlib.contextmanager
def open_file(address: WebAddress, known: Known, timeout: float) -> Iterator[Answer]:
    """The file at `address`, or what follows the known part of it. `timeout` seconds for each wait.

    Raises DownloadFailed, or DownloadCut if the same request may do better later.
    """
    for _ in range(_MAX_REDIRECTS + 1):
        with contextlib.closing(_ask(address, known, timeout)) as response:
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                yield _read_answer(response, address, known, timeout)
                return
        address = _redirected(address, location)
    raise DownloadFailed(f"{address.shown} redirects more than {_MAX_REDIRECTS} times", "check the URL")


# ---- addresses -------------------------------------------------------------------------------------------


def _split(text: str) -> SplitResult:
    """Raises ValueError; its words may contain a password."""
    parts = urlsplit(text)
    if re.fullmatch(r"[!-~]+", text) is None or not parts.hostname or (parts.port is not None and parts.port < 1):
        raise ValueError("not a URL")
    return parts


def _address(parts: SplitResult) -> WebAddress:
    where = parts.netloc.rpartition("@")[2].lower()
    path = parts.path or "/"
    return WebAddress(
        urlunsplit((parts.scheme, where, path, parts.query, "")), urlunsplit((parts.scheme, where, path, "", ""))
    )


def _redirected(address: WebAddress, location: str) -> WebAddress:
    """The login goes along only to the same host, port and scheme."""
    advice = "give the URL of the file itself"
    try:
        url = urljoin(address.url, quote(location, safe=string.punctuation))
        if (scheme := urlsplit(url).scheme) not in _SCHEMES:
            raise DownloadFailed(
                f"{address.shown} redirects to a {scheme} URL, only http and https are followed", advice
            )
        parts = _split(url)
    except ValueError:
        raise DownloadFailed(f"{address.shown} redirects to what is no URL", advice) from None
    before, target = urlsplit(address.url), _address(parts)
    if before.scheme == "https" and parts.scheme == "http":
        raise DownloadFailed(f"{address.shown} redirects from https to plain http: {target.shown}", advice)
    same = (before.scheme, before.netloc) == (parts.scheme, urlsplit(target.url).netloc)
    return replace(target, authorization=address.authorization if same else "")


# ---- requests and answers --------------------------------------------------------------------------------


def _ask(address: WebAddress, known: Known, timeout: float) -> http.client.HTTPResponse:
    """Any status is an answer; nothing is followed."""
    headers = {"User-Agent": "understudy"}
    if address.authorization:
        headers["Authorization"] = address.authorization
    if known.size:
        headers["Range"] = f"bytes={known.size}-"
        if known.validator and known.shown == address.shown:
            headers["If-Range"] = known.validator
    # Put together by hand: the usual one also knows file, ftp and data, and redirects by rules of its own.
    opener = urllib.request.OpenerDirector()
    opener.add_handler(urllib.request.ProxyHandler())
    opener.add_handler(urllib.request.HTTPHandler())
    opener.add_handler(urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    with _explained(address, timeout):
        request = urllib.request.Request(address.url, headers=headers)  # noqa: S310 - scheme checked
        response = opener.open(request, timeout=timeout)
        assert isinstance(response, http.client.HTTPResponse)
        return response


def _read_answer(response: http.client.HTTPResponse, address: WebAddress, known: Known, timeout: float) -> Answer:
    headers, status = response.headers, response.status
    length = None if response.chunked else _number(headers.get("Content-Length"))
    validator = _validator(headers)
    if status == 200:
        return Answer(address.shown, 0, length, validator, _chunks(response, length, address, timeout))
    if status == 206:
        start, total = _content_range(headers.get("Content-Range", ""))
        return Answer(address.shown, start, total, validator, _chunks(response, length, address, timeout))
    if status == 416 and known.size:
        size = re.fullmatch(r"bytes \*/(\d{1,18})", headers.get("Content-Range", "").strip())
        total = int(size[1]) if size else -1
        return Answer(address.shown, total, total, validator, iter(()))
    raise _refusal(address, status)


def _chunks(
    response: http.client.HTTPResponse, length: int | None, address: WebAddress, timeout: float
) -> Iterator[bytes]:
    """At most `length` bytes, as they come."""
    left = length
    while left is None or left > 0:
        with _explained(address, timeout):
            chunk = response.read1(_PIECE if left is None else min(_PIECE, left))
        if not chunk:
            return
        left = None if left is None else left - len(chunk)
        yield chunk


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text.strip()) else None


def _content_range(text: str) -> tuple[int, int | None]:
    """`"bytes 100-199/200"` -> (100, 200); (-1, None) for what is not of use."""
    match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", text.strip())
    return (int(match[1]), _number(match[2])) if match else (-1, None)


def _validator(headers: Message) -> str:
    """What If-Range may carry: a weak ETag does not promise the same bytes."""
    tag, modified = headers.get("ETag", "").strip(), headers.get("Last-Modified", "").strip()
    chosen = tag if re.fullmatch(r'"[!#-~]*"', tag) else modified
    return chosen if len(chosen) <= _MAX_VALIDATOR and chosen.isascii() and chosen.isprintable() else ""


# ---- errors ----------------------------------------------------------------------------------------------


def _refusal(address: WebAddress, status: int) -> DownloadFailed:
    phrase = http.client.responses.get(status, "")
    message = f"{address.shown} cannot be downloaded: the server answers {status} {phrase}".rstrip()
    if status >= 500 or status in _BUSY:
        return DownloadCut(message, "try again later, or use another mirror")
    if status in (401, 403):
        return DownloadFailed(message, "the file needs a login: https://USER:PASSWORD@HOST/PATH, or other rights")
    return DownloadFailed(message, "check the URL")


@contextlib.contextmanager
def _explained(address: WebAddress, timeout: float) -> Iterator[None]:
    """From the library's errors to ours."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failure(address.host, error, timeout) from error


def _failure(host: str, error: Exception, timeout: float) -> DownloadFailed:
    cause = error.reason if isinstance(error, URLError) else error
    again = "check the network and the URL, or use another mirror"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return DownloadFailed(
            f"the certificate of {host} is not trusted: {cause.verify_message}",
            "name the file of a certificate you trust in SSL_CERT_FILE, or fetch the image by other means",
        )
    if isinstance(cause, TimeoutError):
        return DownloadCut(f"{host} sent nothing for {timeout:g} s", again)
    if isinstance(cause, OSError):
        return DownloadCut(f"the connection to {host} failed: {cause.strerror or cause}", again)
    if isinstance(cause, http.client.IncompleteRead):
        return DownloadCut(f"the connection to {host} ended early", again)
    return DownloadFailed(f"{host} does not answer as a web server", "check the URL")
