"""Wishes: checked before anything is written, and refused with the value and the fix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.errors import Conflict, NotFound, SpecError
from orchestrator.models.members import Member, Phase, Request, Role
from orchestrator.models.sightings import HostSighting
from orchestrator.models.steps import Admit, Effect, Settle
from orchestrator.planner import Limits
from orchestrator.service import declare
from orchestrator.service import members as requests
from orchestrator.service.declare import Surroundings
from tests.builders import GIB, MIB, NOW, make_spec, see_host, see_machine, see_world
from tests.unit.storage import Storage


def free(_address: str, _port: int) -> str:
    return ""


def offered(_firmware: str, _zones: tuple[str, ...] | None) -> str:
    return ""


def around(*hosts: HostSighting, ratio: float = 1.0) -> Surroundings:
    return Surroundings(hosts or (see_host(),), ratio, free, offered)


def unchanged(storage: Storage) -> bool:
    return storage.store.snapshot().sets == () and storage.kinds() == []


# ---- apply ---------------------------------------------------------------------------------------------------


def test_applying_declares_the_set_with_its_model(storage: Storage) -> None:
    assert declare.apply(storage.store, make_spec(), around())
    assert declare.get_set(storage.store, "web").image == storage.image


def test_applying_again_changes_nothing_but_is_a_wish_to_look_again(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(), around())
    assert not declare.apply(storage.store, make_spec(), around())
    assert declare.get_set(storage.store, "web").generation == 2


@pytest.mark.parametrize(
    ("image", "fix"),
    [
        ("debian-12", "understudy image build debian-12"),
        ("mine", "understudy image add mine FILE"),
        ("micro:7", "understudy image build micro"),
    ],
)
def test_a_missing_image_is_named_with_the_command_that_makes_it(storage: Storage, image: str, fix: str) -> None:
    with pytest.raises(NotFound) as error:
        declare.apply(storage.store, make_spec(image=image), around())
    assert f"image {image!r} is missing" in error.value.message
    assert fix in error.value.fix
    assert "images: micro:1" in error.value.fix
    assert unchanged(storage)


def test_a_disk_smaller_than_its_image_is_refused_with_the_size_it_needs(storage: Storage) -> None:
    with pytest.raises(SpecError) as error:
        declare.apply(storage.store, make_spec(machine={"disk": "32MiB"}), around())
    assert "machine.disk 32 MiB is smaller than image 'micro:1' (64 MiB)" in error.value.message
    assert "64MiB" in error.value.fix
    assert unchanged(storage)


def test_a_machine_larger_than_every_host_is_refused(storage: Storage) -> None:
    hosts = (see_host(name="a", memory_total=2 * GIB), see_host(name="b", memory_total=3 * GIB))
    with pytest.raises(SpecError, match=r"4096 MiB is more than any host has \(3072 MiB\)"):
        declare.apply(storage.store, make_spec(machine={"memory": "4GiB"}), around(*hosts))
    assert unchanged(storage)


def test_a_set_larger_than_all_hosts_together_is_refused_with_its_reserve(storage: Storage) -> None:
    spec = make_spec(instances=3, machine={"memory": "1GiB"}, standby={"max_ready": 5, "min_ready": 1})
    with pytest.raises(SpecError, match=r"3 instances and 2 in reserve need 5120 MiB .* have 4096 MiB"):
        declare.apply(storage.store, spec, around(see_host(memory_total=4 * GIB)))
    declare.apply(storage.store, spec, around(see_host(memory_total=4 * GIB), ratio=1.25))


TWO_ZONES = (see_host(name="one", memory_total=2 * GIB), see_host(name="two", zone="b", memory_total=8 * GIB))


def test_a_zone_that_no_host_has_is_refused_with_the_zones_there_are(storage: Storage) -> None:
    with pytest.raises(SpecError) as error:
        declare.apply(storage.store, make_spec(zones=["a", "c"]), around(*TWO_ZONES))
    assert error.value.message == "set 'web': zones: no host is in zone 'c' (zones: a, b)"
    assert 'zone = "c"' in error.value.fix
    assert unchanged(storage)


def test_a_zone_whose_last_host_is_gone_does_not_stand_in_the_way_of_what_has_it(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(zones=["a", "b"]), around(*TWO_ZONES))
    declare.scale(storage.store, "web", 1, around(TWO_ZONES[0]))
    with pytest.raises(SpecError, match="no host is in zone 'b'"):
        declare.apply(storage.store, make_spec(name="api", endpoints=[], zones=["b"]), around(TWO_ZONES[0]))


def test_only_memory_of_the_zones_of_a_set_counts(storage: Storage) -> None:
    small, large = {"machine": {"memory": "3GiB"}, "zones": ["a"]}, {"machine": {"memory": "3GiB"}, "zones": ["b"]}
    with pytest.raises(SpecError, match=r"3072 MiB is more than any host of zones a has \(2048 MiB\)"):
        declare.apply(storage.store, make_spec(instances=1, **small), around(*TWO_ZONES))
    with pytest.raises(SpecError, match=r"need 9216 MiB of memory, the hosts of zones b have 8192 MiB left"):
        declare.apply(storage.store, make_spec(instances=3, **large), around(*TWO_ZONES))
    assert declare.apply(storage.store, make_spec(instances=2, **large), around(*TWO_ZONES))


def test_sets_confined_to_a_zone_take_its_memory_and_all_together_that_of_all(storage: Storage) -> None:
    one = {"machine": {"memory": "1GiB"}, "endpoints": []}
    declare.apply(storage.store, make_spec(name="api", instances=6, zones=["b"], **one), around(*TWO_ZONES))
    with pytest.raises(SpecError, match=r"need 3072 MiB of memory, the hosts of zones b have 2048 MiB left"):
        declare.apply(storage.store, make_spec(instances=3, zones=["b"], **one), around(*TWO_ZONES))
    with pytest.raises(SpecError, match=r"need 5120 MiB of memory, the hosts have 4096 MiB left"):
        declare.apply(storage.store, make_spec(instances=5, **one), around(*TWO_ZONES))
    assert declare.apply(storage.store, make_spec(instances=4, **one), around(*TWO_ZONES))


def test_what_stays_in_zones_declared_once_needs_no_room_in_the_others(storage: Storage) -> None:
    one = {"machine": {"memory": "1GiB"}, "endpoints": []}
    declare.apply(storage.store, make_spec(instances=4, **one), around(*TWO_ZONES))
    for _ in range(4):
        assert storage.recorder.perform(Admit("web", Role.INSTANCE, "two", "b", "here"))
    declare.apply(storage.store, make_spec(instances=4, zones=["a"], **one), around(*TWO_ZONES))
    declare.scale(storage.store, "web", 6, around(*TWO_ZONES))
    with pytest.raises(SpecError, match="the hosts of zones a have 2048 MiB left"):
        declare.scale(storage.store, "web", 7, around(*TWO_ZONES))


def test_memory_of_a_host_that_does_not_answer_is_not_judged(storage: Storage) -> None:
    silent = HostSighting("local", "a", answers=False)
    assert declare.apply(storage.store, make_spec(machine={"memory": "4GiB"}), around(silent))


@pytest.mark.parametrize(
    ("firmware", "fix"),
    [
        ("uefi", "apt-get install ovmf, then restart libvirtd"),
        ("uefi-secure", "apt-get install ovmf swtpm swtpm-tools, then restart libvirtd"),
    ],
)
def test_firmware_that_a_host_does_not_have_is_refused_with_what_to_install(
    storage: Storage, firmware: str, fix: str
) -> None:
    asked: list[tuple[str, tuple[str, ...] | None]] = []

    def missing(wanted: str, zones: tuple[str, ...] | None) -> str:
        asked.append((wanted, zones))
        return "host local: it is not there"

    bare = Surroundings((see_host(),), 1.0, free, missing)
    with pytest.raises(Conflict, match=f"machine.firmware {firmware} cannot be had: host local") as error:
        declare.apply(storage.store, make_spec(machine={"firmware": firmware}), bare)
    assert error.value.fix == fix
    assert unchanged(storage)
    assert declare.apply(storage.store, make_spec(), bare)
    with pytest.raises(Conflict):
        declare.apply(storage.store, make_spec(name="api", machine={"firmware": firmware}, zones=["a"]), bare)
    assert asked == [(firmware, None), (firmware, ("a",))]


def test_a_set_that_has_its_firmware_can_be_made_smaller_where_that_is_no_more(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(machine={"firmware": "uefi"}), around())
    bare = Surroundings((see_host(),), 1.0, free, lambda _firmware, _zones: "host local: it is not there")
    declare.scale(storage.store, "web", 1, bare)
    assert declare.get_set(storage.store, "web").spec.instances == 1
    with pytest.raises(Conflict, match=r"machine.firmware uefi-secure cannot be had"):
        declare.apply(storage.store, make_spec(machine={"firmware": "uefi-secure"}), bare)


def test_local_storage_of_linux_guests_never_comes_to_windows(storage: Storage) -> None:
    linux = make_spec(local_storage={"size": "1GiB", "mount": "/mnt/local"})
    windows = make_spec(
        local_storage={"size": "1GiB"},
        setup={
            "answer_file": "unattend",
            "windows": {"administrator_password_file": "/secrets/admin.txt", "local_storage_letter": "S"},
        },
    )
    for before in (linux, make_spec()):
        declare.apply(storage.store, before, around())
        with pytest.raises(SpecError, match="that Linux formatted, and Windows would format it again") as error:
            declare.apply(storage.store, windows, around())
        assert error.value.fix == "to begin anew: understudy delete web, then apply again"
        assert declare.get_set(storage.store, "web").spec == before
    assert declare.apply(storage.store, windows.model_copy(update={"name": "win", "endpoints": ()}), around())


def test_an_endpoint_of_another_set_is_refused(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(), around())
    with pytest.raises(Conflict, match=r"wants 127.0.0.1:8080, which belongs to set 'web'") as renamed:
        declare.apply(storage.store, make_spec(name="api"), around())
    assert renamed.value.fix.startswith(
        "a set keeps its name; if 'api' is 'web' by another name: understudy delete"
    )
    assert [one.name for one in storage.store.snapshot().sets] == ["web"]


def test_a_port_that_another_program_holds_is_refused_with_how_to_find_it(storage: Storage) -> None:
    taken = Surroundings((see_host(),), 1.0, lambda address, port: f"{address}:{port} is taken", offered)
    with pytest.raises(Conflict) as error:
        declare.apply(storage.store, make_spec(), taken)
    assert "cannot listen on 127.0.0.1:8080: 127.0.0.1:8080 is taken" in error.value.message
    assert "ss -ltnp" in error.value.fix


def test_a_port_of_the_set_itself_is_no_conflict(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(), around())
    taken = Surroundings((see_host(),), 1.0, lambda address, port: "taken", offered)
    assert declare.apply(storage.store, make_spec(instances=5), taken)


def test_growth_must_fit_beside_the_other_sets(storage: Storage) -> None:
    roomy = around(see_host(memory_total=4 * GIB))
    declare.apply(storage.store, make_spec(instances=3, machine={"memory": "1GiB"}), roomy)
    api = make_spec(name="api", instances=2, endpoints=[], machine={"memory": "1GiB"})
    with pytest.raises(SpecError, match="need 2048 MiB of memory, the hosts have 1024 MiB left"):
        declare.apply(storage.store, api, roomy)


def test_shrinking_is_never_refused(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(instances=8, machine={"memory": "1GiB"}), around())
    tiny = around(see_host(memory_total=GIB))
    declare.scale(storage.store, "web", 5, tiny)
    assert declare.get_set(storage.store, "web").spec.instances == 5
    with pytest.raises(SpecError):
        declare.scale(storage.store, "web", 6, tiny)


def test_a_user_data_template_that_cannot_work_is_refused(storage: Storage) -> None:
    spec = make_spec(setup={"user_data": "#!/bin/sh\necho {{ instance.nmae }}\n"})
    with pytest.raises(SpecError, match="user_data is not a usable Jinja2 template"):
        declare.apply(storage.store, spec, around())
    assert unchanged(storage)


def test_wishes_of_one_file_are_checked_against_each_other_before_any_is_declared(storage: Storage) -> None:
    specs = [make_spec(name="web"), make_spec(name="api")]
    with pytest.raises(Conflict, match=r"'api'.* wants 127\.0\.0\.1:8080, which belongs to set 'web'"):
        declare.check_all(storage.store, specs, around())
    assert unchanged(storage)


API = {"name": "api", "endpoints": [{"name": "http", "listen": 8081, "port": 80}]}


def test_no_set_of_a_file_is_declared_while_another_one_of_it_is_being_deleted(storage: Storage) -> None:
    declare.apply_all(storage.store, [make_spec(), make_spec(**API)], around())
    declare.delete(storage.store, "api")
    before, told = storage.store.snapshot(), storage.kinds()
    for wish in (declare.check_all, declare.apply_all):
        with pytest.raises(Conflict, match="set 'api' is being deleted"):
            wish(storage.store, [make_spec(instances=5), make_spec(**API)], around())
    assert storage.store.snapshot() == before
    assert storage.kinds() == told


def test_sets_of_a_file_are_declared_together_and_looked_at_again_when_nothing_changed(storage: Storage) -> None:
    specs = [make_spec(), make_spec(**API)]
    assert declare.apply_all(storage.store, specs, around()) == [True, True]
    assert declare.apply_all(storage.store, [make_spec(instances=5), specs[1]], around()) == [True, False]
    assert [one.generation for one in storage.store.snapshot().sets] == [2, 2]


FILE = "/srv/web.yaml"


def test_a_set_that_is_renamed_in_its_file_is_refused_with_both_ways_out(storage: Storage) -> None:
    declare.apply_all(storage.store, [make_spec()], around(), FILE)
    before, told = storage.store.snapshot(), storage.kinds()
    for wish in (declare.check_all, declare.apply_all):
        with pytest.raises(Conflict) as error:
            wish(storage.store, [make_spec(**API)], around(), FILE)
        assert error.value.message == (
            "/srv/web.yaml declares 'api', which is new, and no longer 'web', which is still there: "
            "a set keeps its name"
        )
        assert error.value.fix == (
            "understudy delete web, then apply again; or put 'web' back into the file, in place of 'api' "
            "or beside it"
        )
    assert storage.store.snapshot() == before
    assert storage.kinds() == told
    # Either way out.
    declare.apply_all(storage.store, [make_spec(), make_spec(**API)], around(), FILE)
    declare.delete(storage.store, "web")
    shop = make_spec(name="shop", endpoints=[])
    declare.apply_all(storage.store, [make_spec(**API), shop], around(), FILE)


def test_a_set_that_its_file_gave_up_without_a_new_one_is_that_files_no_more(storage: Storage) -> None:
    declare.apply_all(storage.store, [make_spec(), make_spec(**API)], around(), FILE)
    declare.apply_all(storage.store, [make_spec()], around(), FILE)
    assert {one.name: one.file for one in storage.store.snapshot().sets} == {"api": "", "web": FILE}
    declare.apply_all(storage.store, [make_spec(), make_spec(name="shop", endpoints=[])], around(), FILE)


def test_a_file_that_was_moved_or_copied_declares_what_is_in_it(storage: Storage) -> None:
    declare.apply_all(storage.store, [make_spec()], around(), FILE)
    declare.apply_all(storage.store, [make_spec(**API)], around(), "/srv/a-copy.yaml")
    declare.apply_all(storage.store, [make_spec()], around(), "/srv/moved.yaml")
    assert {one.name: one.file for one in storage.store.snapshot().sets} == {
        "api": "/srv/a-copy.yaml",
        "web": "/srv/moved.yaml",
    }
    declare.apply_all(storage.store, [make_spec(name="shop", endpoints=[])], around(), FILE)


def test_what_comes_from_no_file_renames_nothing_and_takes_no_set_from_its_file(storage: Storage) -> None:
    declare.apply_all(storage.store, [make_spec()], around())
    declare.apply_all(storage.store, [make_spec(**API)], around())
    declare.apply_all(storage.store, [make_spec()], around(), FILE)
    declare.apply_all(storage.store, [make_spec(instances=5)], around())
    declare.scale(storage.store, "web", 3, around())
    assert declare.get_set(storage.store, "web").file == FILE


# ---- preview -------------------------------------------------------------------------------------------------


def test_a_preview_shows_the_first_steps_and_writes_nothing(storage: Storage) -> None:
    observed = see_world(see_host())
    made = declare.preview(storage.store, make_spec(instances=3), observed, ("understudy", Limits()), NOW)
    assert sum(isinstance(step, Admit) for step in made.steps) == 3
    assert unchanged(storage)


def test_a_preview_of_what_is_as_declared_is_empty_but_for_the_balancer(storage: Storage) -> None:
    spec = make_spec(instances=0, endpoints=[])
    declare.apply(storage.store, spec, around())
    made = declare.preview(storage.store, spec, see_world(see_host()), ("understudy", Limits()), NOW)
    assert [step for step in made.steps if not isinstance(step, Settle)] == []


def test_a_preview_of_a_changed_model_says_what_is_replaced_and_by_which_rule(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(instances=1, endpoints=[]), around())
    member = storage.put(storage.admit(), Phase.IN_SERVICE)
    changed = make_spec(instances=1, endpoints=[], machine={"memory": "256MiB"})
    observed = see_world(see_host(see_machine(member)))
    made = declare.preview(storage.store, changed, observed, ("understudy", Limits()), NOW)
    assert [step.reason for step in made.steps if not isinstance(step, Effect)] == [
        "rolling out a new model to web, image micro:1: 1 in the set and 0 in reserve are of an older one; "
        "at most 2 instances, at least 1 in service",
        "creating an instance of web cold: the set has no standby pool, "
        f"replacing {member.name} of an older model",
    ]
    assert declare.get_set(storage.store, "web").generation == 1


# ---- rollouts ------------------------------------------------------------------------------------------------


SHARES = {"max_surge": 0, "max_unavailable": "25%"}


def test_percentages_that_come_to_nothing_are_refused_with_the_count(storage: Storage) -> None:
    with pytest.raises(SpecError) as error:
        declare.apply(storage.store, make_spec(instances=3, update=SHARES), around())
    assert "update.max_surge 0 and update.max_unavailable 25% are both 0 of 3 instances" in error.value.message
    assert "max_surge: 1" in error.value.fix
    assert unchanged(storage)


@pytest.mark.parametrize("instances", [0, 3])
def test_a_set_may_be_made_so_small_that_its_percentages_come_to_nothing(storage: Storage, instances: int) -> None:
    declare.apply(storage.store, make_spec(instances=4, update=SHARES), around())
    assert declare.scale(storage.store, "web", instances, around()).spec.instances == instances


def test_applying_a_file_without_a_version_takes_the_newest_image(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(), around())
    before = declare.get_set(storage.store, "web")
    storage.store.add_image("micro", lambda version: replace(storage.image, version=version, digest="d2" * 32))
    assert declare.get_set(storage.store, "web").image == before.image
    newer = declare.find_newer_image(storage.store, before)
    assert newer is not None
    assert newer.ref == "micro:2"
    assert declare.apply(storage.store, make_spec(), around())
    after = declare.get_set(storage.store, "web")
    assert after.image.ref == "micro:2"
    assert declare.find_newer_image(storage.store, after) is None
    assert after.model != before.model
    declare.apply(storage.store, make_spec(image="micro:1"), around())
    held = declare.get_set(storage.store, "web")
    assert held.model == before.model
    assert declare.find_newer_image(storage.store, held) is None


# ---- sizes ---------------------------------------------------------------------------------------------------


def test_scaling_changes_the_count_and_nothing_else(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(standby={"max_ready": 4}), around())
    before = declare.get_set(storage.store, "web")
    declare.scale(storage.store, "web", 5, around())
    after = declare.get_set(storage.store, "web")
    assert after.spec == before.spec.model_copy(update={"instances": 5})
    assert (after.model, after.generation) == (before.model, 2)


def test_scaling_what_is_not_there_names_what_is(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(), around())
    with pytest.raises(NotFound) as error:
        declare.scale(storage.store, "wbe", 5, around())
    assert error.value.fix == "sets: web"


def test_scaling_beyond_the_hosts_is_refused(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(), around())
    with pytest.raises(SpecError, match="20 instances"):
        declare.scale(storage.store, "web", 20, around(see_host(memory_total=10 * 128 * MIB)))
    assert declare.get_set(storage.store, "web").spec.instances == 2


def test_scaling_keeps_the_image_version_that_was_applied(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(), around())
    storage.store.add_image("micro", lambda version: replace(storage.image, version=version, digest="d2" * 32))
    declare.scale(storage.store, "web", 5, around())
    assert declare.get_set(storage.store, "web").image == storage.image


def test_a_pool_is_created_resized_and_given_up(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(instances=1), around())
    made = declare.change_pool(storage.store, "web", {"max_ready": 4}, around())
    assert made.standby_target == 3
    made = declare.change_pool(storage.store, "web", {"min_ready": 2, "state": "running"}, around())
    assert made.spec.standby is not None
    assert (made.spec.standby.max_ready, made.spec.standby.min_ready, made.spec.standby.state) == (
        4,
        2,
        "running",
    )
    assert declare.delete_pool(storage.store, "web", around()).spec.standby is None


def test_a_pool_that_is_not_there_is_created_by_its_size(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(), around())
    with pytest.raises(SpecError) as error:
        declare.change_pool(storage.store, "web", {"state": "running"}, around())
    assert "--max-ready N" in error.value.fix


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_ready": 9}, "'min_ready' (9) is above 'max_ready' (4)"),
        ({"state": "asleep"}, "'asleep' is none of running, stopped, hibernated"),
        ({"max_ready": -1}, "greater than or equal to 0"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(storage: Storage, changes: dict[str, Any], words: str) -> None:
    declare.apply(storage.store, make_spec(standby={"max_ready": 4}), around())
    with pytest.raises(SpecError) as error:
        declare.change_pool(storage.store, "web", dict(changes), around())
    assert error.value.message.startswith("standby pool of 'web': ")
    assert words in error.value.message


STATES = ("running", "stopped", "hibernated")
HALF_STOPPED = {"running": "50%", "stopped": "50%"}
CHANGES: list[tuple[Any, Any, bool]] = [
    *((before, after, (before, after) != ("stopped", "hibernated")) for before in STATES for after in STATES),
    (HALF_STOPPED, "hibernated", False),
    ("stopped", {"stopped": "50%", "hibernated": "50%"}, False),
    (HALF_STOPPED, {"hibernated": "50%", "stopped": "50%"}, True),
    ("hibernated", HALF_STOPPED, True),
]


@pytest.mark.parametrize(("before", "after", "is_allowed"), CHANGES)
def test_every_change_of_the_state_is_allowed_but_from_stopped_to_hibernated(
    storage: Storage, before: Any, after: Any, is_allowed: bool
) -> None:
    declare.apply(storage.store, make_spec(standby={"max_ready": 4, "state": before}), around())
    changed = make_spec(standby={"max_ready": 4, "state": after})
    if is_allowed:
        declare.apply(storage.store, changed, around())
        assert declare.get_set(storage.store, "web").spec == changed
        return
    with pytest.raises(Conflict, match="cannot go from stopped to hibernated directly") as error:
        declare.apply(storage.store, changed, around())
    assert "understudy pool web --state running" in error.value.fix


def test_a_mix_is_kept_when_the_pool_is_resized(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(standby={"max_ready": 4, "state": HALF_STOPPED}), around())
    declare.change_pool(storage.store, "web", {"max_ready": 6}, around())
    assert declare.get_set(storage.store, "web").spec == make_spec(standby={"max_ready": 6, "state": HALF_STOPPED})


def test_a_set_that_is_being_deleted_takes_no_other_wish(storage: Storage) -> None:
    declare.apply(storage.store, make_spec(), around())
    declare.delete(storage.store, "web")
    for wish in (
        lambda: declare.scale(storage.store, "web", 5, around()),
        lambda: declare.apply(storage.store, make_spec(), around()),
        lambda: declare.change_pool(storage.store, "web", {"max_ready": 4}, around()),
    ):
        with pytest.raises(Conflict, match="is being deleted"):
            wish()


# ---- single instances ----------------------------------------------------------------------------------------


def serving(storage: Storage, role: Role = Role.INSTANCE, last: Phase = Phase.IN_SERVICE) -> Member:
    if storage.store.find_set("web") is None:
        storage.declare(instances=2, standby={"max_ready": 4})
    return storage.put(storage.admit(role), Phase.PROVISIONING, Phase.READY, last)


@pytest.mark.parametrize("target", ["web", "web/", "/4tz9k", ""])
def test_an_instance_is_named_by_set_and_name(storage: Storage, target: str) -> None:
    with pytest.raises(SpecError, match="does not name an instance") as error:
        requests.find_member(storage.store, target)
    assert "web/web-4tz9k" in error.value.fix


def test_an_instance_is_found_with_and_without_its_sets_name(storage: Storage) -> None:
    member = serving(storage)
    assert requests.find_member(storage.store, f"web/{member.name}") == member
    assert requests.find_member(storage.store, f"web/{member.name[4:]}") == member
    with pytest.raises(NotFound, match="no scale set 'api'"):
        requests.find_member(storage.store, f"api/{member.name}")


@pytest.mark.parametrize(
    ("ask", "wish"), [(requests.reimage, Request.REIMAGE), (requests.restart, Request.RESTART)]
)
def test_a_wish_is_kept_with_the_instance(storage: Storage, ask: Any, wish: Request) -> None:
    member = serving(storage)
    ask(storage.store, f"web/{member.name}")
    assert storage.member(member.name).request is wish


@pytest.mark.parametrize("ask", [requests.reimage, requests.restart])
def test_a_pool_member_is_neither_reimaged_nor_restarted(storage: Storage, ask: Any) -> None:
    spare = serving(storage, Role.STANDBY, Phase.STANDBY)
    with pytest.raises(Conflict, match="stands by in the pool") as error:
        ask(storage.store, f"web/{spare.name}")
    assert f"understudy remove web/{spare.name}" in error.value.fix


@pytest.mark.parametrize("ask", [requests.reimage, requests.restart, requests.remove])
def test_an_instance_that_is_leaving_is_asked_nothing(storage: Storage, ask: Any) -> None:
    member = serving(storage)
    storage.store.request(member, Request.REMOVE)
    with pytest.raises(Conflict, match="is already being removed"):
        ask(storage.store, f"web/{member.name}")


def test_only_what_is_in_service_is_restarted(storage: Storage) -> None:
    member = serving(storage, last=Phase.STARTING)
    with pytest.raises(Conflict, match=f"{member.name} is starting; what can be restarted is in service") as error:
        requests.restart(storage.store, f"web/{member.name}")
    assert "understudy status web" in error.value.fix


def test_removing_an_instance_makes_the_set_one_smaller(storage: Storage) -> None:
    member = serving(storage)
    requests.remove(storage.store, f"web/{member.name}")
    assert storage.member(member.name).is_leaving
    assert declare.get_set(storage.store, "web").spec.instances == 1


def test_removing_a_pool_member_leaves_the_size(storage: Storage) -> None:
    spare = serving(storage, Role.STANDBY, Phase.STANDBY)
    requests.remove(storage.store, f"web/{spare.name}")
    assert storage.member(spare.name).is_leaving
    assert declare.get_set(storage.store, "web").spec.instances == 2
