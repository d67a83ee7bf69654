"""The declared scale set: what is refused, what shapes a machine, and its round trip through JSON."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.models.spec import ScaleSetSpec, model_digest
from tests.builders import GIB, MIB, make_spec
from tests.unit.examples import many

FULL: dict[str, Any] = {
    "kind": "ScaleSet",
    "name": "web",
    "image": "debian-12:3",
    "instances": 4,
    "machine": {"vcpus": 2, "memory": "1GiB", "disk": "4GiB", "firmware": "bios"},
    "setup": {
        "answer_file": "cloud-init",
        "user_data": {"packages": ["nginx"], "runcmd": [["systemctl", "start", "nginx"]]},
        "timeout": "10min",
        "steps": [{"upload": {"from": "/srv/site/", "to": "/srv/www", "digest": "ab" * 32}}, {"run": "true"}],
    },
    "readiness": [
        {"http": {"port": 80, "path": "/up", "status": 204}, "interval": "250ms", "failures": 5},
        {"tcp": {"port": 22}},
        {"command": "systemctl is-active web"},
    ],
    "endpoints": [
        {"name": "http", "protocol": "http", "address": "127.0.0.1", "listen": 8080, "port": 80},
        {"name": "tls", "protocol": "tcp", "address": "127.0.0.2", "listen": 8443, "port": 443},
    ],
    "standby": {"state": "running", "max_ready": 20, "min_ready": 2},
    "scale_in": {"policy": "oldest", "drain_timeout": "30s"},
    "update": {"max_surge": "25%", "max_unavailable": 1},
}


def complaint(**fields: Any) -> str:
    with pytest.raises(ValidationError) as error:
        make_spec(**fields)
    return str(error.value)


# ---- round trip ----------------------------------------------------------------------------------------------


def test_every_key_survives_json() -> None:
    spec = ScaleSetSpec.model_validate(FULL)
    assert ScaleSetSpec.model_validate_json(spec.to_json()) == spec


names = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
ports = st.integers(1, 65535)
sizes = st.builds("{}{}".format, st.integers(32, 4096), st.sampled_from(["MiB", "GiB"]))
durations = st.builds("{}{}".format, st.integers(1, 5000), st.sampled_from(["ms", "s", "min", "h"]))
data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
specs = st.fixed_dictionaries(
    {"name": names, "image": names},
    optional={
        "instances": st.integers(0, 1000),
        "machine": st.fixed_dictionaries({}, optional={"memory": sizes, "disk": sizes}),
        "setup": st.fixed_dictionaries(
            {},
            optional={
                "timeout": durations,
                "user_data": st.dictionaries(names, data, max_size=3)
                | st.text(st.characters(codec="utf-8")).map("#!/bin/sh\n{}".format),
                "steps": st.lists(st.fixed_dictionaries({"run": st.text(min_size=1, max_size=9)}), max_size=2),
            },
        ),
        "readiness": st.lists(
            st.fixed_dictionaries(
                {"http": st.fixed_dictionaries({"port": ports}, optional={"path": st.just("/up")})},
                optional={"interval": durations, "failures": st.integers(1, 9)},
            ),
            max_size=2,
        ),
        "standby": st.fixed_dictionaries(
            {"max_ready": st.integers(3, 50), "min_ready": st.integers(0, 3)},
            optional={"state": st.sampled_from(["running", "stopped"])},
        ),
    },
)


@many
@given(specs)
def test_any_spec_survives_json_with_the_same_model(fields: dict[str, Any]) -> None:
    spec = ScaleSetSpec.model_validate(fields)
    text = spec.to_json()
    again = ScaleSetSpec.model_validate_json(text)
    assert again == spec
    assert again.to_json() == text
    assert model_digest(again, "d1") == model_digest(spec, "d1")


# ---- the model -----------------------------------------------------------------------------------------------


def digest(**fields: Any) -> str:
    return model_digest(make_spec(**fields), "d1")


def test_a_model_is_a_short_digest_that_stays_the_same_in_every_process() -> None:
    # Stored with every member: a change of this value makes every pool stale once.
    assert model_digest(ScaleSetSpec.model_validate(FULL), "d1") == "8960e02f2055bddb"


@pytest.mark.parametrize(
    "fields",
    [
        {"instances": 7},
        {"standby": {"max_ready": 9}},
        {"scale_in": {"policy": "oldest"}},
        {"update": {"max_surge": 4, "max_unavailable": "10%"}},
        {"setup": {"timeout": "1h"}},
        {"setup": {"fork": True}},
        {"setup": {"fork": False}},
        {"readiness": [{"http": {"port": 80}}]},
        {"readiness": [{"command": "true"}]},
        {"endpoints": [{"name": "other", "address": "127.0.0.9", "listen": 9, "port": 80}]},
    ],
)
def test_what_does_not_shape_a_machine_does_not_change_the_model(fields: dict[str, Any]) -> None:
    assert digest(**fields) == digest()


@pytest.mark.parametrize(
    "fields",
    [
        {"machine": {"memory": "256MiB"}},
        {"machine": {"memory": "128MiB", "vcpus": 2}},
        {"machine": {"memory": "128MiB", "disk": "1GiB"}},
        {"setup": {"user_data": {"packages": ["nginx"]}}},
        {"setup": {"steps": [{"run": "true"}]}},
        {"endpoints": [{"name": "http", "listen": 8080, "port": 81}]},
        {"readiness": [{"tcp": {"port": 81}}]},
    ],
)
def test_what_shapes_a_machine_changes_the_model(fields: dict[str, Any]) -> None:
    assert digest(**fields) != digest()


def test_another_image_is_another_model() -> None:
    assert model_digest(make_spec(), "d1") != model_digest(make_spec(), "d2")


# ---- what is refused -----------------------------------------------------------------------------------------


def test_defaults_make_a_small_machine_that_is_set_up_by_cloud_init() -> None:
    spec = ScaleSetSpec.model_validate({"name": "web", "image": "micro"})
    assert (spec.instances, spec.machine.vcpus, spec.machine.memory) == (1, 1, 512 * MIB)
    assert (spec.setup.answer_file, spec.setup.timeout, spec.scale_in.drain_timeout) == ("cloud-init", 600, 30)
    assert spec.standby is None


@pytest.mark.parametrize("name", ["", "Web", "1web", "-web", "web-", "we b", "wéb", "web.x", "web\n", "w" * 31])
def test_a_name_that_could_not_be_a_host_name_is_refused(name: str) -> None:
    assert "String should match pattern" in complaint(name=name)


@pytest.mark.parametrize("name", ["w", "web", "web-2", "w" * 30])
def test_a_name_of_letters_digits_and_dashes_is_taken(name: str) -> None:
    assert make_spec(name=name).name == name


@pytest.mark.parametrize("image", ["", "Debian", "debian:0", "debian:", "debian:x", "a b", "../etc"])
def test_an_image_that_could_not_be_one_is_refused(image: str) -> None:
    assert "String should match pattern" in complaint(image=image)


@pytest.mark.parametrize("count", [-1, 1.0, "2", True, None, 100_001])
def test_instances_are_a_whole_number_that_is_not_negative(count: object) -> None:
    complaint(instances=count)


@pytest.mark.parametrize("memory", ["31MiB", "0B", 512, "512"])
def test_memory_is_at_least_32_mib_with_its_unit(memory: object) -> None:
    complaint(machine={"memory": memory})


def test_a_disk_is_a_size_in_bytes_once_loaded() -> None:
    assert make_spec(machine={"disk": "4GiB"}).machine.disk == 4 * GIB


@pytest.mark.parametrize("port", [0, 65536, -1, "80", 80.5, True])
def test_a_port_is_from_1_to_65535(port: object) -> None:
    complaint(endpoints=[{"name": "http", "listen": 8080, "port": port}])
    complaint(endpoints=[{"name": "http", "listen": port, "port": 80}])
    complaint(readiness=[{"tcp": {"port": port}}])


@pytest.mark.parametrize("address", ["localhost", "256.0.0.1", "1.2.3", "::1", "127.0.0.1 ", "127.0.0.1\n"])
def test_an_endpoint_listens_on_an_ipv4_address(address: str) -> None:
    complaint(endpoints=[{"name": "http", "address": address, "listen": 8080, "port": 80}])


def test_two_endpoints_cannot_share_a_name_or_a_socket() -> None:
    one = {"name": "http", "listen": 8080, "port": 80}
    assert "two endpoints are named 'http'" in complaint(endpoints=[one, {**one, "listen": 8081}])
    assert "two endpoints listen on 127.0.0.1:8080" in complaint(endpoints=[one, {**one, "name": "two"}])
    make_spec(endpoints=[one, {**one, "name": "two", "address": "127.0.0.2"}])


@pytest.mark.parametrize("probe", [{}, {"tcp": {"port": 1}, "command": "true"}, {"command": ""}])
def test_a_probe_asks_exactly_one_question(probe: dict[str, Any]) -> None:
    complaint(readiness=[probe])


@pytest.mark.parametrize("path", ["", "up", "/a b", "/ä", "/a\nb", "http://x/"])
def test_the_path_of_a_probe_fits_on_a_request_line(path: str) -> None:
    complaint(readiness=[{"http": {"port": 80, "path": path}}])


@pytest.mark.parametrize("step", [{}, {"run": "true", "upload": {"from": "a", "to": "/b"}}, {"run": ""}])
def test_a_step_does_exactly_one_thing(step: dict[str, Any]) -> None:
    complaint(setup={"steps": [step]})


@pytest.mark.parametrize("target", ["www", "", "/a\0b", "/a\nb"])
def test_an_upload_goes_to_an_absolute_path(target: str) -> None:
    complaint(setup={"steps": [{"upload": {"from": "a", "to": target}}]})


def test_a_floor_above_the_ceiling_is_refused_with_both() -> None:
    assert "'min_ready' (3) is above 'max_ready' (2)" in complaint(standby={"max_ready": 2, "min_ready": 3})


def test_a_rollout_makes_one_more_and_leaves_none_out_by_default() -> None:
    update = make_spec().update
    assert (update.surge(7), update.unavailable(7)) == (1, 0)


@pytest.mark.parametrize(
    ("surge", "unavailable"),
    [(0, 0), ("0%", 0), (0, "0%")],
    ids=["counts", "surge percent", "unavailable percent"],
)
def test_a_rollout_that_may_neither_make_more_nor_leave_any_out_is_refused(
    surge: object, unavailable: object
) -> None:
    words = complaint(update={"max_surge": surge, "max_unavailable": unavailable})
    assert "are both 0: no instance could ever be replaced" in words


def test_user_data_as_text_says_what_it_is() -> None:
    assert "must begin with '#!' or '#cloud-config'" in complaint(setup={"user_data": "echo hello"})
    make_spec(setup={"user_data": "#!/bin/sh\necho hello"})


@pytest.mark.parametrize("key", ["ssh_keys", "disable_root", "ssh_deletekeys", "manual_cache_clean"])
def test_user_data_may_not_lock_the_product_out_of_its_guest(key: str) -> None:
    assert f"may not set {key!r}" in complaint(setup={"user_data": {key: True}})


@pytest.mark.parametrize(
    "text", ["#cloud-config\nssh_keys: {}\n", '#cloud-config\n"ssh_keys": {}\n', "#cloud-config\nssh_keys : {}\n"]
)
def test_user_data_as_text_may_not_lock_the_product_out_either(text: str) -> None:
    assert "may not set 'ssh_keys'" in complaint(setup={"user_data": text})
    make_spec(setup={"user_data": "#cloud-config\nruncmd:\n- echo\n  ssh_keys: here\n"})


def test_user_data_is_given_once() -> None:
    assert "not both" in complaint(setup={"user_data": {}, "user_data_file": "web.yaml"})


@pytest.mark.parametrize(
    "setup", [{"user_data": {"a": 1}}, {"user_data_file": "web.yaml"}, {"steps": [{"run": "true"}]}]
)
def test_a_machine_without_answer_file_cannot_be_set_up(setup: dict[str, Any]) -> None:
    assert "need 'answer_file: cloud-init'" in complaint(setup={"answer_file": "none", **setup})


def test_a_machine_without_answer_file_cannot_be_asked_by_command() -> None:
    words = complaint(setup={"answer_file": "none"}, readiness=[{"command": "true"}])
    assert "a 'command' probe needs 'answer_file: cloud-init'" in words


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        make_spec().instances = 3


def test_a_port_and_the_one_it_would_be_forwarded_from_cannot_both_be_used() -> None:
    """In user mode 80 is reached at 20080."""
    ends = [{"name": f"e{port}", "listen": 8000 + port, "port": port} for port in (80, 20080)]
    assert "guest ports 20080 and 80 cannot both be used" in complaint(endpoints=ends)
    assert "guest ports 20022 and 22 cannot both be used" in complaint(readiness=[{"tcp": {"port": 20022}}])


# ---- ports ---------------------------------------------------------------------------------------------------


def test_every_port_that_anybody_asks_is_reachable_once() -> None:
    spec = make_spec(
        endpoints=[{"name": "http", "listen": 8080, "port": 80}],
        readiness=[{"http": {"port": 80}}, {"tcp": {"port": 5432}}, {"command": "true"}],
    )
    assert spec.guest_ports() == (22, 80, 5432)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ({"answer_file": "none", "fork": True}, "'fork: true' needs 'answer_file: cloud-init'"),
        ({"keep_seed": True, "fork": True}, "'fork: true' and 'keep_seed: true' do not go together"),
        ({"fork": "yes"}, "valid boolean"),
    ],
)
def test_a_fork_that_cannot_be_is_refused(setup: dict[str, Any], words: str) -> None:
    assert words in complaint(setup=setup)


def test_a_fork_cannot_have_local_storage() -> None:
    local = {"size": "16MiB", "mount": "/local"}
    assert "'local_storage' do not go together" in complaint(setup={"fork": True}, local_storage=local)
    assert make_spec(local_storage=local).setup.forks


def test_forks_are_the_default_where_they_can_be_and_survive_json() -> None:
    for setup, forks in (({}, True), ({"fork": False}, False), ({"answer_file": "none"}, False)):
        spec = make_spec(setup=setup)
        assert spec.setup.forks is forks
        assert ScaleSetSpec.model_validate_json(spec.to_json()) == spec


def test_a_machine_without_answer_file_has_no_ssh() -> None:
    assert make_spec(setup={"answer_file": "none"}).guest_ports() == (80,)


def test_the_same_files_from_another_folder_are_the_same_model() -> None:
    digests = {
        model_digest(
            make_spec(
                setup={"steps": [{"upload": {"from": f"/{folder}/site", "to": "/srv", "digest": "ab" * 32}}]}
            ),
            "d1",
        )
        for folder in ("one", "two")
    }
    assert len(digests) == 1


def test_zones_are_kept_in_their_order_and_by_default_left_open() -> None:
    assert make_spec().zones is None
    spec = make_spec(zones=["b", "a"])
    assert spec.zones == ("b", "a")
    assert ScaleSetSpec.model_validate_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("zones", "why"),
    [([], "at least one zone"), (["a", "b", "a"], "zone 'a' is named twice"), (["A"], "match pattern")],
)
def test_zones_that_cannot_be_meant_are_refused(zones: list[str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        make_spec(zones=zones)


def test_zones_shape_no_machine() -> None:
    assert model_digest(make_spec(zones=["a"]), "d") == model_digest(make_spec(), "d")
