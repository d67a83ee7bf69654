"""A declared secret reaches the guest, and is nowhere else but in its own file: looked for in all there is."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.installation import Installation
from tests.support.specs import WEB, web_set

pytestmark = pytest.mark.guest

TOKEN = "correct-horse-battery-staple"
USER_DATA = WEB + "umask 077; echo '{{ secrets.token }}' > /root/token; echo setup knows {{ secrets.token }}\n"
STEPS = "  secrets: {token: {file: token}}\n  steps:\n  - {run: echo the step says $(cat /root/token)}\n"
HOOKS = "hooks:\n  on_drain: ['cat /root/token; exit 3']\n"


def files_with(directory: Path, secret: str) -> list[str]:
    found = []
    for path in directory.rglob("*"):
        if path.is_file() and secret.encode() in path.read_bytes():
            found.append(path.relative_to(directory).as_posix())
    return found


def command_lines() -> str:
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines.append((entry / "cmdline").read_bytes().decode("utf-8", "replace"))
            except OSError:
                continue
    return "\n".join(lines)


def test_a_declared_secret_is_in_the_guest_and_in_its_file_and_nowhere_else(site: Installation) -> None:
    secret = site.write("token", f"{TOKEN}\n")
    secret.chmod(0o644)
    text = web_set(site, instances=1, user_data=USER_DATA, more=HOOKS)
    site.write("web.yaml", text.replace("readiness:\n", f"{STEPS}readiness:\n"))
    assert "is open to others" in site.run("apply", str(site.root / "web.yaml"), expect=2)
    secret.chmod(0o600)
    said = site.run("apply", str(site.root / "web.yaml"))
    secret.unlink()
    (row,) = site.members("instance")
    assert site.run("ssh", f"web/{row['name']}", "--", "cat /root/token").strip() == TOKEN

    events = site.run("events", "web")
    assert "the step says [secret token]" in events
    virsh = ["virsh", "-c", site.uri]
    xml = subprocess.run([*virsh, "dumpxml", row["domain"]], capture_output=True, text=True, check=True).stdout
    assert TOKEN not in "\n".join((said, events, xml, command_lines(), site.run("status", "web", "--json")))

    # What the guest wrote itself: on its disk and, had it printed there, on its console; and what it had in memory
    # and on disk when a golden image was taken. Nobody else may read it, but QEMU's group the disk that is frozen.
    volumes = site.root / "volumes"
    begins = (f"{row['domain']}.", f"{site.prefix}-golden-")
    kept_of = [path for path in volumes.rglob("*") if path.name.startswith(begins)]
    own = {path.name for path in kept_of}
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept_of} == {0o600, 0o440, 0o400}
    names = [name for name in files_with(site.root, TOKEN) if Path(name).name not in own]
    assert [Path(name).parent.as_posix() for name in names] == ["private/secrets"]
    kept = [path for path in (site.root / "private").rglob("*") if path.suffix != ".pub"]
    assert [path for path in kept if not path.is_socket() and path.stat().st_mode & 0o077] == []
    assert stat.S_IMODE(site.root.stat().st_mode) == 0o711
    assert {stat.S_IMODE((site.root / name).stat().st_mode) for name in ("private", "haproxy")} == {0o700}

    site.run("remove", f"web/{row['name']}")
    failed = site.run("events", "web")
    assert "[secret token]" in failed.rpartition("on_drain")[2]
    assert TOKEN not in failed
    site.run("delete", "web")
    assert files_with(site.root, TOKEN) == []
