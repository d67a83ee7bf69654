"""NoCloud answer files: as files, and read back as cloud-init would."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.models.naming import machine_uuid
from orchestrator.render.seed import GuestIdentity, GuestNetwork, render_seed, render_user_data
from tests.builders import INSTALLATION, make_spec
from tests.golden.golden import assert_golden
from tests.unit.examples import many

KEY = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n"
    "-----END OPENSSH PRIVATE KEY-----\n"
)
NETWORK = GuestNetwork("52:54:00:aa:bb:cc", "192.168.122.50/24", "192.168.122.1", ("192.168.122.1",))
IDENTITY = GuestIdentity(
    instance_id=machine_uuid(INSTALLATION, "web-4tz9k", 2),
    name="web-4tz9k",
    address="192.168.122.50",
    host_key_private=KEY,
    host_key_public="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHostKey",
    operator_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOperator understudy",
    network=NETWORK,
)
FILES = ("meta-data", "network-config", "user-data", "vendor-data")


def seed(user_data: Any = None, identity: GuestIdentity = IDENTITY) -> dict[str, str]:
    spec = make_spec(setup={"user_data": user_data})
    return {name: content.decode() for name, content in render_seed(spec, identity).items()}


def cloud_config(text: str) -> Any:
    header, _, body = text.partition("\n")
    assert header == "#cloud-config"
    return yaml.safe_load(body)


USER_DATA = {
    "packages": ["nginx"],
    "write_files": [
        {"path": "/srv/www/index.html", "content": "<h1>{{ instance.name }}</h1>\nat {{ instance.address }}\n"},
        {"path": "/etc/set", "content": "{{ set.name }}"},
    ],
    "runcmd": [["systemctl", "enable", "--now", "nginx"]],
}


@pytest.mark.parametrize("name", FILES)
def test_a_seed_is_rendered_like_its_golden_files(name: str) -> None:
    assert_golden(f"seed/{name}", seed(USER_DATA)[name])


def test_a_script_is_rendered_like_its_golden_file() -> None:
    script = "#!/bin/sh\nname={{ instance.name }}\necho ${#name} ${name} {% raw %}{{ }}{% endraw %}\n"
    assert_golden("seed/user-data.sh", seed(script)["user-data"])


def test_a_seed_holds_exactly_the_four_files_of_the_contract() -> None:
    assert sorted(seed()) == sorted(FILES)


def test_the_identity_is_the_machines_own() -> None:
    assert yaml.safe_load(seed()["meta-data"]) == {
        "instance-id": IDENTITY.instance_id,
        "local-hostname": "web-4tz9k",
        "public-keys": [IDENTITY.operator_key],
    }


def test_the_host_key_is_injected_and_root_logs_in_by_key_only() -> None:
    vendor = cloud_config(seed()["vendor-data"])
    assert vendor["ssh_keys"] == {"ed25519_private": KEY, "ed25519_public": IDENTITY.host_key_public}
    assert (vendor["ssh_pwauth"], vendor["disable_root"]) == (False, False)


def test_a_private_key_is_a_block_that_small_readers_understand() -> None:
    assert "ed25519_private: |\n    -----BEGIN OPENSSH PRIVATE KEY-----\n" in seed()["vendor-data"]


def test_the_first_card_has_its_fixed_address_and_asks_nobody() -> None:
    assert yaml.safe_load(seed()["network-config"]) == {
        "version": 2,
        "ethernets": {
            "primary": {
                "match": {"macaddress": NETWORK.mac},
                "dhcp4": False,
                "addresses": ["192.168.122.50/24"],
                "routes": [{"to": "0.0.0.0/0", "via": "192.168.122.1"}],
                "nameservers": {"addresses": ["192.168.122.1"]},
            }
        },
    }


def test_a_guest_without_a_way_out_has_neither_route_nor_name_server() -> None:
    closed = replace(IDENTITY, network=GuestNetwork("52:54:00:aa:bb:cc", "10.0.2.15/24"))
    card = yaml.safe_load(seed(identity=closed)["network-config"])["ethernets"]["primary"]
    assert set(card) == {"match", "dhcp4", "addresses"}


def test_user_data_that_is_left_out_is_an_empty_cloud_config() -> None:
    assert cloud_config(seed()["user-data"]) == {}


def test_variables_are_filled_in_wherever_they_stand() -> None:
    files = cloud_config(seed(USER_DATA)["user-data"])["write_files"]
    assert files[0]["content"] == "<h1>web-4tz9k</h1>\nat 192.168.122.50\n"
    assert files[1]["content"] == "web"


def test_a_length_in_a_shell_script_is_no_comment() -> None:
    assert seed("#!/bin/sh\necho ${#name}\n")["user-data"] == "#!/bin/sh\necho ${#name}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#!/bin/sh\necho {{ instance.nmae }}\n", "no attribute 'nmae'"),
        ("#!/bin/sh\necho {{ hostname }}\n", "'hostname' is undefined"),
        ("#!/bin/sh\n\necho {{ name\n", "(line 3)"),
        ("#!/bin/sh\n{% for %}\n", "(line 2)"),
        ("#!/bin/sh\n{{ ''.__class__.__mro__ }}\n", "unsafe"),
    ],
)
def test_a_template_that_cannot_be_filled_in_is_refused_with_the_known_variables(text: str, words: str) -> None:
    with pytest.raises(SpecError) as error:
        render_user_data(make_spec(setup={"user_data": text}), "web-1", "127.77.0.2")
    assert words in error.value.message
    assert "instance.name, instance.address, set.name" in error.value.fix


hostile = st.text(st.characters(codec="utf-8", exclude_characters="{}\r", exclude_categories=["Cs"]), max_size=40)
hostile |= st.sampled_from(
    ["]]>", "a: b", "- x", "#!", "'", '"', "|", "|\n x", " lead", "trail \n", "\n\n", "a\n---\nb", "%YAML 1.1"]
)
hostile |= st.sampled_from(["yes", "null", "~", "1e3", "0x1f", "2024-01-01", "é\u2028\u0085", "\ufeff", "\t"])


@many
@given(st.dictionaries(hostile, hostile | st.lists(hostile, max_size=2), max_size=3))
def test_user_data_comes_out_as_it_was_given(document: dict[str, Any]) -> None:
    keys = {"ssh_keys", "disable_root", "ssh_deletekeys", "manual_cache_clean"}
    given_ = {key: value for key, value in document.items() if key not in keys}
    assert cloud_config(seed(given_)["user-data"]) == given_


@many
@given(hostile)
def test_no_identity_breaks_out_of_its_place(text: str) -> None:
    network = GuestNetwork(text, text, text or "x", (text,))
    hostile_one = GuestIdentity(text, text, text, text, text, text, network)
    files = seed(identity=hostile_one)
    assert yaml.safe_load(files["meta-data"])["local-hostname"] == text
    assert cloud_config(files["vendor-data"])["ssh_keys"]["ed25519_private"] == text
    card = yaml.safe_load(files["network-config"])["ethernets"]["primary"]
    assert (card["addresses"], card["match"]["macaddress"]) == ([text], text)


def test_a_seed_is_the_same_whenever_it_is_rendered() -> None:
    assert seed(USER_DATA) == seed(USER_DATA)


def test_line_ends_of_user_data_are_the_operators() -> None:
    text = "#!/bin/sh\r\necho {{ instance.name }}\r\n"
    made = render_user_data(make_spec(setup={"user_data": text}), "web-1", "127.0.0.2")
    assert made == "#!/bin/sh\r\necho web-1\r\n"
