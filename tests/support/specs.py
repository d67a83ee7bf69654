"""Scale set files for micro guests."""

from __future__ import annotations

from tests.support.installation import Installation

# A web server that names its guest, counts its boots on disk and knows its machine.
WEB = """\
#!/bin/sh
mkdir -p /srv/www /etc/boot.d
hostname > /srv/www/index.html
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
