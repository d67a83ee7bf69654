"""A program of a kilobyte that makes, in one process, the system calls by which a fork becomes who it is.

Every process that a shell starts costs an emulated guest a twentieth of a second, and a reseed of the kernel's
random numbers no shell can ask for at all: forks of one memory image begin with the same generator, and what is
written to /dev/urandom is drawn upon about once a minute. `fork_program.S` is what it does, by which letters.
"""

from __future__ import annotations

import ipaddress
import struct

from orchestrator.render.seed import GuestNetwork

_LOADED_AT = 0x400000
_HEADERS = 64 + 56  # ELF header, one program header
_INET, _ETHER = 2, 1
_UP, _GATEWAY = 1, 2
PAUSE_SECONDS = 10
"""What is put off until a fork has answered."""

_CODE = bytes.fromhex(
    "4c8d64241031db498b04244885c074650fb600498b7c2408498b74241031d24531c041bd040000003c74745d3c67747b3c660f84"
    "960000003c6d0f84ee0000003c6c0f84f90000003c720f841e0100003c620f842c0100003c630f846f0100003c730f8438010000"
    "3c700f8443010000bb4000000089dfb83c0000000f050f054885c079034409ebc34983c40841bd0100000031ff488d3514020000"
    "b8e3000000e8d8ffffffe95cffffff4983c40841bd02000000bf01000000be07520000b810000000e8b5ffffffe939ffffff4983"
    "c4104531edbe01020000b802000000e89affffff4885c00f881affffff89c54881ec0002000041bd040000004889e7be00020000"
    "b83e010000e870ffffff89ef4889e6ba00020000b801000000e85cffffff4881c400020000e9d9feffff4983c418b852000000e8"
    "42ffffffe9c6feffff4983c41857564889f74531edb857000000e827ffffff5e5f41bd04000000b858000000e815ffffffe999fe"
    "ffff4983c4104531edb857000000e8fffeffffe983feffff4983c4184531ed41ba00100000b8a5000000e8e3feffffe967feffff"
    "4983c408b8a2000000e8d0feffffe954feffff4983c408488d3d0201000031f6b823000000e8b4feffffe938feffff4983c41041"
    "bd080000004989fe4883ec2831c048890424488944240848894424104889442418488944242031c9418a040e84c0740a88040cff"
    "c183f90f72eebf02000000be02000000b829000000e85cfeffff4189c74c8d35a4000000bd24890000e854000000bd16890000e8"
    "4a000000bd1c890000e8400000004883c428488d15ab00000066837a18000f84a7fdffff4489ffbe0b890000b8100000000f0548"
    "83f8ef0f848efdffff4885c00f8985fdffff4409ebe97dfdffff410f10060f114424184983c6104489ff89ee488d542408b81000"
    "0000e9d3fdffff0000000000"
)


def fork_program(network: GuestNetwork, now: int) -> bytes:
    """An executable for x86-64. `now`: seconds since the epoch."""
    data = struct.pack("<QQQQ", now, 0, PAUSE_SECONDS, 0) + _card(network) + _route(network.gateway)
    size = _HEADERS + len(_CODE) + len(data)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    # Executable, x86-64, version, entry, program headers, no section headers, flags, sizes and counts.
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _LOADED_AT + _HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    # Loaded, readable and executable, whole.
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOADED_AT, _LOADED_AT, size, size, 0x1000)
    return ident + header + segment + _CODE + data


def _card(network: GuestNetwork) -> bytes:
    """Hardware address, address and netmask, as three `struct sockaddr`."""
    interface = ipaddress.IPv4Interface(network.address)
    hardware = struct.pack("<H14s", _ETHER, bytes.fromhex(network.mac.replace(":", "")))
    return hardware + _address(interface.ip) + _address(interface.netmask)


def _route(gateway: str) -> bytes:
    """`struct rtentry` of a default route; all zero without a gateway."""
    if not gateway:
        return bytes(120)
    anywhere = _address(ipaddress.IPv4Address(0))
    by_way_of = _address(ipaddress.IPv4Address(gateway))
    return struct.pack("<8x16s16s16sH62x", anywhere, by_way_of, anywhere, _UP | _GATEWAY)


def _address(address: ipaddress.IPv4Address) -> bytes:
    return struct.pack("<HH4s8x", _INET, 0, address.packed)
