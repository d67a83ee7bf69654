"""What the controller records: one guarded write for each step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, insert

from orchestrator.errors import HostFull
from orchestrator.lifecycle.table import AFTER_SUCCESS
from orchestrator.models.members import (
    GuestPhase,
    Member,
    Phase,
    PoolState,
    Request,
    Role,
    RolloutCondition,
    RolloutLevel,
)
from orchestrator.models.naming import machine_mac
from orchestrator.models.steps import (
    Admit,
    Advance,
    Claim,
    Effect,
    EffectKind,
    ForgetSet,
    GiveUp,
    NoteHealth,
    NoteRollout,
    NoteWait,
    Renew,
    Repair,
    Retire,
    Settle,
)
from orchestrator.models.storage import Drive
from orchestrator.store.records import KEPT_EVENTS
from orchestrator.store.tables import drives, events, members
from tests.builders import MIB, NOW, make_member, make_spec, see_host, see_world
from tests.fakes import FakeIdentities
from tests.unit.examples import some
from tests.unit.storage import Storage, open_storage
from tests.unit.world import World, record, record_refusal, record_success

# ---- admission -----------------------------------------------------------------------------------------------


def test_a_new_member_gets_its_name_address_and_mac_with_its_record(storage: Storage) -> None:
    storage.declare()
    member = storage.admit(Role.STANDBY)
    found = storage.store.find_set("web")
    assert found is not None
    assert member == Member(
        name="web-00001",
        set_name="web",
        role=Role.STANDBY,
        phase=Phase.CREATING,
        host="local",
        zone="a",
        address="127.77.0.2",
        mac=machine_mac(storage.store.installation(), "web-00001"),
        incarnation=1,
        model=found.model,
        image_digest=storage.image.digest,
        request=None,
        reason="because it is wanted",
        failures=0,
        created_at=NOW,
        phase_since=NOW,
        memory=128 * MIB,
    )


def test_a_name_that_is_taken_is_drawn_again(tmp_path: Path) -> None:
    storage = open_storage(tmp_path, FakeIdentities("aaaaa", "aaaaa", "aaaaa", "bbbbb"))
    storage.declare()
    assert [storage.admit().name, storage.admit().name] == ["web-aaaaa", "web-bbbbb"]
    storage.store.close()


def test_the_lowest_free_address_is_given_out_again(storage: Storage) -> None:
    storage.declare()
    members = [storage.admit() for _ in range(3)]
    gone = storage.put(members[1], Phase.DELETING)
    assert storage.recorder.succeeded(gone, EffectKind.DESTROY, "gone")
    assert storage.admit().address == members[1].address


def test_when_every_address_is_taken_nothing_is_recorded(tmp_path: Path) -> None:
    storage = open_storage(tmp_path, addresses=2)
    storage.declare()
    storage.admit()
    storage.admit()
    with pytest.raises(HostFull) as error:
        storage.perform_admission()
    assert "network.range" in error.value.fix
    assert len(storage.members()) == 2
    storage.store.close()


def test_all_that_a_turn_admits_is_one_transaction(storage: Storage) -> None:
    storage.declare()
    kept = [storage.admit() for _ in range(3)]
    gone = storage.put(kept[1], Phase.DELETING)
    storage.recorder.succeeded(gone, EffectKind.DESTROY, "gone")
    commits: list[object] = []
    event.listen(storage.store.database._engine, "commit", commits.append)
    assert storage.recorder.admit([admission(), admission("standby"), admission()])
    assert len(commits) == 1
    fresh = [one for one in storage.members() if one.name not in {kept[0].name, kept[2].name}]
    assert sorted(one.address for one in fresh) == ["127.77.0.3", "127.77.0.5", "127.77.0.6"]
    assert len({one.mac for one in fresh}) == 3
    assert sorted(one.role for one in fresh) == ["instance", "instance", "standby"]
    assert storage.kinds()[-3:] == ["admitted"] * 3


def test_as_many_are_admitted_as_there_are_addresses(tmp_path: Path) -> None:
    storage = open_storage(tmp_path, addresses=3)
    storage.declare()
    storage.admit()
    assert storage.recorder.admit([admission()] * 5)
    assert len(storage.members()) == 3
    with pytest.raises(HostFull):
        storage.recorder.admit([admission()] * 3)
    assert len(storage.members()) == 3
    storage.store.close()


def test_an_admission_to_a_set_that_is_gone_holds_up_no_other(storage: Storage) -> None:
    storage.declare()
    assert storage.recorder.admit([admission(set_name="nowhere"), admission()])
    assert [one.set_name for one in storage.members()] == ["web"]


def admission(role: str = "instance", set_name: str = "web") -> Admit:
    return Admit(set_name, Role(role), "local", "a", "because it is wanted", "admitted")


def test_nobody_is_admitted_to_a_set_that_is_gone(storage: Storage) -> None:
    assert not storage.perform_admission(set_name="nowhere")
    assert storage.members() == []


def test_an_admission_is_an_event_of_its_own_kind(storage: Storage) -> None:
    storage.declare()
    storage.admit()
    storage.admit(event="claim_cold")
    assert storage.kinds()[1:] == ["admitted", "claim_cold"]


# ---- guards --------------------------------------------------------------------------------------------------


def steps_on(member: Member) -> list[Claim | Advance | Retire]:
    return [
        Claim(member, Phase.STARTING, "claimed"),
        Advance(member, Phase.PROVISIONING, "made"),
        Advance(member, Phase.CREATING, "again", new_body=True),
        Retire(member, "too many"),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"phase": Phase.DELETING},
        {"incarnation": 7},
        {"request": Request.RESTART},
        {"name": "web-zzzzz"},
    ],
)
def test_a_step_planned_on_another_record_is_dropped(storage: Storage, fields: dict[str, Any]) -> None:
    storage.declare()
    member = storage.admit()
    noted = storage.kinds()
    for step in steps_on(replace(member, **fields)):
        assert not storage.recorder.perform(step)
    stale = replace(member, **fields)
    if (stale.phase, EffectKind.CREATE) in AFTER_SUCCESS:
        assert not storage.recorder.succeeded(stale, EffectKind.CREATE, "made")
    assert not storage.recorder.failed(stale, "it broke")
    assert storage.member(member.name) == member
    assert storage.kinds() == noted


def test_a_request_that_came_meanwhile_drops_the_result_of_the_work(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.PROVISIONING)
    storage.store.request(member, Request.REMOVE)
    assert not storage.recorder.succeeded(member, EffectKind.PROVISION, "set up")
    assert not storage.recorder.failed(member, "it broke")
    found = storage.member(member.name)
    assert (found.phase, found.request, found.failures) == (Phase.PROVISIONING, Request.REMOVE, 0)


# ---- what is written -----------------------------------------------------------------------------------------


def test_a_claim_moves_a_member_into_the_set(storage: Storage) -> None:
    storage.declare(standby={"max_ready": 3})
    spare = storage.put(storage.admit(Role.STANDBY), Phase.PROVISIONING, Phase.READY, Phase.STANDBY)
    storage.clock.advance(5)
    assert storage.recorder.perform(Claim(spare, Phase.STARTING, "claimed it"))
    now = storage.member(spare.name)
    assert (now.role, now.phase, now.phase_since, now.reason) == (
        Role.INSTANCE,
        Phase.STARTING,
        NOW + 5,
        "claimed it",
    )
    assert (now.name, now.address, now.mac, now.incarnation) == (spare.name, spare.address, spare.mac, 1)
    assert storage.kinds()[-1] == "claim_served"


def test_a_new_body_has_the_current_model_and_image_and_keeps_name_and_address(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.PROVISIONING)
    newer = storage.store.add_image("micro", lambda version: replace(storage.image, version=2, digest="d2" * 32))
    storage.store.declare_set(make_spec(), newer, "newmodel")
    storage.put(member)
    assert storage.recorder.perform(Advance(member, Phase.CREATING, "again", new_body=True))
    now = storage.member(member.name)
    assert (now.incarnation, now.model, now.image_digest) == (2, "newmodel", "d2" * 32)
    assert (now.name, now.address, now.mac) == (member.name, member.address, member.mac)


def test_the_same_body_keeps_its_model(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    storage.store.declare_set(make_spec(instances=9), storage.image, "newmodel")
    assert storage.put(member, Phase.PROVISIONING).model == member.model


def test_failures_count_up_until_a_member_is_healthy(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    for count in (1, 2, 3):
        assert storage.recorder.failed(member, "it broke")
        member = storage.member(member.name)
        assert (member.phase, member.failures) == (Phase.FAILED, count)
        assert storage.recorder.perform(Advance(member, Phase.CREATING, "again", new_body=True))
        member = storage.member(member.name)
        assert member.failures == count
    assert storage.put(member, Phase.PROVISIONING, Phase.READY).failures == 3
    served = storage.put(storage.member(member.name), Phase.IN_SERVICE)
    assert served.failures == 3
    assert storage.recorder.perform(NoteHealth(served, None, True, "it served for a while"))
    assert storage.member(member.name).failures == 0


def test_a_planned_failure_counts_too(storage: Storage) -> None:
    storage.declare()
    assert storage.put(storage.admit(), Phase.FAILED).failures == 1


def test_a_request_is_cleared_when_it_is_answered(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.PROVISIONING)
    storage.store.request(member, Request.REIMAGE)
    asked = storage.member(member.name)
    answered = Advance(asked, Phase.CREATING, "again", new_body=True, answered=True)
    assert storage.recorder.perform(answered)
    assert storage.member(member.name).request is None


def test_a_restart_is_answered_by_the_shutdown(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.PROVISIONING, Phase.DRAINING)
    storage.store.request(member, Request.RESTART)
    assert storage.recorder.succeeded(storage.member(member.name), EffectKind.SHUT_DOWN, "restarting")
    now = storage.member(member.name)
    assert (now.phase, now.request) == (Phase.STARTING, None)


def test_a_restart_of_a_machine_that_is_being_started_is_answered_too(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.PROVISIONING, Phase.STARTING)
    storage.store.request(member, Request.RESTART)
    assert storage.recorder.succeeded(storage.member(member.name), EffectKind.SHUT_DOWN, "restarting")
    now = storage.member(member.name)
    assert (now.phase, now.request) == (Phase.STARTING, None)


def test_retiring_is_a_request_to_go_with_its_reason(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    assert storage.recorder.perform(Retire(member, "web is scaled in to 0"))
    now = storage.member(member.name)
    assert (now.request, now.reason, now.is_leaving) == (Request.REMOVE, "web is scaled in to 0", True)
    assert storage.kinds()[-1] == "retired"


def test_a_destroyed_member_is_forgotten_with_its_address(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.DELETING)
    assert storage.recorder.succeeded(member, EffectKind.DESTROY, "gone")
    assert storage.members() == []
    assert storage.kinds()[-1] == "deleted"
    assert not storage.recorder.succeeded(member, EffectKind.DESTROY, "gone")


def test_a_failed_machine_that_was_removed_stays_failed(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.FAILED)
    storage.recorder.succeeded(member, EffectKind.DESTROY, "cleaned")
    assert storage.member(member.name) == member


def test_trouble_is_noted_and_leaves_the_phase(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.PARKING)
    storage.recorder.complained(member, "the host does not answer")
    now = storage.member(member.name)
    assert (now.phase, now.failures, now.phase_since) == (Phase.PARKING, 0, member.phase_since)
    assert now.reason == "the host does not answer"
    assert storage.kinds()[-1] == "trouble"


def test_the_same_trouble_again_is_no_news(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    for reason in ("busy", "busy", "busy", "still busy"):
        storage.recorder.complained(member, reason)
    assert storage.kinds().count("trouble") == 2
    assert storage.member(member.name).reason == "still busy"


def test_why_machines_are_not_begun_is_with_each_and_one_event(storage: Storage) -> None:
    storage.declare()
    known = [storage.admit() for _ in range(3)]
    begun = storage.put(known[0], Phase.PROVISIONING)
    storage.clock.advance(5)
    assert storage.recorder.perform(NoteWait("web", tuple(known), "waits for a CPU", "3 wait"))
    assert storage.kinds().count("waits") == 1
    assert storage.member(begun.name) == begun
    for before in known[1:]:
        assert storage.member(before.name) == replace(before, reason="waits for a CPU")
    noted = storage.kinds()
    assert not storage.recorder.perform(NoteWait("web", (known[0],), "waits for a CPU", "1 waits"))
    assert storage.kinds() == noted


def test_that_it_was_too_early_for_a_golden_image_is_no_failure_and_no_event(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    place, noted = (member.host, member.model), storage.kinds()

    def failures() -> int:
        return storage.store.snapshot().golden_troubles[place].failures

    for _ in range(2):
        storage.recorder.golden_failed(member, "golden_refused", "no agent", was_early=True)
        assert (failures(), storage.kinds()) == (0, noted)
        storage.clock.advance(0.5)
    storage.recorder.golden_failed(member, "golden_refused", "no agent")
    assert (failures(), storage.kinds()) == (1, [*noted, "golden_refused"])
    storage.clock.advance(60)
    storage.recorder.golden_failed(member, "golden_refused", "no agent", was_early=True)
    assert failures() == 2


def test_trouble_of_a_record_that_moved_on_is_dropped(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    moved = storage.put(member, Phase.PROVISIONING)
    storage.recorder.complained(member, "busy")
    assert storage.member(member.name) == moved
    assert "trouble" not in storage.kinds()


def test_only_the_newest_events_are_kept(storage: Storage) -> None:
    storage.declare()
    with storage.store.database.write() as connection:
        rows = [{"at": NOW, "set_name": "web", "member": "", "kind": "old", "reason": "r"}] * KEPT_EVENTS
        connection.execute(insert(events), rows)
    assert storage.recorder.perform(Settle("web", 1, "", "as declared"))
    kept = storage.store.list_events(None, limit=KEPT_EVENTS * 2)
    assert len(kept) == KEPT_EVENTS
    assert kept[-1].kind == "converged"


def settled(storage: Storage) -> tuple[int, str]:
    found = storage.store.find_set("web")
    assert found is not None
    return found.settled_generation, found.stuck


def test_a_wish_that_is_met_is_settled(storage: Storage) -> None:
    storage.declare()
    assert storage.recorder.perform(Settle("web", 1, "", "as declared"))
    assert settled(storage) == (1, "")
    assert storage.kinds()[-1] == "converged"
    assert storage.recorder.perform(Settle("web", 1, "no host answers", "waits"))
    assert settled(storage) == (1, "no host answers")
    assert storage.kinds()[-1] == "stuck"


def test_an_answer_to_an_older_wish_is_dropped(storage: Storage) -> None:
    storage.declare()
    storage.declare(instances=7)
    assert not storage.recorder.perform(Settle("web", 1, "", "as declared"))
    assert settled(storage) == (0, "")


def test_what_was_told_of_a_rollout_is_kept_with_the_set(storage: Storage) -> None:
    storage.declare()
    told = RolloutCondition(RolloutLevel.STOPPED, "abc")
    events = (("rollout_stopped", "the rollout of web is stopped"),)
    assert storage.recorder.perform(NoteRollout("web", told, events, "stopped"))
    found = storage.store.find_set("web")
    assert found is not None
    assert found.rollout == told
    assert storage.kinds()[-1] == "rollout_stopped"
    assert not storage.recorder.perform(NoteRollout("gone", told, events, "stopped"))


def test_a_new_body_of_another_model_forgets_the_failures_of_the_one_before(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.FAILED)
    storage.recorder.perform(Advance(member, Phase.CREATING, "again", new_body=True))
    assert storage.members()[0].failures == 1
    storage.declare(machine={"memory": "256MiB"})
    member = storage.put(storage.members()[0], Phase.FAILED)
    storage.recorder.perform(Advance(member, Phase.CREATING, "again", new_body=True))
    assert storage.members()[0].failures == 0


def test_a_member_has_the_memory_of_its_machine_until_it_has_another(storage: Storage) -> None:
    """Also where less is declared by now; of two machines, while one is being replaced, that of the larger."""
    storage.declare(machine={"memory": "512MiB"})
    member = storage.admit()
    storage.recorder.succeeded(member, EffectKind.CREATE, "made")
    storage.declare(machine={"memory": "128MiB"})
    member = storage.put(storage.members()[0], Phase.IN_SERVICE)
    assert member.memory == 512 * MIB
    storage.recorder.perform(Advance(member, Phase.CREATING, "renewed", new_body=True))
    (member,) = storage.members()
    assert member.memory == 512 * MIB
    storage.declare(machine={"memory": "256MiB"})
    storage.recorder.succeeded(member, EffectKind.CREATE, "made")
    assert storage.members()[0].memory == 512 * MIB  # of which model it was made, nobody knows
    member = storage.put(storage.members()[0], Phase.FAILED)
    storage.recorder.perform(Advance(member, Phase.CREATING, "again", new_body=True))
    storage.recorder.succeeded(storage.members()[0], EffectKind.FORK, "made")
    assert storage.members()[0].memory == 256 * MIB


def test_a_set_that_is_forgotten_can_be_declared_anew(storage: Storage) -> None:
    storage.declare()
    storage.store.mark_deleting("web")
    assert storage.recorder.perform(ForgetSet("web", "all gone"))
    assert storage.store.find_set("web") is None
    assert storage.declare()
    assert "set_deleted" in storage.kinds()


# ---- the same rules in the tests' own world ------------------------------------------------------------------


@settings(some, suppress_health_check=[*HealthCheck])
@given(
    role=st.sampled_from(Role),
    phase=st.sampled_from(Phase),
    request=st.sampled_from([None, *Request]),
    failures=st.integers(0, 3),
    to=st.sampled_from(Phase),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    stale=st.booleans(),
    told=st.sampled_from([None, *GuestPhase]),
    parked=st.sampled_from([None, *PoolState]),
    slots=st.dictionaries(st.integers(0, 2), st.sampled_from([None, "web-00001", "web-00002"]), max_size=3),
    memory=st.sampled_from([0, 64 * MIB, 256 * MIB]),
    is_current=st.booleans(),
)
def test_the_world_of_the_property_tests_records_as_the_store_does(
    tmp_path_factory: pytest.TempPathFactory,
    role: Role,
    phase: Phase,
    request: Request | None,
    failures: int,
    to: Phase,
    flags: tuple[bool, bool, bool],
    stale: bool,
    told: GuestPhase | None,
    parked: PoolState | None,
    slots: dict[int, str | None],
    memory: int,
    is_current: bool,
) -> None:
    storage = open_storage(tmp_path_factory.mktemp("store"))
    storage.declare(
        standby={"max_ready": 3}, drives=[{"name": name, "size": "16MiB", "mount": f"/{name}"} for name in "ab"]
    )
    wanted = storage.store.snapshot().sets[0]
    kept: dict[str, Any] = {"told": told, "entered": bool(failures), "parked": parked, "memory": memory}
    kept["model"] = wanted.model if is_current else "old"
    member = make_member(wanted, role=role, phase=phase, request=request, failures=failures, **kept)
    world = World({"web": wanted}, {member.name: member}, {"local": see_host()}, see_world().balancer)
    holders = {holder: slot for slot, holder in slots.items() if holder is not None}
    known = [
        Drive("web", "a", slot, "local", 2**24, holder, 1.0, failures=2)
        for slot, holder in slots.items()
        if holder is None or holders[holder] == slot
    ]
    world = replace(world, drives={(one.set_name, one.name, one.slot): one for one in known})
    planned = replace(member, incarnation=2 if stale else 1, drives=world.held_by(member.name))
    new_body, answered, new_storage = flags
    steps: list[Any] = [
        Claim(planned, to, "claimed"),
        Advance(planned, to, "advanced", new_body=new_body, answered=answered, new_storage=new_storage),
        Advance(planned, to, "advanced", parked=PoolState.RUNNING),
        Advance(planned, to, "held", is_held=True, asks=Request.RESTART),
        Advance(planned, to, "restarting", is_repair=True, asks=Request.RESTART),
        Retire(planned, "retired"),
        Retire(planned, "retired for its failures", failures=3),
        Renew(planned, "renewed"),
    ]
    steps += [Effect(kind, planned, "done") for (at, kind) in AFTER_SUCCESS if at is phase]
    for step in steps:
        _insert(storage, member, known)
        storage.clock.advance(1)
        now = replace(world, now=storage.clock.now())
        if isinstance(step, Effect):
            storage.recorder.succeeded(step.member, step.kind, step.reason)
            expected = record_success(now, step)
        else:
            storage.recorder.perform(step)
            expected = record(now, step)
        found = {one.name: replace(one, reason="", drives=()) for one in storage.members()}
        assert found == {name: replace(one, reason="") for name, one in expected.members.items()}
        recorded = {(one.set_name, one.name, one.slot): one for one in storage.store.snapshot().drives}
        assert recorded == expected.drives
    storage.store.close()


@pytest.mark.parametrize("parked", [None, PoolState.STOPPED])
def test_the_world_records_a_failed_hook_as_the_store_does(storage: Storage, parked: PoolState | None) -> None:
    storage.declare()
    wanted = storage.store.snapshot().sets[0]
    member = make_member(wanted, phase=Phase.STARTING, parked=parked)
    world = World({"web": wanted}, {member.name: member}, {"local": see_host()}, see_world().balancer)
    _insert(storage, member, [])
    if parked is None:
        storage.recorder.failed(member, "")
    else:
        storage.recorder.refused(member, "")
    expected = record_refusal(world, Effect(EffectKind.TELL, member, "")).members[member.name]
    assert storage.member(member.name) == replace(expected, reason="")


def _insert(storage: Storage, member: Member, known: list[Drive]) -> None:
    """The member's record and these drives, in place of whatever is there."""
    values = {**vars(member), "role": member.role.value, "phase": member.phase.value}
    del values["drives"]
    values["request"] = member.request.value if member.request else None
    with storage.store.database.write() as connection:
        connection.execute(delete(members))
        connection.execute(insert(members).values(**values))
        connection.execute(delete(drives))
        for drive in known:
            connection.execute(insert(drives).values(**vars(drive)))


# ---- repairs -------------------------------------------------------------------------------------------------


def test_a_repair_asks_and_counts(storage: Storage) -> None:
    storage.declare()
    serving = storage.put(storage.admit(), Phase.PROVISIONING, Phase.READY, Phase.IN_SERVICE)
    ill = NoteHealth(serving, NOW, False, "it does not answer")
    assert storage.recorder.perform(ill)
    assert storage.recorder.perform(Repair(storage.member(serving.name), Request.RESTART, "restarting it"))
    asked = storage.member(serving.name)
    assert (asked.request, asked.failures, asked.unhealthy_since) == (Request.RESTART, 1, NOW)
    assert storage.put(asked, Phase.STARTING).unhealthy_since is None


def test_what_the_last_try_failed_of_is_kept_while_it_is_tried_again_and_forgotten_once_it_is_well(
    storage: Storage,
) -> None:
    storage.declare()
    member = storage.admit()
    storage.recorder.failed(member, f"no net\n{'x' * 5000}")
    again = Advance(storage.member(member.name), Phase.CREATING, "trying it again", new_body=True)
    storage.recorder.perform(again)
    storage.recorder.succeeded(storage.member(member.name), EffectKind.CREATE, "creating machine 2")
    tried = storage.member(member.name)
    assert (tried.failures, tried.last_failure.partition("\n")[0]) == (1, "no net")
    assert (len(tried.last_failure), tried.reason) == (2000, "creating machine 2: done")
    serving = storage.put(tried, Phase.READY, Phase.IN_SERVICE)
    storage.recorder.perform(NoteHealth(serving, None, True, "it answers"))
    well = storage.member(member.name)
    assert (well.failures, well.last_failure) == (0, "")


@pytest.mark.parametrize("way", ["a request", "applying the file", "another model", "the pool"])
def test_a_failure_is_forgotten_with_the_tries(storage: Storage, way: str) -> None:
    storage.declare(standby={"max_ready": 5})
    member = storage.admit(Role.STANDBY if way == "the pool" else Role.INSTANCE)
    for _ in range(5):
        storage.recorder.failed(storage.member(member.name), "no net")
        if storage.member(member.name).failures < 5:
            storage.put(storage.member(member.name), Phase.CREATING)
    failed = storage.member(member.name)
    assert (failed.failures, failed.last_failure) == (5, "no net")
    if way == "a request":
        storage.store.request(failed, Request.REIMAGE)
    elif way == "applying the file":
        storage.store.touch_set("web")
    elif way == "another model":
        storage.declare(machine={"memory": "256MiB"})
        storage.recorder.perform(Advance(storage.member(member.name), Phase.CREATING, "again", new_body=True))
    else:
        storage.put(failed, Phase.STANDBY)
    after = storage.member(member.name)
    assert (after.failures, after.last_failure) == (0, "")


def test_who_does_not_come_up_is_held_asked_to_restart_and_given_up(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.PROVISIONING, Phase.READY, Phase.IN_SERVICE, Phase.STARTING)
    assert (member.entered, member.served) == (True, True)
    held: dict[str, Any] = {"is_held": True, "asks": Request.RESTART}
    again: dict[str, Any] = {"is_repair": True, "asks": Request.RESTART}
    for tries in range(5):
        storage.clock.advance(1)
        now = storage.clock.now()
        assert storage.recorder.perform(Advance(member, Phase.STARTING, f"no answer {tries}", **held))
        member = storage.member(member.name)
        assert (member.request, member.unhealthy_since, member.phase_since) == (Request.RESTART, now, now)
        assert (member.failures, member.last_failure) == (tries, f"no answer {tries}" if tries else "")
        assert storage.recorder.perform(Advance(member, Phase.STARTING, f"again: no answer {tries}", **again))
        member = storage.member(member.name)
        assert (member.request, member.unhealthy_since) == (Request.RESTART, None)
        assert (member.failures, member.last_failure) == (tries + 1, f"again: no answer {tries}")
        storage.clock.advance(1)
        assert storage.recorder.succeeded(member, EffectKind.SHUT_DOWN, "restarting")
        member = storage.member(member.name)
        assert (member.request, member.phase, member.phase_since) == (None, Phase.STARTING, storage.clock.now())
    assert "gave_up" not in storage.kinds()
    assert storage.recorder.perform(Advance(member, Phase.STARTING, "no answer", **held))
    assert storage.kinds()[-2:] == ["unhealthy", "gave_up"]
    # The same words again are no news.
    assert storage.recorder.perform(Advance(storage.member(member.name), Phase.STARTING, "no answer", **held))
    assert storage.kinds().count("unhealthy") == 6
    storage.store.touch_set("web")
    member = storage.member(member.name)
    assert (member.failures, member.phase_since, member.request) == (0, 0.0, Request.RESTART)
    storage.store.request(member, Request.RESTART)
    assert storage.member(member.name).unhealthy_since is None


def test_giving_up_is_said_once_and_with_the_way_out(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    for _ in range(5):
        storage.recorder.failed(storage.member(member.name), "no net\nconsole: panic")
        storage.recorder.perform(Advance(storage.member(member.name), Phase.CREATING, "again", new_body=True))
    (said,) = [event.reason for event in storage.store.list_events("web") if event.kind == "gave_up"]
    assert said.splitlines()[0] == "gave up on web-00001 after 5 tries: no net"
    assert "understudy reimage web/web-00001" in said


def test_nobody_is_given_up_once_the_operator_has_spoken(storage: Storage) -> None:
    storage.declare()
    member = storage.put(storage.admit(), Phase.PROVISIONING, Phase.READY, Phase.IN_SERVICE)
    for _ in range(5):
        storage.recorder.perform(Repair(storage.member(member.name), Request.RESTART, "restarting it"))
        storage.put(storage.member(member.name), Phase.STARTING, Phase.IN_SERVICE)
    planned = GiveUp(storage.member(member.name), "gave up")
    assert planned.member.failures == 5
    storage.store.touch_set("web")
    assert not storage.recorder.perform(planned)
    assert "gave_up" not in {event.kind for event in storage.store.list_events("web")}
    assert storage.recorder.perform(replace(planned, member=storage.member(member.name)))


def test_the_operators_word_counts_for_who_was_given_up(storage: Storage) -> None:
    storage.declare()
    member = storage.admit()
    for _ in range(5):
        failed = storage.member(member.name)
        storage.recorder.failed(failed, "no net")
        if storage.member(member.name).failures < 5:
            storage.recorder.perform(Advance(storage.member(member.name), Phase.CREATING, "again", new_body=True))
    assert storage.member(member.name).failures == 5
    storage.store.touch_set("web")
    assert storage.member(member.name).failures == 0
