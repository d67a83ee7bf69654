"""ansible with its collection community.libvirt, from PyPI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from tests.support.benchmarks.tools.lab import CPU, MACHINE, MEMORY_MIB, NETWORK, overlay_command, remove_files
from tests.support.benchmarks.tools.tool import Command, Tool


class Ansible(Tool):
    """A playbook on this host: overlays, definitions, starts."""

    name = "ansible community.libvirt (ansible 12.3.0)"
    differs = "no seed"

    def prepare(self) -> None:
        pins = ("ansible==12.3.0", "libvirt-python==12.0.0", "lxml==6.0.2")
        self._programs = self.lab.toolbox.install_python("ansible", *pins)

    def command(self, names: Sequence[str]) -> Command:
        machines = [{"name": name, "xml": self._domain(name), "overlay": self._overlay(name)} for name in names]
        loop = {"loop": machines}
        machine = "{{ item.name }}"
        tasks = [
            {"command": "{{ item.overlay }}", **loop},
            {"community.libvirt.virt": {"command": "define", "xml": "{{ item.xml }}"}, **loop},
            {"community.libvirt.virt": {"name": machine, "state": "running"}, **loop},
        ]
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
        file = self.lab.directory("ansible") / "playbook.yaml"
        # JSON is YAML.
        file.write_text(json.dumps([play]), encoding="utf-8")
        python = f"ansible_python_interpreter={self._programs / 'python'}"
        return [str(self._programs / "ansible-playbook"), "-i", "localhost,", "-e", python, str(file)]

    def clean(self, names: Sequence[str]) -> None:
        remove_files([self._disk(name) for name in names])

    def _overlay(self, name: str) -> str:
        return overlay_command(self.lab.base, self._disk(name))

    def _disk(self, name: str) -> Path:
        return self.lab.directory("ansible") / f"{name}.qcow2"

    def _domain(self, name: str) -> str:
        """As small as it gets: what an operator's own template would hold."""
        domain = Element("domain", type="qemu")
        SubElement(domain, "name").text = name
        SubElement(domain, "memory", unit="MiB").text = str(MEMORY_MIB)
        SubElement(domain, "vcpu").text = "1"
        SubElement(SubElement(domain, "os"), "type", arch="x86_64", machine=MACHINE).text = "hvm"
        features = SubElement(domain, "features")
        SubElement(features, "acpi")
        SubElement(features, "apic")
        SubElement(domain, "cpu", mode=CPU)
        devices = SubElement(domain, "devices")
        disk = SubElement(devices, "disk", type="file", device="disk")
        SubElement(disk, "driver", name="qemu", type="qcow2")
        SubElement(disk, "source", file=str(self._disk(name)))
        SubElement(disk, "target", dev="vda", bus="virtio")
        card = SubElement(devices, "interface", type="network")
        SubElement(card, "source", network=NETWORK)
        SubElement(card, "model", type="virtio")
        SubElement(devices, "console", type="pty")
        random = SubElement(devices, "rng", model="virtio")
        SubElement(random, "backend", model="random").text = "/dev/urandom"
        return ElementTree.tostring(domain, encoding="unicode")
