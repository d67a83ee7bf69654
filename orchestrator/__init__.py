"""Understudy: scale sets, standby pools and self-healing for virtual machines on libvirt/QEMU.

The folders are the rooms; imports point one way, from the command line down to the core
(see `docs/architecture.md`).
"""

__version__ = "0.1.0"
