"""Scale set files for micro guests."""

from __future__ import annotations

import subprocess

from tests.support.installation import Installation

# A web server that names its guest, counts its boots on disk and knows its machine.
WEB = """\
#!/bin/sh
mkdir -p /srv/www /etc/boot.d /etc/understudy/fork.d
hostname > /srv/www/index.html
cat > /etc/understudy/fork.d/50-web <<'END'
#!/bin/sh
hostname > /srv/www/index.html
cp /etc/machine-id /srv/www/machine-id
END
chmod +x /etc/understudy/fork.d/50-web
cat > /etc/boot.d/50-web <<'END'
#!/bin/sh
echo boot >> /srv/www/boots
cp /etc/machine-id /srv/www/machine-id
httpd -p 80 -h /srv/www
END
chmod +x /etc/boot.d/50-web
"""


def web_set(
    on: Installation,
    instances: int = 2,
    standby: str = "",
    user_data: str = WEB,
    more: str = "",
    name: str = "web",
    port: int = 8080,
    timeout: str = "2min",
) -> str:
    """YAML of a set of micro guests behind `endpoint:port`."""
    script = "\n".join(f"    {line}" for line in user_data.splitlines())
    pool = f"standby: {standby}\n" if standby else ""
    return f"""\
kind: ScaleSet
name: {name}
image: micro
instances: {instances}
machine: {{vcpus: 1, memory: 128MiB}}
setup:
  timeout: {timeout}
  user_data: |
{script}
readiness:
  - {{http: {{port: 80, path: /, status: 200}}, interval: 1s, failures: 3}}
endpoints:
  - {{name: http, protocol: http, address: {on.endpoint}, listen: {port}, port: 80}}
scale_in: {{policy: newest, drain_timeout: 5s}}
{pool}{more}"""


def room_for(on: Installation, machines: float) -> str:
    """TOML of the limit by which all hosts' memory is as much as so many of these guests have."""
    said = subprocess.run(
        ["virsh", "-c", on.uri, "nodememstats"], capture_output=True, text=True, check=True
    ).stdout
    total = next(int(line.split()[2]) for line in said.splitlines() if line.startswith("total"))
    return f"memory_ratio = {machines * 128 * 1024 / total}\n"


def count_cpus(on: Installation) -> int:
    """Of the host."""
    said = subprocess.run(["virsh", "-c", on.uri, "nodeinfo"], capture_output=True, text=True, check=True).stdout
    return next(int(line.split()[1]) for line in said.splitlines() if line.startswith("CPU(s):"))
