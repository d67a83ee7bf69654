"""What the planner promises about every world.

`worlds()` draws any mix of phases, powers, roles, requests, sizes, pool states and models that records and hosts
can hold; `tests.unit.world` carries the plans out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random

from hypothesis import event, given
from hypothesis import strategies as st

from orchestrator.models.members import (
    GuestPhase,
    Member,
    Phase,
    Request,
    Role,
    RolloutCondition,
    RolloutLevel,
    ScaleSet,
)
from orchestrator.models.naming import domain_name
from orchestrator.models.sightings import Observed, Power, Rotation
from orchestrator.models.spec import HooksSpec, SetupSpec
from orchestrator.models.steps import (
    Admit,
    Advance,
    Claim,
    ConvergeBalancer,
    Effect,
    EffectKind,
    Interrupt,
    Plan,
    RecordStep,
    RemoveLeak,
    Repair,
    Retire,
    Step,
)
from orchestrator.planner import plan
from orchestrator.planner.balancer import desired_balancer
from orchestrator.planner.claims import plan_claimed
from orchestrator.planner.restarts import has_been_in_service
from orchestrator.planner.rollout import RolloutState, bounds_of
from orchestrator.service.status import find_rollout
from tests.builders import MIB, PREFIX, see_machine
from tests.unit.examples import many, some
from tests.unit.world import (
    World,
    after_crash,
    after_slow_turn,
    after_step,
    after_turn,
    at_rest,
    converge_balancer,
    record,
    why_not_converged,
    with_machine,
)
from tests.unit.worlds import OLD_MODEL, SEEN, rollouts, worlds

STARTS = (EffectKind.START, EffectKind.AWAIT)
ON_THE_WAY = (Phase.CREATING, Phase.PROVISIONING, Phase.STARTING)


def assert_converged(start: World, end: World) -> None:
    for name, wanted in start.sets.items():
        if wanted.deleting:
            assert name not in end.sets, f"set {name} is still recorded"
            assert not end.of(name), f"members of deleted set {name} are left"
        else:
            assert why_not_converged(end, end.sets[name]) == ""
    assert end.plan().steps == ()
    machines = end.machines()
    for name, member in end.members.items():
        # What vanished while it was stopped is made anew when it is started.
        is_optional = member.phase is Phase.STOPPED
        assert machines.pop(domain_name(PREFIX, name), 0) in ((0, 1) if is_optional else (1,))
    assert not machines


# ---- convergence ---------------------------------------------------------------------------------------------


@many
@given(worlds())
def test_any_world_converges_and_a_converged_world_gives_an_empty_plan(start: World) -> None:
    assert_converged(start, at_rest(start))


@many
@given(worlds(), st.randoms(use_true_random=False), st.booleans())
def test_every_guest_that_runs_reads_where_it_is_once_a_world_has_converged(
    start: World, chance: Random, is_healthy: bool
) -> None:
    end = at_rest(_with_restarts(_all_healthy(start), chance) if is_healthy else start)
    for member in end.members.values():
        told = end.reads.get(domain_name(PREFIX, member.name))
        if end.sets[member.set_name].spec.setup.answer_file != "cloud-init":
            assert told is None
        elif end.power(member) is Power.RUNNING:
            event(f"{member.role.value} runs")
            assert told is (GuestPhase.IN_SERVICE if member.role is Role.INSTANCE else GuestPhase.STANDBY)


def _with_restarts(world: World, chance: Random) -> World:
    """Everybody was told, as recorded; then some guests restarted by themselves."""
    told = {
        name: GuestPhase.IN_SERVICE if one.role is Role.INSTANCE else GuestPhase.STANDBY
        for name, one in world.members.items()
        if world.sets[one.set_name].spec.setup.answer_file == "cloud-init" and world.power(one) is Power.RUNNING
    }
    members = {name: replace(one, told=told.get(name), entered=True) for name, one in world.members.items()}
    reads = {domain_name(PREFIX, name): word for name, word in told.items()}
    world = replace(world, members=members, reads=reads)
    for name in chance.sample(sorted(told), len(told) // 2):
        domain = domain_name(PREFIX, name)
        world = with_machine(world, members[name].host, domain, see_machine(members[name], rebooted=True))
        world = replace(world, reads={key: word for key, word in world.reads.items() if key != domain})
    return world


@many
@given(worlds(deleting=False), st.randoms(use_true_random=False), st.booleans())
def test_a_claim_that_fails_goes_to_the_next_and_the_world_converges(
    start: World, chance: Random, is_healthy: bool
) -> None:
    """on_claim fails in some of the members there are; in those that come it does not."""
    start = _with_on_claim(_all_healthy(start) if is_healthy else start)
    names = sorted(name for name, one in start.members.items() if one.role is Role.STANDBY)
    world = replace(start, refusing=frozenset(chance.sample(names, chance.randint(0, len(names)))))
    refused: set[str] = set()

    def witness(world: World, step: Step) -> None:
        if isinstance(step, Effect) and step.kind is EffectKind.TELL and step.member.name in world.refusing:
            refused.update([step.member.name] if step.member.phase is Phase.STARTING else [])

    end = at_rest(world, witness=witness)
    event(f"{min(len(refused), 2)} refused")
    assert_converged(replace(start, sets=end.sets), end)
    assert not refused & set(end.members)


def _with_on_claim(world: World) -> World:
    sets = {}
    for name, wanted in world.sets.items():
        spec = wanted.spec.model_copy(update={"hooks": HooksSpec(on_claim=("come",)), "setup": SetupSpec()})
        sets[name] = replace(wanted, spec=spec)
    members = {
        # Since when it is recorded, every member that stands by has it.
        name: replace(one, parked=one.parked or sets[one.set_name].pool_state)
        if one.phase is Phase.STANDBY
        else one
        for name, one in world.members.items()
    }
    return replace(world, sets=sets, members=members)


@many
@given(worlds())
def test_nothing_is_in_rotation_before_its_on_claim_has_run(start: World) -> None:
    def witness(world: World, step: Step) -> None:
        if isinstance(step, ConvergeBalancer):
            ready = {name for (_, name), state in step.config.server_states().items() if state is Rotation.READY}
            for name in ready:
                member = world.members[name]
                assert member.entered or not world.sets[member.set_name].spec.hooks.on_claim

    at_rest(start, witness=witness)


@many
@given(worlds())
def test_on_claim_runs_once_for_each_body_and_only_in_instances(start: World) -> None:
    ran: set[tuple[str, int]] = set()

    def witness(_world: World, step: Step) -> None:
        if isinstance(step, Effect) and step.kind is EffectKind.TELL and step.member.phase is Phase.STARTING:
            body = (step.member.name, step.member.incarnation)
            assert body not in ran
            assert (step.member.role, step.member.entered) == (Role.INSTANCE, False)
            ran.add(body)

    at_rest(start, witness=witness)


@many
@given(worlds())
def test_no_drain_ends_before_its_on_drain_has_run(start: World) -> None:
    def witness(world: World, step: Step) -> None:
        if not isinstance(step, Advance) or step.member.phase is not Phase.DRAINING:
            return
        if world.sets[step.member.set_name].spec.hooks.on_drain and world.power(step.member) is Power.RUNNING:
            assert step.member.told is GuestPhase.DRAINING

    at_rest(start, witness=witness)


@many
@given(worlds(), st.randoms(use_true_random=False))
def test_a_world_converges_when_effects_take_any_number_of_turns(start: World, chance: Random) -> None:
    world = start
    for turn in range(200):
        world, made = after_slow_turn(world, _slowness(chance, most=60 - turn))
        if not made.steps and not world.busy and made.wake_at is None:
            break
    assert_converged(start, world)


def _slowness(chance: Random, most: int) -> Callable[[], bool]:
    """Three of five effects take longer, as long as `most` turns are left for that."""
    return lambda: most > 0 and chance.random() < 0.6


@some
@given(worlds(deleting=False), st.randoms(use_true_random=False))
def test_a_world_disturbed_on_the_way_converges_once_it_is_left_alone(start: World, chance: Random) -> None:
    world = start
    for _ in range(8):
        world, _made = after_turn(_disturb(world, chance))
    assert_converged(replace(start, sets=world.sets), at_rest(world, turns=100))


def _disturb(world: World, chance: Random) -> World:
    """A machine dies or vanishes, or the operator asks for another size."""
    if world.members and chance.random() < 0.5:
        member = chance.choice(sorted(world.members.values(), key=lambda one: one.name))
        power = chance.choice(SEEN)
        seen = None if power is Power.ABSENT else see_machine(member, power)
        world = with_machine(world, member.host, domain_name(PREFIX, member.name), seen)
    if chance.random() < 0.4:
        wanted = chance.choice(sorted(world.sets.values(), key=lambda one: one.name))
        spec = wanted.spec.model_copy(update={"instances": chance.randrange(6)})
        changed = replace(wanted, spec=spec, generation=wanted.generation + 1)
        world = replace(world, sets={**world.sets, wanted.name: changed})
    return world


@some
@given(worlds(silent=True))
def test_what_cannot_be_reached_now_is_said_by_the_set(start: World) -> None:
    end = at_rest(start)
    assert end.plan().steps == ()
    for wanted in end.sets.values():
        unknown = [member for member in end.of(wanted.name) if end.power(member) is Power.UNKNOWN]
        missing = why_not_converged(end, wanted)
        event("reachable" if not unknown and not missing else "something is missing")
        assert not missing or wanted.stuck, f"{missing}, but nobody says so"
        for member in unknown:
            assert member.host in wanted.stuck


@many
@given(worlds(memory=4 * 128 * MIB) | worlds(memory=8 * 128 * MIB), st.booleans())
def test_without_room_the_set_says_what_is_missing_and_memory_is_never_overcommitted(
    start: World, is_smaller: bool
) -> None:
    """`is_smaller`: the model that is rolled out has half the memory of the one before."""
    start = _with_larger_machines(start) if is_smaller else start
    booked = _committed(start)
    world = start
    for _ in range(120):
        world, made = after_turn(world)
        for host, memory in _committed(world).items():
            assert memory <= max(world.hosts[host].memory_total, booked.get(host, 0))
        if not made.steps and made.wake_at is None:
            break
    for wanted in world.sets.values():
        missing = why_not_converged(world, wanted)
        event("fits" if not missing else "does not fit")
        assert not missing or "MiB of memory to give" in wanted.stuck


def _with_larger_machines(world: World) -> World:
    """Those of the older model."""
    larger = {
        name: replace(one, memory=2 * world.sets[one.set_name].spec.machine.memory)
        for name, one in world.members.items()
        if one.model == OLD_MODEL
    }
    sizes = {domain_name(PREFIX, name): one.memory for name, one in larger.items()}
    return replace(world, members={**world.members, **larger}, sizes={**world.sizes, **sizes})


def _committed(world: World) -> Counter[str]:
    """What machines were made with; of those that are smaller, or still to be made, what they will have."""
    taken: Counter[str] = Counter()
    machines = world.machines()
    for name, member in world.members.items():
        domain, declared = domain_name(PREFIX, name), world.sets[member.set_name].spec.machine.memory
        taken[member.host] += max(world.sizes[domain], declared) if domain in machines else declared
    return taken


# ---- crashes -------------------------------------------------------------------------------------------------


@many
@given(worlds(), st.lists(st.integers(0, 12), max_size=5))
def test_a_controller_that_crashes_within_any_turn_converges_to_the_same_sizes(
    start: World, cuts: list[int]
) -> None:
    world = start
    for done in cuts:
        world = after_crash(world, done)
    assert_converged(start, at_rest(world))


@some
@given(worlds(), st.data())
def test_no_member_gets_a_second_machine_by_a_crash(start: World, data: st.DataObject) -> None:
    world = start
    for _ in range(4):
        world = after_crash(world, data.draw(st.integers(0, len(world.plan().steps))))
        assert max(world.machines().values(), default=0) <= 1
        mine = {domain_name(PREFIX, name) for name in world.members}
        leaks = {domain for domain in start.machines() if domain not in mine}
        assert set(world.machines()) <= mine | leaks


# ---- destruction ---------------------------------------------------------------------------------------------


@many
@given(worlds(deleting=False))
def test_as_many_are_retired_as_there_are_too_many_and_nobody_admitted_is_retired_again(start: World) -> None:
    """Machines of the current model, all healthy: sizes alone decide who goes."""
    world = _all_healthy(start)
    gone: Counter[tuple[str, Role]] = Counter()
    claimed: Counter[str] = Counter()

    def witness(_world: World, step: Step) -> None:
        if isinstance(step, Claim):
            claimed[step.member.set_name] += 1
        if isinstance(step, Retire):
            assert step.member.name in world.members, f"{step.member.name} was admitted to be retired"
            gone[step.member.set_name, step.member.role] += 1

    at_rest(world, witness=witness)
    for wanted in world.sets.values():
        instances = len(world.of(wanted.name, Role.INSTANCE))
        pool = len(world.of(wanted.name, Role.STANDBY))
        assert gone[wanted.name, Role.INSTANCE] == max(instances - wanted.wanted_instances, 0)
        assert claimed[wanted.name] <= min(max(wanted.wanted_instances - instances, 0), pool)
        assert gone[wanted.name, Role.STANDBY] == max(pool - claimed[wanted.name] - wanted.standby_target, 0)


def _all_healthy(world: World) -> World:
    """The same members, all where they should be, with their machines."""
    world = replace(world, members={name: _healthy(world, one) for name, one in world.members.items()})
    world = replace(world, hosts={name: replace(host, machines={}) for name, host in world.hosts.items()})
    for member in world.members.values():
        wanted = world.sets[member.set_name]
        power = Power(wanted.pool_state.value) if member.role is Role.STANDBY else Power.RUNNING
        world = with_machine(world, member.host, domain_name(PREFIX, member.name), see_machine(member, power))
    return world


def _healthy(world: World, member: Member) -> Member:
    phase = Phase.IN_SERVICE if member.role is Role.INSTANCE else Phase.STANDBY
    wanted = world.sets[member.set_name]
    return replace(member, phase=phase, model=wanted.model, request=None, failures=0, parked=None)


@many
@given(worlds())
def test_a_machine_is_only_destroyed_for_a_member_that_leaves_has_failed_or_gets_a_new_body(start: World) -> None:
    def witness(world: World, step: Step) -> None:
        if isinstance(step, Effect) and step.kind is EffectKind.DESTROY:
            assert step.member.phase in (Phase.DELETING, Phase.FAILED)
        if isinstance(step, Effect) and step.kind is EffectKind.CREATE:
            assert step.member.phase is Phase.CREATING
        if isinstance(step, Advance) and step.phase is Phase.DELETING:
            assert world.members[step.member.name].is_leaving

    at_rest(start, witness=witness)


@many
@given(worlds())
def test_an_instance_in_service_that_runs_is_drained_before_its_machine_goes(start: World) -> None:
    world = converge_balancer(start, desired_balancer(start.desired(), start.observed()))
    serving: set[str] = set()
    drained: set[str] = set()

    def witness(world: World, step: Step) -> None:
        for member in world.members.values():
            restarts = member.phase is Phase.STARTING or "restarts over and over" in member.reason
            if world.power(member) is not Power.RUNNING or restarts:
                serving.discard(member.name)  # nothing answers: off, or its guest restarts
            elif member.phase is Phase.IN_SERVICE:
                serving.add(member.name)
                drained.discard(member.name)
            elif member.phase is Phase.DRAINING and not _takes_requests(world, member):
                drained.add(member.name)
        if isinstance(step, Effect) and step.kind in (
            EffectKind.DESTROY,
            EffectKind.CREATE,
            EffectKind.SHUT_DOWN,
        ):
            assert step.member.name not in serving - drained, f"{step.reason}, but it was not drained"
        if isinstance(step, Effect) and step.kind is EffectKind.DESTROY and world.balancer.running:
            assert not _takes_requests(world, step.member)

    at_rest(world, witness=witness)


def _takes_requests(world: World, member: Member) -> bool:
    servers = world.balancer.servers
    return any(name == member.name and one.state is Rotation.READY for (_, name), one in servers.items())


@some
@given(worlds())
def test_sessions_of_a_drained_instance_end_or_the_drain_timeout_passes_before_it_goes(start: World) -> None:
    def witness(world: World, step: Step) -> None:
        if not isinstance(step, Advance) or step.member.phase is not Phase.DRAINING:
            return
        if world.power(step.member) is not Power.RUNNING:
            return
        timeout = world.sets[step.member.set_name].spec.scale_in.drain_timeout
        sessions = sum(
            one.sessions for (_, name), one in world.balancer.servers.items() if name == step.member.name
        )
        assert sessions == 0 or world.now >= step.member.phase_since + timeout

    at_rest(start, witness=witness)


# ---- hosts that do not answer --------------------------------------------------------------------------------


@many
@given(worlds(silent=True))
def test_nothing_is_done_to_a_member_whose_host_does_not_answer(world: World) -> None:
    silent = {name for name, host in world.hosts.items() if not host.answers}
    event(f"{len(silent)} silent")
    for step in world.plan().steps:
        if isinstance(step, Effect | Advance | Claim | Interrupt):
            assert step.member.host not in silent
        if isinstance(step, Admit | RemoveLeak):
            assert step.host not in silent


@some
@given(worlds(silent=True, deleting=False))
def test_a_silent_host_does_not_make_a_set_replace_what_is_on_it(start: World) -> None:
    """Members on it still count, so their loss is not made up for by new ones."""
    end = at_rest(start)
    for wanted in end.sets.values():
        for role, target in (
            (Role.INSTANCE, wanted.wanted_instances),
            (Role.STANDBY, wanted.standby_target),
        ):
            counted = [member for member in end.of(wanted.name, role) if not member.is_leaving]
            # A rollout that cannot go on keeps what it made beforehand.
            assert len(counted) <= target + (kept_beside(end, wanted) if role is Role.INSTANCE else 0)


# ---- sizes ---------------------------------------------------------------------------------------------------


@many
@given(worlds())
def test_only_parked_members_of_the_current_model_are_claimed_the_fastest_and_oldest_first(world: World) -> None:
    made = world.plan()
    for wanted in world.sets.values():
        claims = [
            step.member for step in made.steps if isinstance(step, Claim) and step.member.set_name == wanted.name
        ]
        for member in claims:
            assert _is_ready(world, wanted, member)
        if wanted.spec.drives:
            continue  # their drives come before their speed: tests/unit/test_planner_drives.py
        speed = {one.name: ["running", "hibernated", "stopped"].index(_parked(wanted, one)) for one in claims}
        for zone in {one.zone for one in claims}:
            here = [one for one in claims if one.zone == zone]
            assert here == sorted(here, key=lambda one: (speed[one.name], one.created_at, one.name))


@many
@given(worlds(deleting=False), st.integers(1, 4))
def test_what_a_claim_goes_on_with_is_what_the_next_look_would_begin(start: World, more: int) -> None:
    """The claim has changed its record, and nobody has looked since."""
    rest = at_rest(start)
    grown = {name: _grown(one, more) for name, one in rest.sets.items()}
    world = replace(rest, sets=grown)
    steps = world.plan().steps
    claimed = {step.member.name for step in steps if isinstance(step, Claim)}
    event(f"{min(len(claimed), 2)} claimed")
    after = world
    for step in steps:
        if isinstance(step, RecordStep):
            after = record(after, step)
    effects = plan_claimed(after.desired(), after.observed(), {}, after.now, claimed)
    planned = [one for one in after.plan().steps if isinstance(one, Effect) and one.member.name in claimed]
    assert sorted(effects, key=lambda one: one.member.name) == sorted(planned, key=lambda one: one.member.name)
    assert len(effects) == len(claimed)
    held = dict.fromkeys(claimed, EffectKind.TAKE_GOLDEN)
    assert plan_claimed(after.desired(), after.observed(), held, after.now, claimed) == []
    assert plan_claimed(after.desired(), after.observed(), {}, after.now, frozenset()) == []


def _grown(wanted: ScaleSet, more: int) -> ScaleSet:
    spec = wanted.spec.model_copy(update={"instances": wanted.spec.instances + more})
    return replace(wanted, spec=spec, generation=wanted.generation + 1)


def _parked(wanted: ScaleSet, member: Member) -> str:
    return (member.parked or wanted.pool_state).value


def _is_ready(world: World, wanted: ScaleSet, member: Member) -> bool:
    return (
        (member.role, member.phase, member.request) == (Role.STANDBY, Phase.STANDBY, None)
        and member.model == wanted.model
        and _parked(wanted, member) in wanted.pool_shares
        and world.power(member).value == _parked(wanted, member)
    )


@many
@given(worlds(deleting=False))
def test_an_instance_is_only_made_cold_in_a_zone_without_a_ready_member_left(world: World) -> None:
    made = world.plan()
    for wanted in world.sets.values():
        claimed = {step.member.name for step in made.steps if isinstance(step, Claim)}
        cold = [step for step in _admissions(made.steps, wanted) if step.role is Role.INSTANCE]
        if cold:
            pool = world.of(wanted.name, Role.STANDBY)
            left = [one for one in pool if one.name not in claimed and _is_ready(world, wanted, one)]
            assert not {one.zone for one in left} & {step.zone for step in cold}
            assert all("cold: " in step.reason and step.event == "claim_cold" for step in cold)


@many
@given(worlds(deleting=False))
def test_the_reserve_is_filled_only_to_its_floor_while_instances_are_missing_or_on_their_way(world: World) -> None:
    made = world.plan()
    for wanted in world.sets.values():
        instances = [one for one in world.of(wanted.name, Role.INSTANCE) if not one.is_leaving]
        if len(instances) > wanted.spec.instances:
            continue  # shrinking gives room back
        refills = [step for step in _admissions(made.steps, wanted) if step.role is Role.STANDBY]
        waiting = len(instances) < wanted.spec.instances or any(one.phase in ON_THE_WAY for one in instances)
        if refills and waiting:
            pool = [one for one in world.of(wanted.name, Role.STANDBY) if not one.is_leaving]
            claimed = sum(isinstance(step, Claim) for step in made.steps)
            stale = sum(one.model != wanted.model for one in pool)
            assert len(pool) - claimed - stale + len(refills) <= wanted.standby_floor


@many
@given(worlds(deleting=False))
def test_a_plan_never_admits_or_claims_beyond_the_declared_sizes(world: World) -> None:
    made = world.plan()
    for wanted in world.sets.values():
        counted = Counter(one.role for one in world.of(wanted.name) if not one.is_leaving)
        admitted = Counter(step.role for step in _admissions(made.steps, wanted))
        mine = [step.member for step in made.steps if isinstance(step, Claim)]
        claimed = sum(member.set_name == wanted.name for member in mine)
        retired = _retired(made.steps, wanted)[Role.INSTANCE]
        if admitted[Role.INSTANCE] or claimed:
            surge = bounds_of(wanted)[0] if stale_instances(world, wanted) else 0
            total = counted[Role.INSTANCE] - retired + admitted[Role.INSTANCE] + claimed
            assert total <= wanted.spec.instances + surge
        assert admitted[Role.STANDBY] <= wanted.standby_target


@many
@given(worlds(deleting=False, memory=0))
def test_shrinking_is_not_held_up_by_a_lack_of_room(world: World) -> None:
    made = world.plan()
    assert not [step for step in made.steps if isinstance(step, Admit)]
    for wanted in world.sets.values():
        retired = _retired(made.steps, wanted)
        instances = [one for one in world.of(wanted.name, Role.INSTANCE) if not one.is_leaving]
        surplus = len(instances) - wanted.spec.instances
        assert retired[Role.INSTANCE] >= max(surplus - kept_beside(world, wanted), 0)
        claimed = {step.member.name for step in made.steps if isinstance(step, Claim)}
        pool = [one for one in world.of(wanted.name, Role.STANDBY) if not one.is_leaving]
        current = [one for one in pool if one.model == wanted.model and one.name not in claimed]
        stale = len([one for one in pool if one.model != wanted.model])
        if not claimed:
            surplus = stale + max(len(current) - wanted.standby_target, 0)
            # Those that will take the place of instances of another model stay until they do.
            kept = min(len(stale_instances(world, wanted)), len(current)) and surplus - stale
            assert surplus - kept <= retired[Role.STANDBY] <= surplus


@many
@given(rollouts() | rollouts(fails=True), st.sampled_from(Role), st.integers(1, 3))
def test_a_rollout_does_not_hold_up_shrinking_wherever_it_stands(start: World, role: Role, fewer: int) -> None:
    """Its pool is being renewed, an instance or a member of the pool (`role`) of the new model has failed, or it
    goes on."""
    wanted = start.sets["web"]
    spec = wanted.spec.model_copy(update={"instances": max(wanted.spec.instances - fewer, 0)})
    members = {
        name: replace(one, role=role) if name == "web-00200" else one for name, one in start.members.items()
    }
    world = replace(start, sets={"web": replace(wanted, spec=spec)}, members=members)
    surplus = _counted(world, world.sets["web"]) - spec.instances
    retired = _retired(world.plan().steps, world.sets["web"])[Role.INSTANCE]
    event(f"{min(max(surplus, 0), 2)} too many, {kept_beside(world, world.sets['web'])} kept")
    assert retired >= surplus - kept_beside(world, world.sets["web"])


def kept_beside(world: World, wanted: ScaleSet) -> int:
    """How many instances above the declared number a rollout may keep, at most: as many as it has of the new model
    to take the place of older ones."""
    mine = [one for one in world.of(wanted.name, Role.INSTANCE) if not one.is_leaving]
    new = sum(one.model == wanted.model for one in mine)
    return 0 if wanted.spec.drives else min(bounds_of(wanted)[0], len(stale_instances(world, wanted)), new)


def stale_instances(world: World, wanted: ScaleSet) -> list[Member]:
    mine = world.of(wanted.name, Role.INSTANCE)
    return [one for one in mine if one.model != wanted.model and not one.is_leaving]


def _retired(steps: tuple[Step, ...], wanted: ScaleSet) -> Counter[Role]:
    return Counter(
        step.member.role for step in steps if isinstance(step, Retire) and step.member.set_name == wanted.name
    )


def _admissions(steps: tuple[Step, ...], wanted: ScaleSet) -> list[Admit]:
    return [step for step in steps if isinstance(step, Admit) and step.set_name == wanted.name]


# ---- rollouts ------------------------------------------------------------------------------------------------


def serving(world: World, wanted: ScaleSet) -> list[Member]:
    """In service as recorded and as seen, and not about to be taken out. The balancer may not know it yet."""
    down = {
        name for (_, name), one in world.balancer.servers.items() if one.state is Rotation.READY and not one.is_up
    }
    return [
        one
        for one in world.of(wanted.name, Role.INSTANCE)
        if one.phase is Phase.IN_SERVICE
        and one.request in (None, Request.START)  # which is answered at once: it is there
        and world.power(one) is Power.RUNNING
        and one.name not in down
    ]


def assert_bounds_are_kept(world: World, made: Plan) -> None:
    """What a rollout takes away leaves enough in service, and what it makes is not too much."""
    for wanted in world.sets.values():
        leaving = [
            step.member for step in made.steps if isinstance(step, Retire) and step.reason.startswith("replacing ")
        ]
        leaving = [member for member in leaving if member.set_name == wanted.name]
        surge, unavailable = bounds_of(wanted)
        serve = serving(world, wanted)
        stay = [one for one in serve if one not in leaving]
        stopped = sum(one.phase is Phase.STOPPED for one in world.of(wanted.name, Role.INSTANCE))
        assert len(stay) >= min(len(serve), wanted.wanted_instances - stopped - unavailable)
        if leaving and unavailable == 0 and surge:
            # One of the new model serves, or there are more than are declared.
            counted = [one for one in world.of(wanted.name, Role.INSTANCE) if not one.is_leaving]
            assert len(counted) > wanted.wanted_instances or len(serve) > wanted.wanted_instances - stopped
        for member in leaving:
            assert member.model != wanted.model
            assert world.power(member) is not Power.UNKNOWN


@many
@given(rollouts() | worlds(deleting=False), st.randoms(use_true_random=False))
def test_a_rollout_keeps_its_bounds_at_every_moment(start: World, chance: Random) -> None:
    world = start
    for turn in range(120):
        assert_bounds_are_kept(world, world.plan())
        before = {name: _counted(world, wanted) for name, wanted in world.sets.items()}
        world, made = after_slow_turn(world, _slowness(chance, most=60 - turn))
        for name, wanted in world.sets.items():
            surge = bounds_of(wanted)[0]
            assert _counted(world, wanted) <= max(before[name], wanted.wanted_instances + surge)
        if not made.steps and not world.busy and made.wake_at is None:
            break
    for wanted in world.sets.values():
        event(f"{len(stale_instances(start, wanted))} of an older model at the start")


def _counted(world: World, wanted: ScaleSet) -> int:
    return sum(not one.is_leaving for one in world.of(wanted.name, Role.INSTANCE))


@some
@given(rollouts() | worlds(deleting=False), st.randoms(use_true_random=False))
def test_a_rollout_among_crashes_and_changes_of_size_keeps_its_bounds_and_ends(
    start: World, chance: Random
) -> None:
    world = start
    for _ in range(10):
        world = _disturb(world, chance)
        assert_bounds_are_kept(world, world.plan())
        world, _made = after_turn(world)
    assert_converged(replace(start, sets=world.sets), at_rest(world, turns=100))


@some
@given(rollouts() | rollouts(fails=True), st.integers(0, 30))
def test_going_back_at_any_moment_of_a_rollout_converges_without_one_of_the_new_model(
    start: World, turns: int
) -> None:
    world = start
    for _ in range(turns):
        world, _made = after_turn(world)
    back = {name: replace(one, model=OLD_MODEL, generation=one.generation + 1) for name, one in world.sets.items()}
    world = replace(world, sets=back)
    for _ in range(100):
        assert not _waits_for_its_pool_on_the_way_back(world)
        world, made = after_turn(world)
        if not made.steps and made.wake_at is None:
            break
    assert_converged(replace(start, sets=back), world)


def _waits_for_its_pool_on_the_way_back(world: World) -> bool:
    """As was told, or because a rollout had not ended and some of those who serve had not been replaced."""
    wanted = world.sets["web"]
    told = wanted.rollout
    left = any(one.model == wanted.model and one.phase is Phase.IN_SERVICE for one in world.of("web"))
    began = told.level in (RolloutLevel.ON, RolloutLevel.STOPPED) and told.model != wanted.model and left
    goes_back = began or told == RolloutCondition(RolloutLevel.BACK, wanted.model)
    state = find_rollout(wanted, world.desired(), world.observed(), world.now).state
    event(f"{'goes back' if goes_back else 'rolls out'}: {state.value}")
    return goes_back and state is RolloutState.POOL


@many
@given(rollouts(fails=True))
def test_no_instance_is_replaced_while_one_of_the_new_model_fails(world: World) -> None:
    for step in world.plan().steps:
        if isinstance(step, Retire | Claim | Admit):
            assert " of an older model" not in step.reason or "cold: " in step.reason
            assert not step.reason.startswith("replacing ")


@many
@given(rollouts(fails=True), st.randoms(use_true_random=False))
def test_nothing_of_an_older_model_is_made_anew_while_the_new_model_fails(start: World, chance: Random) -> None:
    world = _with_deaths(start, chance)
    for step in world.plan().steps:
        if isinstance(step, Advance | Repair) and _is_older_and_done(world, step.member):
            asked = step.member.request in (Request.REIMAGE, Request.REDEPLOY)
            makes_anew = isinstance(step, Advance) and (step.new_body or step.phase is Phase.FAILED)
            assert asked or not makes_anew, f"{step.reason}, of the model that fails"
            assert not isinstance(step, Repair) or step.request is Request.RESTART


def _with_deaths(world: World, chance: Random) -> World:
    """Some of its machines are off, gone, or do not answer."""
    for member in sorted(world.members.values(), key=lambda one: one.name):
        if chance.random() < 0.5:
            power = chance.choice(SEEN)
            seen = None if power is Power.ABSENT else see_machine(member, power, rebooted=chance.random() < 0.3)
            world = with_machine(world, member.host, domain_name(PREFIX, member.name), seen)
    ill = {key: replace(one, is_up=chance.random() < 0.5) for key, one in world.balancer.servers.items()}
    return replace(world, balancer=replace(world.balancer, servers=ill), now=world.now + 100.0)


def _is_older_and_done(world: World, member: Member) -> bool:
    is_done = member.phase not in (Phase.CREATING, Phase.PROVISIONING, Phase.FAILED)
    is_older = member.model != world.sets[member.set_name].model
    return is_done and is_older and has_been_in_service(member)


@many
@given(rollouts())
def test_everything_of_an_older_model_is_replaced_and_only_that(start: World) -> None:
    """Beyond the sizes, which stay, nothing healthy of the new model goes."""
    kept = {
        one.name
        for one in start.members.values()
        if one.role is Role.INSTANCE
        and (one.phase, one.request, one.model) == (Phase.IN_SERVICE, None, start.sets["web"].model)
        and start.power(one) is Power.RUNNING
    }
    end = at_rest(start, turns=100)
    assert_converged(start, end)
    assert kept <= set(end.members)


# ---- plans ---------------------------------------------------------------------------------------------------


@many
@given(worlds(silent=True))
def test_every_step_carries_a_reason_in_words(world: World) -> None:
    for step in world.plan().steps:
        assert len(step.reason.split()) >= 2, step


@some
@given(worlds(silent=True), st.randoms(use_true_random=False))
def test_a_plan_depends_on_nothing_but_its_input(world: World, chance: Random) -> None:
    names = list(world.hosts)
    chance.shuffle(names)
    shuffled = Observed({name: world.hosts[name] for name in names}, world.balancer)
    made = world.plan()
    assert world.plan() == made
    assert plan(world.desired(), shuffled, {}, world.now, world.suspects) == made


@many
@given(worlds(silent=True))
def test_records_come_first_and_no_machine_goes_before_the_balancer_knows(world: World) -> None:
    steps = world.plan().steps
    is_effect = [isinstance(step, ConvergeBalancer | Effect) for step in steps]
    assert is_effect == sorted(is_effect)
    takes_away = (EffectKind.SHUT_DOWN, EffectKind.DESTROY)
    order = [
        isinstance(step, Effect)
        for step in steps
        if isinstance(step, ConvergeBalancer) or (isinstance(step, Effect) and step.kind in takes_away)
    ]
    assert order == sorted(order)


@many
@given(worlds(silent=True))
def test_an_instance_is_started_before_anything_else_is_waited_for(world: World) -> None:
    steps = [step for step in world.plan().steps if isinstance(step, ConvergeBalancer | Effect)]
    is_start = [
        isinstance(step, Effect)
        and (step.kind in STARTS or (step.kind is EffectKind.TELL and step.member.phase is Phase.STARTING))
        and step.member.role is not Role.STANDBY
        for step in steps
    ]
    assert is_start == sorted(is_start, reverse=True)


@many
@given(worlds())
def test_instances_are_served_before_the_reserve(world: World) -> None:
    heavy = [
        step.member.role
        for step in world.plan().steps
        if isinstance(step, Effect) and step.kind not in (EffectKind.DESTROY, EffectKind.SHUT_DOWN)
    ]
    assert heavy == sorted(heavy, key=lambda role: role is Role.STANDBY)


@many
@given(worlds(silent=True))
def test_a_leak_is_removed_on_its_second_sighting_and_only_then(world: World) -> None:
    first = world.plan()
    mine = {domain_name(PREFIX, name) for name in world.members}
    leaks = {
        (host.name, domain) for host in world.hosts.values() for domain in host.machines if domain not in mine
    }
    event(f"{len(leaks)} leaks")
    assert first.suspects == leaks
    assert not [step for step in first.steps if isinstance(step, RemoveLeak)]
    assert not leaks or first.wake_at is not None
    second = replace(world, suspects=first.suspects).plan()
    removed = {(step.host, step.domain) for step in second.steps if isinstance(step, RemoveLeak)}
    assert removed == leaks


@some
@given(worlds())
def test_no_work_is_begun_on_a_member_whose_work_is_under_way(world: World) -> None:
    effects = [step for step in world.plan().steps if isinstance(step, Effect)]
    busy = replace(world, busy={effect.member.name: effect for effect in effects})
    for step in busy.plan().steps:
        under_way = busy.busy.get(step.member.name) if isinstance(step, Effect | Advance | Claim) else None
        # While a golden image is taken of it, its record goes on.
        is_taken = under_way is not None and under_way.kind is EffectKind.TAKE_GOLDEN
        assert under_way is None or (is_taken and not isinstance(step, Effect))


@some
@given(worlds())
def test_a_step_planned_on_an_older_record_changes_nothing(world: World) -> None:
    made = world.plan()
    moved = {name: replace(one, incarnation=one.incarnation + 1) for name, one in world.members.items()}
    later = replace(world, members=moved)
    for step in made.steps:
        if isinstance(step, Advance | Claim | Retire):
            assert after_step(later, step) == later
