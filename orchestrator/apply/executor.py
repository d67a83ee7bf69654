"""Performs one effect on one member. Says nothing to the store: the loop records what became of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache

from orchestrator.apply.agent import GuestAgent
from orchestrator.apply.beside import beside
from orchestrator.apply.console import SetupConsole
from orchestrator.apply.disks import machine_disks, mount_disks
from orchestrator.apply.guest_clock import GuestClock, has_slept, may_be_asked_before
from orchestrator.apply.identity import FORK_SECONDS, Christening
from orchestrator.apply.machines import Machines, hardware_of
from orchestrator.apply.setup import SetupWatch
from orchestrator.apply.step_events import StepReport, Tell, tell_nobody
from orchestrator.apply.telling import PhaseTeller
from orchestrator.apply.world import Cancelled, Errand, Installation, World
from orchestrator.config.resources import template
from orchestrator.config.secrets import read_secrets, redaction_of
from orchestrator.config.uploads import upload_archive
from orchestrator.errors import (
    BaseLost,
    Conflict,
    ForkFailed,
    GoldenTooEarly,
    GoldenUnusable,
    GuestError,
    HostError,
    HostUnreachable,
    Interrupted,
    StartedAgain,
    UnderstudyError,
)
from orchestrator.lifecycle.telling import can_be_told, has_done_with_seed, has_to_enter
from orchestrator.models.members import Image, Member, Phase, Role, ScaleSet
from orchestrator.models.naming import domain_name, local_volume, reachable_port
from orchestrator.models.ownership import TagState, tag_for
from orchestrator.models.setup_result import plain
from orchestrator.models.spec import Probe
from orchestrator.models.steps import Effect, EffectKind
from orchestrator.models.storage import ExtraDisk
from orchestrator.ports.guest import GuestShell, Patience
from orchestrator.render.identity import (
    ForkProgram,
    render_dismissal,
    render_identity,
    render_source,
    without_comments,
)
from orchestrator.render.seed import render_seed

log = logging.getLogger("understudy.executor")
_AGENT_SECONDS = 10.0  # after a guest is ready, in which its agent may come
_PREPARE_SECONDS = 30.0  # that a guest may take, also to write what it has not written yet
_CONSOLE_BYTES = 16 * 1024  # as much as may be written between two looks at it


@cache
def _fork_program() -> ForkProgram:
    return ForkProgram(without_comments(template("identity.sh")))


class Executor:
    """One method for each kind of effect; each may be repeated after a crash at any point."""

    def __init__(self, installation: Installation, world: World) -> None:
        self._installation = installation
        self._world = world
        self.machines = Machines(installation, world)
        self._effects: dict[EffectKind, Callable[[Member, ScaleSet, Errand], None]] = {
            EffectKind.CREATE: self._create,
            EffectKind.FORK: self._fork,
            EffectKind.PROVISION: self._provision,
            EffectKind.START: self._start,
            EffectKind.AWAIT: self._await,
            EffectKind.TELL: self._tell,
            EffectKind.SHUT_DOWN: self._shut_down,
            EffectKind.HIBERNATE: self._hibernate,
            EffectKind.DESTROY: self._destroy,
            EffectKind.TAKE_GOLDEN: self._take_golden,
        }

    def perform(self, effect: Effect, wanted: ScaleSet, cancelled: Cancelled, tell: Tell = tell_nobody) -> None:
        """Raises UnderstudyError; Interrupted once `cancelled` says so. `tell` hears how it goes meanwhile.

        No secret of the set is in what is raised or told, and no control character in what is raised: it may be a
        guest's words, by way of libvirt or of SSH.
        """
        redaction = redaction_of(wanted.spec, self._installation.secrets)

        def tell_clean(member: Member, kind: str, words: str) -> None:
            tell(member, kind, redaction.clean(words))

        try:
            self._effects[effect.kind](effect.member, wanted, Errand(cancelled, tell_clean, redaction))
        except UnderstudyError as error:
            clean = redaction.clean(plain(error.message))
            if clean == error.message:
                raise
            raise type(error)(clean, error.fix) from None

    def ask_probe(self, member: Member, probe: Probe, seconds: float, cancelled: Cancelled) -> None:
        """Raises NeverReady, GuestError or Interrupted unless the probe passes within that time."""
        patience = Patience(self._world.clock.monotonic() + seconds, cancelled)
        self._await_probe(member, probe, patience)

    def remove_leak(self, host: str, domain: str) -> None:
        self.machines.host(host).destroy_machine(domain)
        member = domain.removeprefix(domain_name(self._installation.prefix, ""))
        self.machines.host(host).disks.remove_local_storage(member)

    def remove_golden(self, host: str, model: str) -> None:
        self.machines.host(host).remove_golden(model)

    def is_fork(self, member: Member) -> bool:
        return self.machines.host_of(member).is_fork(self.machines.domain(member))

    def resume(self, host: str, domain: str) -> None:
        self.machines.host(host).resume_machine(domain)

    def console_tail(self, member: Member, wanted: ScaleSet) -> str:
        """The end of the machine's serial console log, for the reason of a failure, without secrets of its set."""
        tail = self._console(member, 1500)
        return redaction_of(wanted.spec, self._installation.secrets).clean(tail)

    # ---- effects -----------------------------------------------------------------------------------------

    def _create(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        self._ensure_image(wanted.image, member)
        blueprint = self.machines.blueprint(member, wanted)
        self.machines.host_of(member).create_machine(blueprint, self.machines.seed(member, wanted))
        self._forget_storage(member)

    def _forget_storage(self, member: Member) -> None:
        if member.incarnation > 1:  # what an earlier body had and this one does not
            kept = local_volume(self._installation.prefix, member.name, member.storage_since)
            self.machines.host_of(member).disks.remove_local_storage(member.name, kept)

    def _fork(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        self._ensure_image(wanted.image, member)
        self.machines.host_of(member).fork_machine(self.machines.blueprint(member, wanted))
        self._forget_storage(member)

    def _take_golden(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        domain = self.machines.domain(member)
        agent = self.machines.agent(member)
        clock = self._world.clock
        if not agent.can_run():
            is_new = clock.now() < member.phase_since + _AGENT_SECONDS and not agent.is_there()
            raise (GoldenTooEarly if is_new else GoldenUnusable)(
                f"no fork of {domain!r} could be told who it is: no guest agent of its may run commands",
                "let qemu-guest-agent run guest-exec in the image, or declare setup.fork: false",
            )
        try:
            self._prepare_source(member, agent, errand)
            host = self.machines.host_of(member)
            host.take_golden(domain, member.incarnation, member.model, errand.cancelled)
        finally:
            with suppress(GuestError, HostError):
                agent.begin(render_dismissal())

    def _prepare_source(self, member: Member, agent: GuestAgent, errand: Errand) -> None:
        """Raises GoldenUnusable: of a source that is not prepared to its end no fork would know what to do."""
        clock, network = self._world.clock, self._installation.addressing.guest_network(member)
        try:
            script = render_source(_fork_program(), network, waits=agent.can_write_files())
            agent.run_script(script, clock, Patience(clock.monotonic() + _PREPARE_SECONDS, errand.cancelled))
        except GuestError as error:
            domain = self.machines.domain(member)
            raise GoldenUnusable(f"{domain!r} cannot be prepared for forks: {error.message}", error.fix) from error

    def _provision(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        if self.is_fork(member):
            self._become(member, wanted, errand)
        else:
            self._set_up_and_await(member, wanted, errand)
        is_serving = member.role is Role.INSTANCE and not has_to_enter(member, wanted)
        self._mark(member, wanted, TagState.SERVING if is_serving else TagState.SET_UP)

    def _become(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        """A fork is told who it is; what setup did is in it already. Raises ForkFailed."""
        began = self._world.clock.monotonic()
        seconds = min(FORK_SECONDS, wanted.spec.setup.timeout)
        patience = Patience(began + seconds, errand.cancelled)
        domain = self.machines.domain(member)
        clock, identity = self._world.clock, self.machines.identity(member)
        try:
            files = render_seed(wanted.spec, identity, read_secrets(wanted.spec, self._installation.secrets))
            entropy = self._world.identities.entropy()
            program = _fork_program()
            fork_words = render_identity(program, identity, files, clock.now(), entropy)
            host, agent = self.machines.host_of(member), self.machines.agent(member)
            Christening(host, domain, agent, clock, program).perform(fork_words, patience)
            words = (
                f"{member.name} goes on from a golden image: told who it is in {clock.monotonic() - began:.1f} s"
            )
            errand.tell(member, "forked", words)
            self._mount_drives(member, wanted, patience)
            self._await_services(member, wanted, patience)
        except HostUnreachable:
            raise
        except (GuestError, HostError) as error:
            raise ForkFailed(f"{member.name} is no use as a fork: {error.message}", error.fix) from error

    def _set_up_and_await(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        patience = self._patience(wanted, errand.cancelled)
        if wanted.spec.setup.answer_file == "cloud-init":
            self._set_up(member, wanted, patience, errand)
        self._await_services(member, wanted, patience)
        if not can_be_told(wanted.spec):
            self._remove_seed(member, wanted, errand.tell)

    def _remove_seed(self, member: Member, wanted: ScaleSet, tell: Tell) -> None:
        """Of a guest that is told its phase it is done then: it takes a moment of the guest, and clients wait for
        readiness."""
        if not has_done_with_seed(wanted.spec):
            return
        domain = self.machines.domain(member)
        try:
            self.machines.host_of(member).remove_seed(domain, member.incarnation)
        except HostUnreachable:
            raise
        except HostError as error:  # no reason to throw away a machine that serves
            log.warning("%s keeps its seed: %s", member.name, error.message)
            tell(member, "seed_kept", error.message)

    def _set_up(self, member: Member, wanted: ScaleSet, patience: Patience, errand: Errand) -> None:
        watch = SetupWatch(
            self._world.guest,
            self.machines.agent(member),
            self._setup_console(member, wanted),
            self.machines.guest_address(member),
            self._world.clock,
            self._installation.agent_grace,
        )
        disks = machine_disks(self._installation.prefix, member, wanted.spec)
        if not wanted.spec.setup.steps and not disks:
            watch.await_end(patience)
            return
        shell = watch.open_shell(patience)
        try:
            mount_disks(shell, disks, wanted.spec, patience)
            self._run_steps(shell, member, wanted, (patience, errand))
        finally:
            shell.close()

    def _setup_console(self, member: Member, wanted: ScaleSet) -> SetupConsole:
        # Where setup restarts the guest, it would still show the result of the boot before.
        is_heard = not wanted.spec.setup.restarts
        domain, host = self.machines.domain(member), self.machines.host_of(member)

        def read() -> str:
            # It changes nothing, and is asked too often to ask the store each time whose the lease is.
            return host.console_tail(domain, member.incarnation, _CONSOLE_BYTES) if is_heard else ""

        return SetupConsole(read, self.machines.uuid(member))

    def _console(self, member: Member, size: int) -> str:
        domain = self.machines.domain(member)
        return self.machines.host_of(member).console_tail(domain, member.incarnation, size)

    def _run_steps(
        self, shell: GuestShell, member: Member, wanted: ScaleSet, manner: tuple[Patience, Errand]
    ) -> None:
        patience, errand = manner
        steps = wanted.spec.setup.steps
        for number, step in enumerate(steps, start=1):
            report = StepReport(
                member, f"step {number} of {len(steps)}", self._world.clock, errand.tell, errand.redaction
            )
            with report.of(step):
                if step.run is not None:
                    shell.run(step.run, patience, report.listen)
                elif step.upload is not None and step.upload.digest is not None:
                    shell.upload(upload_archive(self._installation.uploads, step.upload.digest), patience)

    def _start(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        self._attach_drives(member, wanted)
        domain = self.machines.domain(member)
        try:
            self.machines.host_of(member).start_machine(domain)
        except BaseLost as error:
            log.warning("%s; bringing it again", error.message)
            self._ensure_image(replace(wanted.image, digest=member.image_digest), member)
            self.machines.host_of(member).start_machine(domain)

    def _ensure_image(self, image: Image, member: Member) -> None:
        if image.is_lost:
            raise Conflict(
                f"image {image.ref!r} of set {member.set_name!r} is recorded no more",
                "name an image of 'understudy image list' in the set's file, then apply it",
            )
        self.machines.host_of(member).ensure_image(image, self._installation.images / f"{image.digest}.qcow2")

    def _attach_drives(self, member: Member, wanted: ScaleSet) -> bool:
        """False if the machine has to be started again for them."""
        if not member.drives:
            return True
        domain = self.machines.domain(member)
        drives = self._drives(member, wanted)
        return self.machines.host_of(member).disks.attach(domain, drives, hardware_of(wanted.spec))

    def _drives(self, member: Member, wanted: ScaleSet) -> list[ExtraDisk]:
        """Without local storage: that has been the machine's, and mounted by its guest, from the start."""
        disks = machine_disks(self._installation.prefix, member, wanted.spec)
        return [disk for disk in disks if disk.is_drive]

    def _await(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        patience = self._patience(wanted, errand.cancelled)
        if has_slept(member, wanted) and may_be_asked_before(member, wanted):
            with beside(self._guest_clock(member).set, patience) as until_both:
                self._await_services(member, wanted, until_both)
        else:
            self._prepare(member, wanted, patience)
            self._await_services(member, wanted, patience)
        self._mark(member, wanted, TagState.SERVING if member.role is Role.INSTANCE else TagState.SET_UP)

    def _mark(self, member: Member, wanted: ScaleSet, state: TagState) -> None:
        """The machine's tag says how far it is before its record does. Only `adopt` reads it: that it cannot be
        written costs no machine."""
        # The set's image may be a newer one than the machine's.
        image = wanted.image.ref if wanted.image.digest == member.image_digest else ""
        tag = tag_for(member, self._installation.name, image, state)
        try:
            self.machines.host_of(member).mark_machine(self.machines.domain(member), tag)
        except HostUnreachable:
            raise
        except HostError as error:
            log.warning("%s is not marked: %s", member.name, error.message)

    def _tell(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        if member.phase is Phase.STARTING:
            self._prepare(member, wanted, self._patience(wanted, errand.cancelled))
        teller = PhaseTeller(
            self._world.guest,
            self.machines.agent(member),
            self.machines.guest_address(member),
            self._world.clock,
            errand.tell,
        )
        try:
            teller.perform(member, wanted, errand.cancelled)
        except GuestError:
            if member.phase not in (Phase.STARTING, Phase.DRAINING):  # it is set up, and may not be told again
                self._remove_seed(member, wanted, errand.tell)
            raise
        if member.phase is not Phase.DRAINING:
            self._remove_seed(member, wanted, errand.tell)

    def _prepare(self, member: Member, wanted: ScaleSet, patience: Patience) -> None:
        """What a started machine needs before its hook runs or its services are asked: the time and its drives."""
        if has_slept(member, wanted):
            self._guest_clock(member).set(patience)
        if member.drives:
            self._bring_drives(member, wanted, patience)

    def _bring_drives(self, member: Member, wanted: ScaleSet, patience: Patience) -> None:
        """The machine has its drives, and its guest has mounted them. Idempotent."""
        if not self._attach_drives(member, wanted):
            log.info("%s is started again for its drives", member.name)
            with suppress(Interrupted):
                self._shut_down(member, wanted, Errand(patience.is_cancelled, tell_nobody))
            raise StartedAgain(f"{member.name} is started again for its drives")
        if wanted.spec.setup.answer_file == "cloud-init":
            self._mount_drives(member, wanted, patience)

    def _mount_drives(self, member: Member, wanted: ScaleSet, patience: Patience) -> None:
        drives = self._drives(member, wanted)
        if not drives:
            return
        shell = self._world.guest.open_shell(self.machines.guest_address(member), patience)
        try:
            mount_disks(shell, drives, wanted.spec, patience)
        finally:
            shell.close()

    def _guest_clock(self, member: Member) -> GuestClock:
        return GuestClock(
            self._world.guest, self.machines.agent(member), self.machines.guest_address(member), self._world.clock
        )

    def _hibernate(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        self.machines.host_of(member).hibernate_machine(self.machines.domain(member))

    def _shut_down(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        if member.phase is Phase.STOPPED:
            self._mark(member, wanted, TagState.STOPPED)
        domain, deadline = self.machines.domain(member), self._installation.shutdown_timeout
        clean = self.machines.host_of(member).shut_down_machine(domain, deadline, errand.cancelled)
        if not clean and member.phase is Phase.PARKING:
            raise GuestError(f"{member.name} did not shut down by itself within {deadline:.0f} s")

    def _destroy(self, member: Member, wanted: ScaleSet, errand: Errand) -> None:
        if member.host not in self._world.hosts and member.phase is Phase.DELETING:
            words = f"host {member.host} is not configured any more: what it has of {member.name} is left there"
            errand.tell(member, "left_alone", words)
            return
        try:
            self.machines.host_of(member).destroy_machine(self.machines.domain(member))
        except Conflict as error:  # what was ours is gone, and somebody else has the name now
            errand.tell(member, "left_alone", error.message)
        if member.phase is Phase.DELETING:
            self.machines.host_of(member).disks.remove_local_storage(member.name)

    # ---- parts -------------------------------------------------------------------------------------------

    def _await_services(self, member: Member, wanted: ScaleSet, patience: Patience) -> None:
        where = self.machines.guest_address(member)
        if wanted.spec.setup.answer_file == "cloud-init" and any(probe.tcp for probe in wanted.spec.readiness):
            # In user mode QEMU accepts connections for a guest that does not run yet: a silent service and no
            # service look alike until the guest is seen to answer.
            self._world.guest.await_ssh(where, patience)
        for probe in wanted.spec.readiness:
            self._await_probe(member, probe, patience)

    def _await_probe(self, member: Member, probe: Probe, patience: Patience) -> None:
        port = reachable_port(member.address, probe.port) if probe.port is not None else 0
        self._world.guest.await_answer(probe, self.machines.guest_address(member), port, patience)

    def _patience(self, wanted: ScaleSet, cancelled: Cancelled) -> Patience:
        return Patience(self._world.clock.monotonic() + wanted.spec.setup.timeout, cancelled)
