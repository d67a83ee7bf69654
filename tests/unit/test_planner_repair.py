"""What is done about instances that were in service and do not serve any more, by example."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.models.members import (
    Member,
    Phase,
    PoolState,
    Request,
    Role,
    RolloutCondition,
    RolloutLevel,
    ScaleSet,
)
from orchestrator.models.sightings import Observed, Power, Rotation
from orchestrator.models.steps import (
    Advance,
    Claim,
    GiveUp,
    NoteHealth,
    NoteRestart,
    Plan,
    Repair,
    Retire,
    Settle,
    Step,
)
from orchestrator.planner import Limits, plan
from orchestrator.planner.backoff import MAX_TRIES
from orchestrator.planner.member import MemberPlan, MemberView, plan_member
from orchestrator.planner.repair import Moment, Repairs, plan_repairs, plan_without_disk, probes_to_watch
from orchestrator.planner.restarts import plan_unanswered
from tests.builders import (
    NOW,
    make_member,
    make_members,
    make_set,
    make_spec,
    see_balancer,
    see_host,
    see_machine,
    see_server,
    see_world,
    wish,
)
from tests.unit.world import World, record

READINESS = [{"http": {"port": 80}, "interval": "2s", "failures": 3}]
SURE = 15.0  # seconds; the time of three checks is shorter than the patience


def web(action: str = "restart", instances: int = 2, **fields: Any) -> ScaleSet:
    repair = {"action": action, "grace": "1min", **fields.pop("repair", {})}
    return make_set(make_spec(instances=instances, readiness=READINESS, repair=repair, **fields))


def long_ill(wanted: ScaleSet, suffix: str = "00001", **fields: Any) -> Member:
    return make_member(wanted, suffix, **{"unhealthy_since": NOW - SURE, **fields})


def repairs(wanted: ScaleSet, *members: Member, power: Power = Power.RUNNING, now: float = NOW) -> Repairs:
    """Of these members, none of which answers."""
    servers = {one.name: see_server(is_up=False) for one in members}
    powers = {one.name: power for one in members}
    seen = see_world(balancer=see_balancer(wanted, servers))
    moment = Moment(powers, frozenset(), seen, now, Limits())
    return plan_repairs(wanted, list(members), moment)


def answering(wanted: ScaleSet) -> Observed:
    return see_world(balancer=see_balancer(wanted))


def plan_all(wanted: ScaleSet, members: list[Member], ill: set[str]) -> Plan:
    """The whole plan; members in the pool are stopped."""
    machines = [
        see_machine(one, Power.STOPPED if one.role is Role.STANDBY else Power.RUNNING)
        for one in members
        if one.phase is not Phase.FAILED
    ]
    servers = {one.name: see_server(is_up=one.name not in ill) for one in members if one.role is Role.INSTANCE}
    world = see_world(see_host(*machines), balancer=see_balancer(wanted, servers))
    return plan(wish(wanted, members=members), world, {}, NOW)


def plan_alone(
    wanted: ScaleSet, member: Member, power: Power = Power.RUNNING, rebooted: bool = False
) -> MemberPlan:
    seen = see_machine(member, power, rebooted=rebooted)
    return plan_member(MemberView(member, wanted, seen, see_balancer(wanted), NOW, Limits(), PoolState.STOPPED))


def repaired(made: Repairs) -> list[str]:
    return [step.member.name for step in made.steps if isinstance(step, Repair)]


def only(made: Repairs) -> Step:
    (step,) = made.steps
    return step


# ---- machines that died --------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [Power.STOPPED, Power.CRASHED, Power.HIBERNATED])
def test_a_machine_that_is_off_is_started_again_with_its_disks(power: Power) -> None:
    wanted = web()
    step = only(repairs(wanted, make_member(wanted), power=power))
    assert isinstance(step, Advance)
    assert (step.phase, step.new_body, step.is_repair) == (Phase.STARTING, False, True)
    assert step.parked is (PoolState.HIBERNATED if power is Power.HIBERNATED else None)


@pytest.mark.parametrize("action", ["restart", "reimage", "replace"])
@pytest.mark.parametrize("spares", [0, 1])
def test_of_a_machine_that_vanished_a_ready_member_takes_the_place_else_it_is_made_anew(
    action: str, spares: int
) -> None:
    wanted = web(action, instances=1, standby={"max_ready": 2})
    gone = make_member(wanted, reason="web-00001 is in service")
    pool = make_members(wanted, spares, 101, role=Role.STANDBY, phase=Phase.STANDBY)
    steps = plan_vanished(wanted, gone, pool)
    claims = [step for step in steps if isinstance(step, Claim)]
    anew = [step for step in steps if isinstance(step, Advance) and step.new_body]
    assert ([step.member for step in claims], [step.member for step in anew]) == (
        (pool, []) if spares else ([], [gone])
    )
    if claims:
        assert claims[0].reason == "claimed web-00101 in place of web-00001: machine of web-00001 is absent"


def plan_vanished(wanted: ScaleSet, gone: Member, pool: list[Member]) -> tuple[Step, ...]:
    machines = [see_machine(one, Power.STOPPED) for one in pool]
    world = see_world(see_host(*machines), balancer=see_balancer(wanted))
    return plan(wish(wanted, members=[gone, *pool]), world, {}, NOW).steps


@pytest.mark.parametrize(
    "stake",
    [
        {"local_storage": {"size": "16MiB", "mount": "/mnt"}},
        {"drives": [{"name": "data", "size": "16MiB", "mount": "/data"}]},
    ],
)
def test_what_is_left_of_it_on_its_host_stays_with_its_name(stake: dict[str, Any]) -> None:
    for action in ("restart", "reimage"):
        wanted = web(action, **stake)
        step = only(repairs(wanted, make_member(wanted), power=Power.ABSENT))
        assert isinstance(step, Advance)
        assert (step.phase, step.new_body) == (Phase.CREATING, True)


def test_a_machine_that_crashed_is_not_gone_and_is_repaired_as_declared() -> None:
    for action in ("restart", "reimage"):
        wanted = web(action)
        assert repairs(wanted, make_member(wanted), power=Power.CRASHED).replaced == []


def test_a_crash_costs_the_disk_only_where_that_is_declared() -> None:
    for action, anew in (("restart", False), ("reimage", True)):
        wanted = web(action)
        step = only(repairs(wanted, make_member(wanted), power=Power.CRASHED))
        assert isinstance(step, Advance)
        assert step.new_body is anew


def test_a_machine_that_its_guest_switched_off_keeps_its_disk_whatever_is_declared() -> None:
    for action in ("restart", "reimage", "replace"):
        wanted = web(action)
        step = only(repairs(wanted, make_member(wanted), power=Power.STOPPED))
        assert isinstance(step, Advance)
        assert step.phase is Phase.STARTING


def test_machines_that_died_together_come_back_together() -> None:
    wanted = web(instances=10)
    made = repairs(wanted, *make_members(wanted, 10, phase_since=NOW), power=Power.STOPPED)
    assert len(made.steps) == 10


@pytest.mark.parametrize(("action", "power"), [("reimage", Power.CRASHED), ("restart", Power.ABSENT)])
@pytest.mark.parametrize(("instances", "at_once"), [(10, 2), (1, 1)])
def test_not_more_get_a_new_body_at_once_than_max_unhealthy(
    action: str, power: Power, instances: int, at_once: int
) -> None:
    wanted = web(action, instances=instances, repair={"max_unhealthy": "20%"})
    dead = make_members(wanted, instances)
    made = repairs(wanted, *dead, power=power)
    anew = [step.member for step in made.steps if isinstance(step, Advance)] + [one for one, _ in made.replaced]
    assert len(anew) == at_once
    notes = [step for step in made.steps if isinstance(step, NoteHealth)]
    assert len(notes) == len(made.waiting) == instances - at_once
    assert all("as many as max_unhealthy allows are out of service already" in one.reason for one in notes)
    assert {(one.unhealthy_since, one.is_well) for one in notes} <= {(NOW, False)}
    away = [replace(one, phase=Phase.CREATING, entered=False) for one in anew]
    rest = [one for one in dead if one not in anew]
    made = repairs(wanted, *away, *rest, power=power)
    assert not made.replaced and not any(isinstance(step, Advance) for step in made.steps)


def test_ten_crashes_do_not_use_up_the_pool() -> None:
    wanted = web("replace", instances=10, repair={"max_unhealthy": "20%"}, standby={"max_ready": 16})
    spares = make_members(wanted, 6, 101, role=Role.STANDBY, phase=Phase.STANDBY)
    dead = make_members(wanted, 10)
    machines = [see_machine(one, Power.CRASHED) for one in dead]
    machines += [see_machine(one, Power.STOPPED) for one in spares]
    world = see_world(see_host(*machines), balancer=see_balancer(wanted))
    steps = plan(wish(wanted, members=[*dead, *spares]), world, {}, NOW).steps
    assert sum(isinstance(step, Claim) for step in steps) == 2
    assert not any(isinstance(step, Advance) for step in steps)


def test_a_plain_start_waits_for_nobody_while_others_are_made_anew() -> None:
    wanted = web("reimage", instances=3)
    anew = make_member(wanted, "00001", phase=Phase.CREATING, served=True)
    (step,) = repairs(wanted, anew, make_member(wanted, "00002"), power=Power.STOPPED).steps
    assert isinstance(step, Advance)
    assert step.phase is Phase.STARTING


def test_a_machine_that_dies_again_and_again_is_given_growing_pauses() -> None:
    wanted = web()
    again = make_member(wanted, failures=2, phase_since=NOW)
    made = repairs(wanted, again, power=Power.CRASHED, now=NOW + 59)
    assert (made.steps, made.wakes) == ([], [NOW + 60])
    assert len(repairs(wanted, again, power=Power.CRASHED, now=NOW + 60).steps) == 1


@pytest.mark.parametrize("power", [Power.CRASHED, Power.RUNNING])
def test_in_the_end_it_is_given_up_with_one_message(power: Power) -> None:
    wanted = web()
    ill = long_ill(wanted, failures=MAX_TRIES, phase_since=NOW - 10_000)
    step = only(repairs(wanted, ill, power=power))
    assert isinstance(step, GiveUp)
    assert step.reason.startswith("gave up on web-00001 after 5 tries: ")
    given_up = replace(ill, reason=step.reason)
    made = repairs(wanted, given_up, power=power)
    assert (made.steps, made.waiting) == ([], [step.reason])
    for later in (Power.STOPPED, Power.ABSENT, Power.RUNNING):  # whatever else becomes of it
        assert repairs(wanted, given_up, power=later).steps == []


def test_the_last_try_has_its_grace_too_before_it_is_given_up() -> None:
    wanted = web()
    grace = wanted.spec.repair.grace
    ill = long_ill(wanted, failures=MAX_TRIES, phase_since=NOW)
    made = repairs(wanted, ill, now=NOW + grace - 1)
    assert (made.steps, made.wakes) == ([], [NOW + grace])
    assert made.waiting[0].endswith("it is given time after its last try")
    assert isinstance(only(repairs(wanted, ill, now=NOW + grace)), GiveUp)


@pytest.mark.parametrize("power", [Power.CRASHED, Power.ABSENT, Power.RUNNING])
def test_nothing_is_repaired_where_repair_is_off(power: Power) -> None:
    wanted = web("none")
    made = repairs(wanted, long_ill(wanted), power=power)
    assert made.steps == []
    assert "repair is off" in made.waiting[0]


def test_a_silent_host_says_nothing_about_its_machines() -> None:
    wanted = web()
    assert repairs(wanted, long_ill(wanted), power=Power.UNKNOWN) == Repairs()


# ---- services that do not answer -----------------------------------------------------------------------------


def test_services_that_stop_answering_are_noted_first() -> None:
    wanted = web()
    step = only(repairs(wanted, make_member(wanted)))
    assert isinstance(step, NoteHealth)
    assert (step.unhealthy_since, step.is_well) == (NOW, False)


def test_nothing_is_done_before_that_many_checks_failed() -> None:
    wanted = web()
    made = repairs(wanted, long_ill(wanted), now=NOW - 0.1)
    assert (made.steps, made.waiting, made.wakes) == ([], [], [NOW])


@pytest.mark.parametrize(("action", "request_"), [("restart", Request.RESTART), ("reimage", Request.REIMAGE)])
def test_then_it_is_repaired_as_declared(action: str, request_: Request) -> None:
    wanted = web(action)
    step = only(repairs(wanted, long_ill(wanted)))
    assert isinstance(step, Repair)
    assert step.request is request_


def test_an_instance_that_has_just_entered_service_is_given_grace() -> None:
    wanted = web()
    made = repairs(wanted, long_ill(wanted, phase_since=NOW - 59))
    assert (made.steps, made.wakes) == ([], [NOW + 1])
    assert len(repairs(wanted, long_ill(wanted, phase_since=NOW - 60)).steps) == 1


def test_services_that_answer_again_are_noted() -> None:
    wanted = web()
    ill = long_ill(wanted, failures=1, phase_since=NOW - 59)
    moment = Moment({ill.name: Power.RUNNING}, frozenset(), answering(wanted), NOW, Limits())
    step = only(plan_repairs(wanted, [ill], moment))
    assert isinstance(step, NoteHealth)
    assert (step.unhealthy_since, step.is_well) == (None, False)


def test_failures_are_over_once_an_instance_served_for_its_grace() -> None:
    wanted = web()
    once = make_member(wanted, failures=3, phase_since=NOW - 59)
    moment = Moment({once.name: Power.RUNNING}, frozenset(), answering(wanted), NOW, Limits())
    assert plan_repairs(wanted, [once], moment).wakes == [NOW + 1]
    step = only(plan_repairs(wanted, [once], replace(moment, now=NOW + 1)))
    assert isinstance(step, NoteHealth)
    assert step.is_well


@pytest.mark.parametrize(
    "fields",
    [
        {"request": Request.REIMAGE},
        {"phase": Phase.STOPPED},
        {"phase": Phase.STARTING},
        {"phase": Phase.DRAINING},
        {"role": Role.STANDBY, "phase": Phase.STANDBY},
    ],
)
def test_who_is_not_expected_to_serve_is_not_repaired(fields: dict[str, Any]) -> None:
    wanted = web()
    assert repairs(wanted, long_ill(wanted, **fields)) == Repairs()


def test_a_server_that_is_not_in_rotation_says_nothing_about_its_guest() -> None:
    wanted = web()
    member = make_member(wanted)
    seen = see_world(balancer=see_balancer(wanted, {member.name: see_server(Rotation.MAINT, is_up=False)}))
    moment = Moment({member.name: Power.RUNNING}, frozenset(), seen, NOW, Limits())
    assert plan_repairs(wanted, [member], moment) == Repairs()


def test_a_balancer_that_does_not_run_says_nothing() -> None:
    wanted = web()
    moment = Moment({"web-00001": Power.RUNNING}, frozenset(), see_world(), NOW, Limits())
    assert plan_repairs(wanted, [long_ill(wanted)], moment) == Repairs()


def test_a_probe_that_the_balancer_does_not_ask_counts_too() -> None:
    wanted = web()
    member = long_ill(wanted)
    seen = replace(see_world(), silent=frozenset({member.name}))
    moment = Moment({member.name: Power.RUNNING}, frozenset(), seen, NOW, Limits())
    assert isinstance(only(plan_repairs(wanted, [member], moment)), Repair)


def test_watched_are_the_probes_that_the_balancer_does_not_ask() -> None:
    readiness = [
        {"tcp": {"port": 80}},
        {"http": {"port": 80}},
        {"http": {"port": 81}},
        {"command": "true"},
    ]
    watched = probes_to_watch(make_spec(readiness=readiness))
    assert [(probe.port, probe.command) for probe in watched] == [(80, None), (81, None), (None, "true")]


@pytest.mark.parametrize(
    ("instances", "share", "at_once"),
    [(10, "20%", 2), (10, "35%", 3), (4, "20%", 1), (2, "100%", 2), (1, "1%", 1)],
)
def test_not_more_are_repaired_at_once_than_max_unhealthy(instances: int, share: str, at_once: int) -> None:
    wanted = web(instances=instances, repair={"max_unhealthy": share})
    ill = [long_ill(wanted, f"{number:05}") for number in range(1, instances + 1)]
    assert len(repaired(repairs(wanted, *ill))) == at_once
    away = [replace(one, phase=Phase.STARTING) for one in ill[:at_once]]
    assert repaired(repairs(wanted, *away, *ill[at_once:])) == []


@pytest.mark.parametrize(
    "idle",
    [
        {"phase": Phase.FAILED, "failures": MAX_TRIES},
        {"phase": Phase.STARTING, "failures": MAX_TRIES, "unhealthy_since": NOW},  # held
        {"phase": Phase.CREATING, "served": False},
        {"phase": Phase.PROVISIONING, "served": False},
        {"phase": Phase.FAILED, "served": False, "failures": 2},
        {"phase": Phase.STARTING, "entered": False, "served": False},  # claimed
    ],
)
def test_who_is_given_up_and_growth_keep_nobody_from_being_repaired(idle: dict[str, Any]) -> None:
    wanted = web(instances=3)
    others = [make_member(wanted, "00001", **{"served": True, **idle}), make_member(wanted, "00003")]
    assert repaired(repairs(wanted, *others, long_ill(wanted, "00002"))) == ["web-00002"]


@pytest.mark.parametrize(
    "away",
    [
        {"phase": Phase.CREATING},
        {"phase": Phase.FAILED, "failures": MAX_TRIES - 1},
        {"phase": Phase.STARTING, "failures": 2, "unhealthy_since": NOW},
        {"phase": Phase.STARTING, "failures": MAX_TRIES},  # its last try
        {"request": Request.RESTART},
    ],
)
def test_who_is_expected_back_counts_as_out_of_service(away: dict[str, Any]) -> None:
    wanted = web(instances=3)
    other = make_member(wanted, "00001", **{"served": True, "entered": False, **away})
    assert repaired(repairs(wanted, other, long_ill(wanted, "00002"))) == []


def test_who_takes_the_place_of_a_broken_one_counts_until_it_serves() -> None:
    wanted, instances, spares = replacing()
    world = World({"web": wanted}, {one.name: one for one in [*instances, *spares]}, {}, see_balancer(wanted))
    for failures in (0, 2):
        claimed = record(world, Claim(spares[0], Phase.STARTING, "claimed", failures)).members[spares[0].name]
        assert claimed.served is (failures > 0)


def test_who_waits_because_others_are_repaired_says_so_once_and_is_ill_since_then() -> None:
    wanted = web(instances=2)
    away, ill = make_member(wanted, phase=Phase.STARTING), long_ill(wanted, "00002")
    step = only(repairs(wanted, away, ill))
    assert isinstance(step, NoteHealth)
    assert (step.member, step.unhealthy_since, step.is_well) == (ill, NOW - SURE, False)
    assert "as many as max_unhealthy allows are out of service already" in step.reason
    made = repairs(wanted, away, replace(ill, reason=step.reason))
    assert (made.steps, made.waiting) == ([], [step.reason])


# ---- replacement from the pool -------------------------------------------------------------------------------


def replacing() -> tuple[ScaleSet, list[Member], list[Member]]:
    pool = {"state": "stopped", "max_ready": 4}
    wanted = web("replace", standby=pool)
    spares = make_members(wanted, 2, 101, role=Role.STANDBY, phase=Phase.STANDBY)
    return wanted, [make_member(wanted), long_ill(wanted, "00002", failures=1)], spares


def test_a_ready_member_of_the_pool_takes_the_place_and_the_failures() -> None:
    wanted, instances, spares = replacing()
    steps = plan_all(wanted, [*instances, *spares], {"web-00002"}).steps
    (claim,) = (step for step in steps if isinstance(step, Claim))
    assert (claim.member.name, claim.failures) == ("web-00101", 2)
    assert [step.member.name for step in steps if isinstance(step, Retire)] == ["web-00002"]
    assert not any(isinstance(step, Repair) for step in steps)


def test_without_one_it_is_made_anew() -> None:
    wanted, instances, _ = replacing()
    steps = plan_all(wanted, instances, {"web-00002"}).steps
    assert [(step.member.name, step.request) for step in steps if isinstance(step, Repair)] == [
        ("web-00002", Request.REIMAGE)
    ]


def test_one_failure_is_enough_to_be_replaced_and_too_many_use_up_no_pool() -> None:
    wanted, instances, spares = replacing()
    for failures, replaced in ((1, True), (MAX_TRIES - 1, True), (MAX_TRIES, False)):
        failed = replace(instances[1], phase=Phase.FAILED, failures=failures, unhealthy_since=None)
        steps = plan_all(wanted, [instances[0], failed, *spares], set()).steps
        assert any(isinstance(step, Claim) for step in steps) is replaced


# ---- giving up -----------------------------------------------------------------------------------------------


def test_an_instance_that_cannot_be_made_is_given_up_but_the_pool_never_is() -> None:
    wanted = make_set(make_spec(instances=1, standby={"max_ready": 2}))
    failed = make_member(wanted, phase=Phase.FAILED, failures=MAX_TRIES, phase_since=0.0, reason="no net\nconsole")
    for role, is_given_up in ((Role.INSTANCE, True), (Role.STANDBY, False)):
        made = plan_alone(wanted, replace(failed, role=role), Power.ABSENT)
        assert (made.steps == ()) is is_given_up
        if is_given_up:
            assert (made.waiting, made.until) == ("gave up on web-00001 after 5 tries: no net", None)


def test_a_set_with_an_instance_given_up_says_so_and_waits() -> None:
    wanted = make_set(make_spec(instances=1, endpoints=[]))
    member = make_member(wanted, phase=Phase.FAILED, failures=MAX_TRIES, reason="no net")
    made = plan(wish(wanted, members=[member]), see_world(see_host()), {}, NOW)
    (step,) = (step for step in made.steps if isinstance(step, Settle))
    assert step.stuck == "gave up on web-00001 after 5 tries: no net"
    assert made.wake_at is None


# ---- restarts that belong to setup ---------------------------------------------------------------------------


def setting_up(restarts: int, counted: int, rebooted: bool, since: float = NOW - 10) -> tuple[Any, Any]:
    wanted = make_set(make_spec(setup={"restarts": restarts, "timeout": "1min"}))
    member = make_member(wanted, phase=Phase.PROVISIONING, restarts=counted, phase_since=since)
    made = plan_alone(wanted, member, rebooted=rebooted)
    return made, made.steps[0] if made.steps else None


def test_setup_is_not_over_before_its_last_restart() -> None:
    made, step = setting_up(restarts=2, counted=1, rebooted=False)
    assert (step, made.until) == (None, NOW + 50)
    assert "restart 2 of 2" in made.waiting
    _, step = setting_up(restarts=2, counted=1, rebooted=True)
    assert isinstance(step, NoteRestart)
    _, step = setting_up(restarts=2, counted=2, rebooted=True)
    assert step.kind == "provision"


def test_a_setup_that_does_not_restart_as_declared_fails_in_time() -> None:
    _, step = setting_up(restarts=1, counted=0, rebooted=False, since=NOW - 60)
    assert isinstance(step, Advance)
    assert step.phase is Phase.FAILED
    assert "restart 1 of 1" in step.reason


def test_a_machine_that_crashes_at_every_start_is_not_started_for_ever() -> None:
    wanted = make_set(make_spec(setup={"timeout": "1min"}))
    for age, phase in ((59, None), (60, Phase.FAILED)):
        member = make_member(wanted, phase=Phase.STARTING, phase_since=NOW - age, served=False)
        assert getattr(plan_alone(wanted, member, Power.CRASHED).steps[0], "phase", None) is phase
        step = plan_alone(wanted, replace(member, served=True), Power.CRASHED).steps[0]
        assert getattr(step, "is_held", False) is (phase is not None)


# ---- while a rollout is stopped ------------------------------------------------------------------------------

OLD = "0" * 16
ACTIONS = ["restart", "reimage", "replace"]


def stopped(action: str, **fields: Any) -> tuple[ScaleSet, Member, Member]:
    """The set, an instance of the older model that is ill for long, and one of the new model that failed twice."""
    wanted = web(action, **fields)
    wanted = replace(wanted, rollout=RolloutCondition(RolloutLevel.STOPPED, wanted.model))
    failed = make_member(wanted, "00009", phase=Phase.FAILED, failures=2, phase_since=NOW, served=False)
    return wanted, long_ill(wanted, model=OLD), failed


def plan_stopped(wanted: ScaleSet, members: list[Member], power: Power) -> Plan:
    older, *rest = members
    machines = [see_machine(older, power)] if power is not Power.ABSENT else []
    machines += [see_machine(one) for one in rest if one.phase is not Phase.FAILED]
    servers = {one.name: see_server(is_up=False) for one in members}
    return plan(
        wish(wanted, members=members),
        see_world(see_host(*machines), balancer=see_balancer(wanted, servers)),
        {},
        NOW,
    )


def about(made: Plan, member: Member) -> list[Step]:
    return [step for step in made.steps if getattr(step, "member", None) == member]


@pytest.mark.parametrize("action", ACTIONS)
def test_while_the_rollout_is_stopped_an_older_instance_is_only_restarted(action: str) -> None:
    wanted, older, failed = stopped(action)
    (step,) = about(plan_stopped(wanted, [older, failed], Power.RUNNING), older)
    assert isinstance(step, Repair)
    assert step.request is Request.RESTART
    for power in (Power.CRASHED, Power.STOPPED):
        (step,) = about(plan_stopped(wanted, [older, failed], power), older)
        assert isinstance(step, Advance)
        assert (step.phase, step.new_body) == (Phase.STARTING, False)
    again = replace(older, failures=1)
    seen = see_machine(again, rebooted=True)
    view = MemberView(again, wanted, seen, see_balancer(wanted), NOW, Limits(), PoolState.STOPPED, is_stopped=True)
    (step,) = plan_member(view).steps
    assert isinstance(step, Advance)
    assert (step.phase, step.is_held) == (Phase.STARTING, True)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("phase", [Phase.IN_SERVICE, Phase.STARTING, Phase.READY])
def test_one_whose_machine_vanished_waits_and_says_how_to_go_on(action: str, phase: Phase) -> None:
    wanted, older, failed = stopped(action, endpoints=[])
    older = replace(older, phase=phase, unhealthy_since=None)
    made = plan_stopped(wanted, [older, failed], Power.ABSENT)
    assert about(made, older) == []
    (settled,) = (step for step in made.steps if isinstance(step, Settle))
    assert f"machine of {older.name} is absent; the rollout of web is stopped" in settled.stuck
    assert "apply the file of before, or a mended one" in settled.stuck
    # Applying the file of before makes its model the declared one again.
    back = replace(wanted, model=OLD, generation=2)
    (step,) = about(plan_stopped(back, [older, replace(failed, phase_since=0.0)], Power.ABSENT), older)
    assert isinstance(step, Advance)
    assert step.new_body


@pytest.mark.parametrize("action", ACTIONS)
def test_one_that_does_not_come_up_or_has_lost_its_disk_keeps_its_body(action: str) -> None:
    wanted, older, failed = stopped(action)
    starting = replace(older, phase=Phase.STARTING, unhealthy_since=None)
    for step in (plan_unanswered(starting, wanted, "late"), plan_without_disk(starting, wanted, "no disk")):
        assert (step.phase, step.new_body, step.is_held) == (Phase.STARTING, False, True)
        held = replace(starting, request=step.asks, unhealthy_since=NOW - 60, phase_since=NOW - 60)
        (again,) = about(plan_stopped(wanted, [held, failed], Power.STOPPED), held)
        assert isinstance(again, Advance)
        assert (again.phase, again.asks) == (Phase.STARTING, Request.RESTART)


@pytest.mark.parametrize("action", ["reimage", "replace"])
def test_one_that_did_not_come_up_is_given_a_new_body_once_the_rollout_goes_on(action: str) -> None:
    wanted, older, _ = stopped(action)
    late = replace(older, phase=Phase.STARTING, request=Request.RESTART, phase_since=NOW - 60)
    view = MemberView(late, wanted, see_machine(late), see_balancer(wanted), NOW, Limits(), PoolState.STOPPED)
    (step,) = plan_member(view).steps
    assert isinstance(step, Advance)
    assert step.phase is Phase.FAILED


def test_the_machines_of_the_new_model_are_repaired_as_declared_all_the_same() -> None:
    wanted, older, failed = stopped("reimage", repair={"max_unhealthy": "100%"})
    newer = long_ill(wanted, "00002")
    (step,) = about(plan_stopped(wanted, [newer, older, failed], Power.CRASHED), newer)
    assert isinstance(step, Advance)
    assert step.new_body
