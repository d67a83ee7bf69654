"""Whatever stands in a scale set file or an argument: it is refused, or it stays in its place.

Each case puts hostile text at one place of a complete, valid set. If the set is still accepted, every document
that is made of it must have the shape it has without that text. `UNDERSTUDY_EXAMPLES=5000` makes a long search.
"""

from __future__ import annotations

import copy
import io
import re
import shlex
import string
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import pycdlib
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.apply.addressing import user_addressing
from orchestrator.apply.machines import hardware_of
from orchestrator.config.resources import template
from orchestrator.config.scaleset_file import load_scale_sets
from orchestrator.config.settings import load_settings
from orchestrator.config.uploads import pack_uploads, upload_archive
from orchestrator.drivers.http_download import parse_address
from orchestrator.drivers.seed_iso import IsoSeedWriter
from orchestrator.errors import SpecError, UnderstudyError
from orchestrator.imaging.importing import check_name
from orchestrator.lifecycle.telling import tell_script
from orchestrator.models.balancing import BalancerConfig
from orchestrator.models.machine import Blueprint
from orchestrator.models.members import GuestPhase
from orchestrator.models.naming import (
    console_log,
    domain_name,
    drive_volume,
    local_volume,
    overlay_volume,
    seed_volume,
)
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.planner.balancer import desired_balancer
from orchestrator.render.domain import MachineFiles, render_domain
from orchestrator.render.haproxy import HaproxyProcess, render_haproxy
from orchestrator.render.seed import GuestIdentity, render_seed
from tests.builders import (
    INSTALLATION,
    PREFIX,
    make_image,
    make_member,
    make_set,
    see_host,
    see_machine,
    see_world,
    wish,
)
from tests.unit.examples import many

with_folder = settings(many, suppress_health_check=[*HealthCheck])

PLAIN: dict[str, Any] = {
    "kind": "ScaleSet",
    "name": "web",
    "image": "micro",
    "machine": {"vcpus": 1, "memory": "128MiB", "disk": "1GiB", "firmware": "bios", "disk_bus": "virtio"},
    "local_storage": {"size": "1GiB", "mount": "/mnt/local"},
    "drives": [{"name": "data", "size": "1GiB", "mount": "/mnt/data"}],
    "setup": {
        "user_data": {"runcmd": ["a word"], "write_files": [{"path": "/srv/x", "content": "text"}]},
        "steps": [{"run": "true"}],
        "timeout": "1min",
    },
    "readiness": [{"http": {"port": 80, "path": "/", "status": 200}, "interval": "1s"}, {"command": "true"}],
    "endpoints": [{"name": "http", "protocol": "http", "address": "127.0.0.1", "listen": 8080, "port": 80}],
    "standby": {"state": "stopped", "max_ready": 2},
    "zones": ["a"],
    "scale_in": {"policy": "newest", "drain_timeout": "5s"},
    "hooks": {"on_claim": ["true"], "on_drain": ["true"], "timeout": "5s"},
}

ATTACKS = [
    "x\nglobal\n    daemon",
    "/\n    server evil 127.0.0.1:22",
    "x'; touch /tmp/pwned; '",
    "$(touch /tmp/pwned)",
    "`id`",
    "/ if { env(HOME) -m found }",
    "/a b",
    '/"$HOME"',
    "/\\\n",
    "</source><disk>",
    "]]><!--",
    '"><evil a="',
    "&xxe;",
    "a,hostfwd=tcp:0.0.0.0:22-:22",
    "a,restrict=off",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "a/b",
    "a\0b",
    "web\n",
    "\nweb",
    "web ",
    "{{ 7 * 7 }}",
    "{% include '/etc/passwd' %}",
    "{{ ''.__class__.__mro__ }}",
    "!!python/object/apply:os.system ['id']",
    "*a",
    "a: b\n- c",
    "#cloud-config\nssh_keys: {}",
    "json:{}",
    "nbd://127.0.0.1/x",
    "\u202eweb",
    "ｗｅｂ",
    "١",
    "",
]
pieces = st.sampled_from([*ATTACKS, *string.printable, "web", "127.0.0.1", "/srv", "1GiB", "80"])
paths = st.lists(st.sampled_from(["/", "//", "..", ".", "a", "etc", " ", "\\", "~", "%2e", "\n"]), max_size=8).map(
    "".join
)
hostile = st.sampled_from(ATTACKS) | st.lists(pieces, max_size=4).map("".join) | st.text(max_size=20)


def places(node: Any, where: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in a document a value stands that is no mapping and no list."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from places(value, (*where, key))
    else:
        yield where


PLACES = sorted(places(PLAIN), key=str)


def with_text(where: tuple[str | int, ...], text: str) -> dict[str, Any]:
    document = copy.deepcopy(PLAIN)
    node: Any = document
    for part in where[:-1]:
        node = node[part]
    node[where[-1]] = text
    return document


def accepted(where: tuple[str | int, ...], text: str) -> ScaleSetSpec | None:
    """The set with that text at one place; None where it is refused."""
    try:
        return ScaleSetSpec.model_validate(with_text(where, text))
    except ValueError:
        return None


@st.composite
def sets(draw: st.DrawFn) -> ScaleSetSpec | None:
    """With hostile text at one place; None where it is refused."""
    return accepted(draw(st.sampled_from(PLACES)), draw(hostile))


# ---- documents -----------------------------------------------------------------------------------------------


def balancer_of(spec: ScaleSetSpec) -> BalancerConfig:
    wanted = make_set(spec)
    members = [make_member(wanted), make_member(wanted, "00002")]
    world = see_world(see_host(*(see_machine(member) for member in members)))
    return desired_balancer(wish(wanted, members=members), world)


def haproxy_of(spec: ScaleSetSpec) -> list[str]:
    """The lines, without their arguments where these are the operator's."""
    process = HaproxyProcess("/run/u/stats.sock", "/run/u/haproxy.pid", "/run/u/servers.state")
    return render_haproxy(template("haproxy.cfg.j2"), balancer_of(spec), process).splitlines()


WORD = r"[!$-&(-\[\]-~]+"
NAME = r"[a-z0-9.-]+"
LINES = re.compile(
    "|".join(
        [
            r"",
            r" *# [^\n]*",
            r"global|defaults",
            rf"frontend f\.{NAME}|backend {NAME}|    default_backend {NAME}",
            r"    mode (http|tcp)",
            r"    bind \d+\.\d+\.\d+\.\d+:\d+",
            r"    balance roundrobin",
            r"    retry-on conn-failure empty-response|    http-request disable-l7-retry unless METH_GET",
            r"    option (forwardfor|dontlognull|redispatch 1|idle-close-on-response)",
            r"    server-state-file /run/u/servers\.state|    load-server-state-from-file global",
            rf"    option httpchk GET /(?:{WORD})?",
            r"    http-check expect status \d{3}",
            r"    default-server check inter \d+ fastinter \d+ downinter \d+ fall \d+ rise 1 observe layer4 "
            r"error-limit 1 on-error mark-down",
            rf"    server {NAME} \d+\.\d+\.\d+\.\d+:\d+( disabled| weight 0)?",
            r"    (stats|timeout|maxconn|hard-stop-after|retries) [^\n]*",
        ]
    )
)


def check_haproxy(spec: ScaleSetSpec) -> None:
    """No directive gets into HAProxy's configuration."""
    lines = haproxy_of(spec)
    assert [line for line in lines if not LINES.fullmatch(line)] == []
    heads = [line.split()[0] for line in lines if line.strip()]
    for word in ("global", "defaults", "frontend", "backend", "bind"):
        assert heads.count(word) == 1
    assert heads.count("server") == 2


def domain_of(spec: ScaleSetSpec) -> ElementTree.Element:
    member = make_member(make_set(spec))
    blueprint = Blueprint(
        domain=domain_name(PREFIX, member.name),
        uuid="5b1c1c1e-0000-4000-8000-000000000001",
        member=member.name,
        set_name=spec.name,
        installation=INSTALLATION,
        incarnation=1,
        model=member.model,
        vcpus=spec.machine.vcpus,
        memory=spec.machine.memory,
        disk=spec.machine.disk,
        image=make_image(name=spec.image.partition(":")[0]),
        nic=user_addressing("127.77.0.0/16", outbound=False).nic(member, spec),
        hardware=hardware_of(spec),
    )
    files = MachineFiles("/v/base", f"/v/{overlay_volume(blueprint.domain, 1)}", "", "/v/console")
    return ElementTree.fromstring(render_domain(blueprint, files, "tcg"))


def shape(element: ElementTree.Element) -> Any:
    return element.tag, sorted(element.attrib), [shape(child) for child in element]


def check_domain(spec: ScaleSetSpec) -> None:
    """No element and no option gets into a domain."""
    usual = ScaleSetSpec.model_validate(
        {
            **PLAIN,
            "machine": {**PLAIN["machine"], **spec.machine.model_dump(include={"firmware", "disk_bus", "nic"})},
        }
    )
    made = domain_of(spec)
    assert shape(made) == shape(domain_of(usual))
    arguments = [one.get("value", "") for one in made.iter("{http://libvirt.org/schemas/domain/qemu/1.0}arg")]
    options = arguments[1].split(",")
    assert options[:4] == ["user", "id=understudy0", "restrict=on", "ipv6=off"]
    assert all(re.fullmatch(r"hostfwd=tcp:127\.77\.\d+\.\d+:\d+-:\d+", one) for one in options[4:])
    assert len(options) - 4 == len(spec.guest_ports())


def seed_of(spec: ScaleSetSpec) -> dict[str, bytes]:
    member = make_member(make_set(spec))
    network = user_addressing("127.77.0.0/16", outbound=False).guest_network(member)
    identity = GuestIdentity(
        "i-1", member.name, member.address, "PRIVATE", "ssh-ed25519 AAAA", "ssh-ed25519 op", network
    )
    return render_seed(spec, identity)


def check_seed(spec: ScaleSetSpec) -> None:
    """A seed says of its guest what we say."""
    try:
        files = seed_of(spec)
    except SpecError:
        return  # user data that is no template
    assert sorted(files) == ["meta-data", "network-config", "user-data", "vendor-data"]
    assert yaml.safe_load(files["meta-data"]) == {
        "instance-id": "i-1",
        "local-hostname": f"{spec.name}-00001",
        "public-keys": ["ssh-ed25519 op"],
    }
    assert sorted(yaml.safe_load(files["vendor-data"])) == sorted(
        ["ssh_keys", "ssh_pwauth", "disable_root", "manage_etc_hosts", "manual_cache_clean"]
    )
    user = files["user-data"].decode()
    assert user.startswith(("#cloud-config\n", "#!", "#cloud-config"))
    if isinstance(spec.setup.user_data, dict):
        assert yaml.safe_load(user).keys() == spec.setup.user_data.keys()


contents = st.binary(max_size=5000) | hostile.map(lambda text: text.encode("utf-8", "replace"))
NAMES = ("meta-data", "user-data", "vendor-data", "network-config", "unattend.xml", "Autounattend.xml")


@many
@given(st.dictionaries(st.sampled_from(NAMES), contents, max_size=6), st.sampled_from(["cidata", "UNATTEND"]))
def test_a_seed_holds_the_very_bytes_it_was_given(files: dict[str, bytes], label: str) -> None:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(IsoSeedWriter().write(label, files)))
    try:
        assert iso.pvd.volume_identifier.decode().rstrip() == label
        found = {}
        for child in iso.list_children(joliet_path="/"):
            if child.is_file():
                name = child.file_identifier().decode("utf-16_be")
                out = io.BytesIO()
                iso.get_file_from_iso_fp(out, joliet_path=f"/{name}")
                found[name] = out.getvalue()
        assert found == files
    finally:
        iso.close()


# ---- names and paths -----------------------------------------------------------------------------------------


def is_plain_name(name: str) -> bool:
    """One component of a path that stays where it is put, and needs no quotes in any shell."""
    return PurePosixPath(name).name == name and name not in ("", ".", "..") and shlex.quote(name) == name


def check_names(spec: ScaleSetSpec) -> None:
    """No name leaves its directory."""
    domain = domain_name(PREFIX, f"{spec.name}-00001")
    names = [domain, *(make(domain, 1) for make in (overlay_volume, seed_volume, console_log))]
    names += [drive_volume(PREFIX, spec.name, drive.name, 1) for drive in spec.drives]
    names.append(local_volume(PREFIX, f"{spec.name}-00001", 1))
    names += [endpoint.name for endpoint in spec.endpoints]
    assert [name for name in names if not is_plain_name(name)] == []
    assert is_plain_name(spec.image.partition(":")[0])


@many
@given(hostile)
def test_an_image_s_name_is_a_name_or_refused(name: str) -> None:
    try:
        check_name(name)
    except SpecError:
        return
    assert is_plain_name(name)


@with_folder
@given(to=hostile | paths | paths.map(lambda path: f"/{path}"))
def test_an_upload_stays_below_the_guest_s_root_and_in_the_store(tmp_path: Path, to: str) -> None:
    folder = tmp_path / "set"
    store = tmp_path / "uploads"
    for path in (folder, store):
        path.mkdir(exist_ok=True)
    (folder / "site").write_text("x", encoding="utf-8")
    document = {**PLAIN, "setup": {"steps": [{"upload": {"from": "site", "to": to}}]}}
    file = folder / "web.yaml"
    before = sorted(path for path in tmp_path.rglob("*") if path != file)
    try:
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        (spec,) = load_scale_sets(file)
        packed = pack_uploads(spec, store)
    except (SpecError, yaml.YAMLError):
        return
    upload = packed.setup.steps[0].upload
    assert upload is not None
    assert upload.digest is not None
    archive = upload_archive(store, upload.digest)
    after = sorted(path for path in tmp_path.rglob("*") if path != file)
    assert set(after) - set(before) <= {archive}
    assert archive.parent == store
    with tarfile.open(archive) as made:
        for name in made.getnames():
            assert not name.startswith("/")
            assert ".." not in PurePosixPath(name).parts


@many
@given(
    hostile | hostile.map(lambda text: f"http://127.0.0.1/{text}") | hostile.map(lambda text: f"https://{text}/x")
)
def test_an_address_is_one_of_the_web_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except UnderstudyError:
        return
    assert address.url.startswith(("http://", "https://"))
    assert re.fullmatch(r"[!-~]+", address.url)
    assert "@" not in address.host
    assert "@" not in address.url.split("/")[2]


@with_folder
@given(text=st.sampled_from(["prefix = '{}'", "[network]\nname = '{}'", "[[hosts]]\nname = '{}'"]), value=hostile)
def test_settings_that_name_things_are_names_or_refused(tmp_path: Path, text: str, value: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(text.format(value).encode("utf-8", "replace"))
    try:
        made = load_settings(file)
    except SpecError:
        return
    assert is_plain_name(made.prefix)
    assert all(is_plain_name(host.name) for host in made.hosts)


@pytest.mark.parametrize("phase", list(GuestPhase))
def test_what_tells_a_guest_its_phase_is_our_own_script(phase: GuestPhase) -> None:
    assert re.fullmatch(r"[a-z_]+", phase.value)
    assert f"printf '{phase.value}\\n'" in tell_script(phase)


# ---- every document of every set -------------------------------------------------------------------------------


def check_all(spec: ScaleSetSpec | None) -> None:
    if spec is not None:
        for check in (check_haproxy, check_domain, check_seed, check_names):
            check(spec)


@many
@given(sets())
def test_hostile_text_stays_in_its_place(spec: ScaleSetSpec | None) -> None:
    check_all(spec)


@pytest.mark.parametrize("where", PLACES, ids=lambda where: ".".join(map(str, where)))
def test_each_known_attack_at_each_place(where: tuple[str | int, ...]) -> None:
    for text in ATTACKS:
        check_all(accepted(where, text))
