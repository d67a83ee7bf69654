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

_CODE = bytes.fromhex(
    "4c8d6424104881ecc00000004989e131ff4c89cebab800000031c00f05418981b800000031db498b04244885c074710fb600498b"
    "7c2408498b74241031d24531c041bd040000003c7474693c670f84940000003c660f84af0000003c640f84070100003c6d0f841a"
    "0100003c6c0f84250100003c720f844a0100003c620f84580100003c630f849b0100003c730f84640100003c700f846f010000bb"
    "4000000089dfb83c0000000f050f054885c079034409ebc34983c40841bd010000004181b9b8000000b8000000751431ff4c89ce"
    "b8e3000000e8cfffffffe947ffffff4409ebe93fffffff4983c40841bd02000000bf01000000be07520000b810000000e8a4ffff"
    "ffe91cffffff4983c4104531edbe01020000b802000000e889ffffff4885c00f88fdfeffff89c54881ec0002000041bd04000000"
    "4889e7be00020000b83e010000e85fffffff89ef4889e6ba00020000b801000000e84bffffff4881c400020000e9bcfeffff4983"
    "c4104531edbeed010000b853000000e829ffffffe9a1feffff4983c418b852000000e816ffffffe98efeffff4983c41857564889"
    "f74531edb857000000e8fbfeffff5e5f41bd04000000b858000000e8e9feffffe961feffff4983c4104531edb857000000e8d3fe"
    "ffffe94bfeffff4983c4184531ed41ba00100000b8a5000000e8b7feffffe92ffeffff4983c408b8a2000000e8a4feffffe91cfe"
    "ffff4983c408488d3dfb00000031f6b823000000e888feffffe900feffff4983c41041bd080000004181b9b8000000b80000000f"
    "859efeffff4989fe4883ec2831c048890424488944240848894424104889442418488944242031c9418a040e84c0740a88040cff"
    "c183f90f72eebf02000000be02000000b829000000e81ffeffff4189c74d8d7110bd24890000e851000000bd16890000e8470000"
    "00bd1c890000e83d0000004883c428498d514066837a18000f8464fdffff4489ffbe0b890000b8100000000f054883f8ef0f844b"
    "fdffff4885c00f8942fdffff4409ebe93afdffff410f10060f114424184983c6104489ff89ee488d542408b810000000e99cfdff"
    "ff0000000a000000000000000000000000000000"
)


def fork_program() -> bytes:
    """An executable for x86-64; it lies in the source of a golden image, and so in every fork."""
    size = _HEADERS + len(_CODE)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    # Executable, x86-64, version, entry, program headers, no section headers, flags, sizes and counts.
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _LOADED_AT + _HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    # Loaded, readable and executable, whole.
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOADED_AT, _LOADED_AT, size, size, 0x1000)
    return ident + header + segment + _CODE


def fork_values(network: GuestNetwork, now: int) -> bytes:
    """What it reads from its standard input, 184 bytes. `now`: seconds since the epoch."""
    return struct.pack("<QQ", now, 0) + _card(network) + _route(network.gateway)


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
