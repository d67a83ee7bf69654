"""URIs of hosts: those by which libvirt starts no program that the URI names.

A URI of libvirt's can be a command line: `qemu+ext:` runs what its `command` says, `command` and `netcat` replace
ssh and what runs at its other end, `name` has the daemon there open another URI. A settings file may come out of
somebody's backup, so what is accepted is written down here; what is not known is refused.
"""

from __future__ import annotations

import re

_DRIVERS = ("qemu", "test")
_TRANSPORTS = ("unix", "ssh", "libssh", "libssh2", "tls", "tcp")
_KEYS = (
    "socket",
    "mode",
    "proxy",
    "keyfile",
    "sshauth",
    "known_hosts",
    "known_hosts_verify",
    "authfile",
    "pkipath",
    "tls_priority",
    "no_verify",
    "no_sanity",
    "no_tty",
)
_SHAPE = re.compile(
    r"(?P<driver>[^:/?#+]+)(\+(?P<transport>[^:/?#]+))?://(?P<server>[^/?#]*)(?P<path>[^?#]*)(\?(?P<query>[^#]*))?"
)
# ssh takes a word that begins with a hyphen for an option.
_SERVER = re.compile(r"([A-Za-z0-9_.][A-Za-z0-9_.-]*@)?([A-Za-z0-9_.][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])?(:\d+)?")
_EXAMPLES = "such as qemu:///system or qemu+ssh://root@host/system"


def check_host_uri(uri: str) -> str:
    """The URI. Raises ValueError saying what about it is refused."""
    parts = _SHAPE.fullmatch(uri)
    if parts is None or not uri.isascii() or not uri.isprintable() or " " in uri:
        raise ValueError(f"{uri!r} is not the URI of a libvirt host, {_EXAMPLES}")
    driver, transport = parts["driver"], parts["transport"]
    if driver not in _DRIVERS:
        raise ValueError(f"{uri!r} names the driver {driver!r}, Understudy knows: {', '.join(_DRIVERS)}")
    if transport is not None and transport not in _TRANSPORTS:
        raise ValueError(f"{uri!r} names the transport {transport!r}, accepted are: {', '.join(_TRANSPORTS)}")
    if driver == "qemu" and parts["path"] not in ("/system", "/session"):
        raise ValueError(f"{uri!r} ends with {parts['path']!r}, not with /system or /session")
    if driver == "qemu" and _SERVER.fullmatch(parts["server"]) is None:
        raise ValueError(f"{uri!r} names the server {parts['server']!r}, which is no name of one")
    for word in re.split("[&;]", parts["query"] or ""):  # libvirt takes both for the end of a pair
        key = word.partition("=")[0]
        if word and key not in _KEYS:
            raise ValueError(f"{uri!r} has the key {key!r}, accepted are: {', '.join(_KEYS)}")
    return uri
