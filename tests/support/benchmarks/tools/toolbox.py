"""Where tools are installed: a mount namespace whose system directories are overlays in memory. Debian's packages
are put there as usual, and nothing of them is left when the namespace ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.installation import wait_until
from tests.support.private_host import PrivateHost

INSTALL_SECONDS = 600
_OVERLAID = ("/usr", "/etc", "/var/lib", "/var/cache")
# The private host's own, which the overlay would hide.
_KEPT = ("/var/lib/libvirt",)


class NotMeasured(Exception):
    """A tool that cannot be installed, or does not do it here; the message says why in one line."""


class Toolbox:
    """`enter` is put before a command to run it with the tools, in the private host's network."""

    def __init__(self, root: Path, host: PrivateHost) -> None:
        self._root = root
        self._host = host
        self._keeper: subprocess.Popen[bytes] | None = None
        self._lists_are_read = False
        self.home = root / "home"

    @property
    def enter(self) -> list[str]:
        assert self._keeper is not None
        spaces = [f"--mount=/proc/{self._keeper.pid}/ns/mnt", f"--net=/proc/{self._host.keeper}/ns/net"]
        return ["nsenter", *spaces, "--", "env", f"HOME={self.home}", "LC_ALL=C.UTF-8"]

    def start(self) -> None:
        self.home.mkdir()
        layers, ready = self._root / "layers", self._root / "toolbox-ready"
        script = ["set -e", f"mkdir -p {layers}", f"mount -t tmpfs layers {layers}"]
        for path in _KEPT:
            script += [f"mkdir -p {layers}{path}-kept", f"mount --rbind {path} {layers}{path}-kept"]
        for path in _OVERLAID:
            script += [
                f"mkdir -p {layers}{path} {layers}{path}-work",
                f"mount -t overlay tools -o {_layers(path, layers)} {path}",
            ]
        script += [f"mount --rbind {layers}{path}-kept {path}" for path in _KEPT]
        # /run is the private host's, and resolvers like to keep their answer there.
        names = Path("/etc/resolv.conf").read_text(encoding="utf-8")
        script += ["rm -f /etc/resolv.conf", f"printf %s {_quoted(names)} > /etc/resolv.conf"]
        script += [f"touch {ready}", "exec sleep infinity"]
        inside = ["nsenter", f"--mount=/proc/{self._host.keeper}/ns/mnt", "--", "unshare", "--mount"]
        self._keeper = subprocess.Popen([*inside, "sh", "-c", "\n".join(script)], start_new_session=True)
        wait_until(ready.exists, 10, "the toolbox is there")

    def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.wait(timeout=10)

    def install_packages(self, *names: str) -> None:
        """Of Debian, with versions as apt takes them. Raises NotMeasured."""
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        if not self._lists_are_read:
            self._install(["apt-get", "-q", "update"], environment)
            self._lists_are_read = True
        options = ["-q", "-y", "--no-install-recommends", "-o", "APT::Sandbox::User=root"]
        self._install(["apt-get", *options, "install", *names], environment)

    def install_python(self, name: str, *requirements: str) -> Path:
        """A virtual environment with pinned packages; its directory of programs. Raises NotMeasured."""
        place = self._root / "layers" / "venvs" / name
        self._install(["/usr/bin/python3", "-m", "venv", str(place)], {})
        # What is compiled for one tool is there for the next, and gone with the lab.
        cache = {"PIP_CACHE_DIR": str(self._root / "pip-cache"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        self._install([str(place / "bin" / "pip"), "install", "--no-input", "-q", *requirements], cache)
        return place / "bin"

    def _install(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """In the machine's own network: the private host's has no way out."""
        assert self._keeper is not None
        try:
            done = subprocess.run(
                ["nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", "--", *command],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise NotMeasured(f"not installed after {INSTALL_SECONDS} s: {' '.join(command[:2])}") from None
        if done.returncode != 0:
            raise NotMeasured(f"cannot be installed: {_last_line(done.stderr or done.stdout)}")

    def run(self, *command: str, seconds: float = 120) -> str:
        """Raises NotMeasured with the last line of what it said."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                [*self.enter, *command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
            if done.returncode == 0:
                return done.stdout
            raise NotMeasured(f"{command[0]} failed: {_last_line(done.stderr or done.stdout)}")
        raise NotMeasured(f"{command[0]} did not end within {seconds:g} s")


def _layers(path: str, layers: Path) -> str:
    return f"lowerdir={path},upperdir={layers}{path},workdir={layers}{path}-work"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def toolbox(root: Path, host: PrivateHost) -> Iterator[Toolbox]:
    made = Toolbox(root, host)
    try:
        made.start()
        yield made
    finally:
        made.stop()
