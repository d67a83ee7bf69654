"""Forking a machine: it goes on from the memory of another, under its own name, with its link down.

Until its link is let up a fork is transient: libvirt keeps no definition of it, so that nothing can start it again
with the identity of the golden image.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import libvirt

from orchestrator.drivers.libvirt.cards import Cards, set_link
from orchestrator.drivers.libvirt.connection import LibvirtConnection
from orchestrator.drivers.libvirt.disks import LibvirtDisks
from orchestrator.drivers.libvirt.golden import Goldens
from orchestrator.drivers.libvirt.golden_files import Golden
from orchestrator.drivers.libvirt.ownership import find_owner_text
from orchestrator.drivers.libvirt.save_image import copy_save_image, read_save_image
from orchestrator.drivers.libvirt.turnstile import Turnstile
from orchestrator.drivers.libvirt.volumes import Volumes
from orchestrator.errors import GoldenUnusable
from orchestrator.models.machine import Blueprint
from orchestrator.models.naming import fork_memory
from orchestrator.render.card import render_bare
from orchestrator.render.fork import render_fork, render_kept
from orchestrator.render.owner import parse_owner

_OTHERS_SECONDS = 1.0  # that a fork waits, paused, for others whose memory is being read
_KEPT = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_MIGRATABLE | libvirt.VIR_DOMAIN_XML_SECURE


class Forks:
    def __init__(
        self, connection: LibvirtConnection, volumes: Volumes, disks: LibvirtDisks, goldens: Goldens, cards: Cards
    ) -> None:
        self._connection = connection
        self._volumes = volumes
        self._disks = disks
        self._goldens = goldens
        self._cards = cards
        self._restoring = Turnstile()

    def go_on(self, blueprint: Blueprint, golden: Golden, document: str) -> None:
        """`document`: its definition, without further disks. Raises GoldenUnusable; whoever calls cleans up."""
        image, nic = read_save_image(golden.memory), blueprint.nic
        if nic.network:
            document = render_bare(document, nic, blueprint.member)
        own = replace(image, xml=render_fork(image.xml, document))
        self._goldens.check_space(golden.memory.stat().st_size)
        copy = self._volumes.directory / fork_memory(blueprint.domain, blueprint.incarnation)
        try:
            with self._restoring.inside():
                copy_save_image(golden.memory, copy, own)
                self._connection.get().restoreFlags(str(copy), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)
        finally:
            copy.unlink(missing_ok=True)
        domain = self._connection.get().lookupByName(blueprint.domain)
        set_link(domain, up=False)
        if blueprint.disks and not self._disks.attach(blueprint.domain, blueprint.disks, blueprint.hardware):
            raise GoldenUnusable(f"{blueprint.domain} takes no further disks while it runs")
        self._restoring.await_empty(_OTHERS_SECONDS)
        domain.resume()

    def let_up(self, domain: Any) -> None:
        """From now on it is kept: defined, and on the network. Idempotent."""
        self._cards.put_filter(domain)
        if not domain.isPersistent():
            self._connection.get().defineXML(render_kept(domain.XMLDesc(_KEPT)))
        set_link(domain, up=True)
        # It was told its address: it asks nobody for one.
        self._cards.reserve(domain)


def is_fork(domain: Any) -> bool:
    """By its tag."""
    text = find_owner_text(domain)
    tag = parse_owner(text) if text is not None else None
    return tag is not None and tag.forked


def is_nobody(domain: Any) -> bool:
    """A fork whose link was never up. One that is gone by now is nobody, too."""
    with contextlib.suppress(libvirt.libvirtError):
        return not domain.isPersistent()
    return True
