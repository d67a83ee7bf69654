"""A libvirtd of its own, in its own mount namespace: it may be killed and starved. In a network namespace of its
own it may be given networks too; without, its guests' forwarded ports are those of this machine.

The namespaces have the machine's files, but their own /run, /etc/libvirt, /var/lib/libvirt, /var/log/libvirt and
/var/cache/libvirt. Everything in them ends with the namespace's first process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.installation import wait_until

_PRIVATE = ("/run", "/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")


class PrivateHost:
    """`enter` is put before a command to run it inside; `uri` reaches its libvirtd from outside.

    Without `kvm` there is no /dev/kvm in it, whatever the machine has.
    """

    def __init__(self, directory: Path, own_network: bool = True, kvm: bool = True) -> None:
        self._directory = directory
        self._kvm = kvm
        self._spaces = ["--mount", "--net"] if own_network else ["--mount"]
        socket = directory / str(_PRIVATE.index("/run")) / "libvirt" / "libvirt-sock"
        self.uri = f"qemu+unix:///system?socket={socket}"
        self._keeper: subprocess.Popen[bytes] | None = None
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def keeper(self) -> int:
        """Process id of the namespaces' first process."""
        assert self._keeper is not None
        return self._keeper.pid

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--target={self.keeper}", *self._spaces, "--"]

    def start(self) -> None:
        """Make the namespaces and start virtlogd and libvirtd under a subreaper, as `scripts/libvirtd-up` does."""
        script = ["set -e", "mount --make-rprivate /"]
        for index, path in enumerate(_PRIVATE):
            own = self._directory / str(index)
            own.mkdir(parents=True)
            if path == "/etc/libvirt":
                shutil.copytree(path, own, dirs_exist_ok=True, symlinks=True)
            script.append(f"mkdir -p {path}; mount --bind {own} {path}")
        # The machine's own `default` network would collide with nothing here, but is not ours to start.
        script += ["rm -f /etc/libvirt/qemu/networks/autostart/*", "ip link set lo up"]
        if not self._kvm:
            script += self._hide_kvm()
        ready = self._directory / "ready"
        script += [f"touch {ready}", "exec sleep infinity"]
        # In sessions of their own: what interrupts this process must leave it a host to tidy up.
        self._keeper = subprocess.Popen(
            ["unshare", *self._spaces, "sh", "-c", "\n".join(script)], start_new_session=True
        )
        wait_until(ready.exists, 10, "the namespaces are there")
        self.start_daemon("virtlogd")
        self.start_libvirtd()

    def _hide_kvm(self) -> list[str]:
        """Shell lines. Were it there and of no use, libvirt would ask QEMU anew at each start."""
        layer = self._directory / "dev"
        # The old /dev goes: libvirt moves what is mounted below /dev by name, and must find each once.
        return [
            f"mkdir -p {layer}",
            f"mount -t tmpfs layer {layer}",
            f"mkdir {layer}/upper {layer}/work {layer}/kept",
            f"mount --rbind /dev {layer}/kept",
            "! mountpoint --quiet /dev || umount --recursive --lazy /dev",
            f"mount -t overlay dev -o lowerdir={layer}/kept,upperdir={layer}/upper,workdir={layer}/work /dev",
            *(f"mount --bind {layer}/kept/{name} /dev/{name}" for name in ("pts", "shm")),
            "rm -f /dev/kvm",
        ]

    def start_libvirtd(self) -> None:
        self.start_daemon("libvirtd")
        wait_until(self._answers, 30, "the private libvirtd answers")

    def stop_libvirtd(self) -> None:
        """As an upgrade of the package does; guests go on."""
        self.end_daemon("libvirtd")

    def signal_libvirtd(self, number: signal.Signals) -> None:
        """Past the subreaper, to libvirtd itself; guests go on."""
        reaper = self._daemons["libvirtd"]
        (child,) = Path(f"/proc/{reaper.pid}/task/{reaper.pid}/children").read_text().split()[:1]
        os.kill(int(child), number)
        if number is signal.SIGKILL:
            self._daemons.pop("libvirtd").wait(timeout=30)

    def _answers(self) -> bool:
        command = [*self.enter, "virsh", "-c", "qemu:///system", "version"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def start_daemon(self, name: str) -> None:
        log = (self._directory / f"{name}.log").open("ab")
        with log:
            self._daemons[name] = subprocess.Popen(
                [*self.enter, "tini", "-s", "--", name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end_daemon(self, name: str) -> None:
        process = self._daemons.pop(name, None)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)

    def path(self, inside: str) -> Path:
        """Of a file in one of its own directories, from outside."""
        top = next(one for one in _PRIVATE if inside.startswith(f"{one}/"))
        return self._directory / str(_PRIVATE.index(top)) / inside.removeprefix(f"{top}/")

    def run(self, *command: str) -> str:
        return subprocess.run([*self.enter, *command], capture_output=True, text=True, check=True).stdout

    def stop(self) -> None:
        """Machines first, then daemons, then the namespaces."""
        if self._keeper is None:
            return
        if "libvirtd" not in self._daemons:
            self.start_libvirtd()
        with contextlib.suppress(subprocess.CalledProcessError):
            for name in self.run("virsh", "-q", "-c", "qemu:///system", "list", "--name").split():
                self.run("virsh", "-c", "qemu:///system", "destroy", name)
        with contextlib.suppress(subprocess.CalledProcessError):
            for name in self.run("virsh", "-q", "-c", "qemu:///system", "net-list", "--name").split():
                self.run("virsh", "-c", "qemu:///system", "net-destroy", name)
        for name in ("libvirtd", "virtlogd"):
            self.end_daemon(name)
        self._kill_inhabitants()
        self._keeper.kill()
        self._keeper.wait(timeout=10)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _kill_inhabitants(self) -> None:
        """Processes still in our namespace, such as dnsmasq: only those, by their namespace."""
        assert self._keeper is not None
        space = "net" if "--net" in self._spaces else "mnt"
        ours = Path(f"/proc/{self._keeper.pid}/ns/{space}").readlink()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self._keeper.pid:
                with contextlib.suppress(OSError):
                    if (entry / "ns" / space).readlink() == ours:
                        os.kill(int(entry.name), signal.SIGKILL)


@contextlib.contextmanager
def private_host(own_network: bool = True) -> Iterator[PrivateHost]:
    """A running private host, removed at the end."""
    host = PrivateHost(Path("/var/tmp") / f"understudy-host-{secrets.token_hex(4)}", own_network)
    try:
        host.start()
        yield host
    finally:
        host.stop()
