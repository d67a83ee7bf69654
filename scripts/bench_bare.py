"""The yardstick: what an operator would write by hand for one machine; no product code but the documents.

Reads one JSON line with `xml`, `pool`, `base`, `overlay`, `seed`, `seed_file`, `console` and `url`; makes overlay,
seed and domain, starts it, prints the seconds that libvirt's calls took, and ends when `url` answers.
"""

import json
import sys
import time
import urllib.request
from pathlib import Path

import libvirt

job = json.loads(sys.stdin.read())
began = time.monotonic()
connection = libvirt.open("qemu:///system")
pool = connection.storagePoolLookupByName(job["pool"])
base = pool.storageVolLookupByName(job["base"])
pool.createXML(
    f"<volume><name>{job['overlay']}</name><capacity>{base.info()[1]}</capacity>"
    "<target><format type='qcow2'/></target>"
    f"<backingStore><path>{base.path()}</path><format type='qcow2'/></backingStore></volume>"
)
content = Path(job["seed_file"]).read_bytes()
volume = pool.createXML(f"<volume><name>{job['seed']}</name><capacity>{len(content)}</capacity></volume>")
stream = connection.newStream(0)
volume.upload(stream, 0, len(content), 0)
stream.send(content)
stream.finish()
console = Path(job["console"])
console.parent.mkdir(mode=0o700, exist_ok=True)
console.touch(mode=0o600)
connection.defineXML(job["xml"]).create()
print(time.monotonic() - began, flush=True)
while True:
    try:
        with urllib.request.urlopen(job["url"], timeout=0.5) as answer:
            if answer.status == 200:
                break
    except OSError:
        time.sleep(0.01)
