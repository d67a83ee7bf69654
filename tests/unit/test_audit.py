"""The audit on the fakes of the loop: nothing is found where all is well, and what is found is what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.ledger import Ledger
from orchestrator.models.audit import Remedy
from orchestrator.models.members import Image, Phase
from orchestrator.models.naming import (
    console_log,
    domain_name,
    drive_volume,
    golden_disk,
    golden_mark,
    golden_memory,
    image_volume,
    local_volume,
    machine_mac,
    machine_uuid,
    overlay_volume,
    raw_volume,
    seed_volume,
)
from orchestrator.models.sightings import Power
from orchestrator.models.stock import DomainStock, Remnant, RemnantKind, Reservation
from orchestrator.models.volume_names import (
    BodyVolume,
    DriveVolume,
    GoldenVolume,
    ImageVolume,
    LocalVolume,
    ProbeVolume,
    VolumeName,
    parse_volume,
)
from orchestrator.service import declare
from orchestrator.service import members as requests
from orchestrator.store import Lease
from orchestrator.store.store import HOLD
from tests.builders import PREFIX, make_spec
from tests.unit.loop import Site, open_site
from tests.unit.stock import POOL, AuditedSite, audited

STORAGE: dict[str, Any] = {
    "local_storage": {"size": "16MiB", "mount": "/local"},
    "drives": [{"name": "data", "size": "16MiB", "mount": "/data"}],
}
NEEDY: dict[str, Any] = {
    "steps": [{"upload": {"from": "site/", "to": "/srv", "digest": "d1"}}],
    "secrets": {"token": {"file": "/token", "digest": "d2"}},
}
WINDOWS: dict[str, Any] = {
    "answer_file": "unattend",
    "windows": {"administrator_password_file": "/password", "administrator_password_digest": "d3"},
}


@pytest.fixture
def there(tmp_path: Path) -> Iterator[AuditedSite]:
    """Two instances with both kinds of disk, one stopped pool member."""
    with open_site(tmp_path) as site:
        site.apply(instances=2, standby={"state": "stopped", "max_ready": 3}, **STORAGE)
        site.settle()
        site.let_go("web-zzzzz")
        yield audited(site)


def name_of(there: AuditedSite) -> str:
    return there.site.instances()[0].name


# ---- nothing to find -----------------------------------------------------------------------------------------


def test_a_world_as_declared_gives_no_finding_and_is_looked_at_once(there: AuditedSite) -> None:
    report = there.audit.examine()
    assert (report.findings, report.unknown, report.is_worked_on) == ((), {}, False)
    assert there.clock.rested == []


def test_what_is_gone_at_the_second_look_was_work_under_way(there: AuditedSite) -> None:
    name = f"{PREFIX}-web-zzzzz.1.qcow2"
    there.site.host.volumes[name] = b""
    there.clock.meanwhile = lambda: there.room.remove_volume(name)
    assert there.found() == []
    assert there.clock.rested == [1.0]


@pytest.mark.parametrize("wish", ["scale out", "scale in", "reimage", "delete"])
def test_at_no_moment_of_an_operation_with_a_controller_is_anything_found(tmp_path: Path, wish: str) -> None:
    """Stock is taken after every turn, with effects at any point."""
    with open_site(tmp_path) as site:
        site.apply(instances=2, **STORAGE)
        site.settle()
        seen = audited(site)
        wishes: dict[str, Callable[[], object]] = {
            "scale out": lambda: site.scale(4),
            "scale in": lambda: site.scale(1),
            "reimage": lambda: requests.reimage(site.store, f"web/{name_of(seen)}"),
            "delete": lambda: declare.delete(site.store, "web"),
        }
        wishes[wish]()
        assert site.controller is not None  # it has the lease, and may live
        seen.clock.meanwhile = lambda: turn(site)
        for _ in range(12):
            assert seen.found() == []
            turn(site)


def turn(site: Site) -> None:
    site.controller.turn()
    site.reached.wait(0.01)
    site.reached.clear()


def test_a_host_that_does_not_answer_is_not_judged(there: AuditedSite) -> None:
    there.site.host.volumes[f"{PREFIX}-web-zzzzz.1.qcow2"] = b""
    there.site.host.go_silent("the connection is refused")
    report = there.audit.examine()
    assert (report.findings, report.unknown) == ((), {"local": "the connection is refused"})


def test_a_host_that_falls_silent_while_it_is_counted_is_not_judged(there: AuditedSite) -> None:
    there.site.host.volumes[f"{PREFIX}-web-zzzzz.1.qcow2"] = b""
    there.room.is_mute = True
    report = there.audit.examine()
    assert report.findings == ()
    assert "connection reset" in report.unknown["local"]


@pytest.mark.parametrize(
    "name", ["notes.txt", "other-web-zzzzz.1.qcow2", f"{PREFIX}-web.qcow2", f"{PREFIX}-x.iso"]
)
def test_volumes_with_other_names_are_nobody_s_business(there: AuditedSite, name: str) -> None:
    there.site.host.volumes[name] = b""
    assert there.found() == []


# ---- left over -----------------------------------------------------------------------------------------------


def test_a_machine_that_no_record_names_is_one_finding_and_goes_with_its_disks(there: AuditedSite) -> None:
    site, name = there.site, name_of(there)
    with site.store.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM members WHERE name = ?", (name,))
        connection.exec_driver_sql("UPDATE drives SET member = NULL WHERE member = ?", (name,))
    site.let_go(name)
    domain = domain_name(PREFIX, name)
    assert ("machine", "left over", domain) in there.found()
    left = there.mend()
    assert [one for one in left if one[0] != "balancer"] == []
    assert domain not in site.host.machines
    assert not [one for one in site.host.volumes if name in one]
    assert len([one for one in site.host.volumes if "-drive." in one]) == 2


@pytest.mark.parametrize(
    "name",
    [
        f"{PREFIX}-web-zzzzz.1.qcow2",
        f"{PREFIX}-web-zzzzz.3.seed.iso",
        f"{PREFIX}-web-zzzzz.1.console.log.0",
        f"{PREFIX}-local.web-zzzzz.1.qcow2",
        f"{PREFIX}-image-{'e' * 64}.qcow2",
        f"{PREFIX}-image-{'e' * 64}.qcow2.verified",
        f"{PREFIX}-golden-fedcba9876543210.1.qcow2",
        f"{PREFIX}-golden-fedcba9876543210.1.mem",
        f"{PREFIX}-golden-fedcba9876543210.1.json",
        f"{PREFIX}-web-zzzzz.1.mem",
        f"{PREFIX}-probe.img",
    ],
)
def test_volumes_that_nobody_needs_are_removed(there: AuditedSite, name: str) -> None:
    there.site.host.volumes[name] = b""
    assert there.found() == [("volume", "left over", name)]
    assert there.mend() == []
    assert there.room.removed == [name]


def test_disks_of_an_earlier_body_are_removed_and_those_of_this_one_are_not(there: AuditedSite) -> None:
    name = name_of(there)
    requests.reimage(there.site.store, f"web/{name}")
    there.site.settle()
    there.site.crash()
    old = overlay_volume(domain_name(PREFIX, name), 1)
    older = local_volume(PREFIX, name, 7)
    before = dict(there.site.host.volumes)
    there.site.host.volumes |= {old: b"", older: b""}
    assert there.found() == [("volume", "left over", older), ("volume", "left over", old)]
    assert there.mend() == []
    assert there.site.host.volumes == before


@pytest.mark.parametrize("other", [f"{PREFIX}-theirs", "rescue"])
def test_a_volume_that_a_machine_has_is_left_alone(there: AuditedSite, other: str) -> None:
    name = f"{PREFIX}-local.web-zzzzz.1.qcow2"
    there.site.host.volumes[name] = b""
    theirs = DomainStock(other, "u", files=frozenset({f"{POOL}/{name}"}))
    if other.startswith(PREFIX):
        there.room.probe = theirs
    else:
        there.room.others = [theirs]
    assert there.mend() == [("volume", "wrong", name)]
    assert name in there.site.host.volumes


def test_golden_images_of_models_that_are_needed_are_no_findings(there: AuditedSite) -> None:
    model = golden_of(there)
    assert [name for name in there.site.host.volumes if f"-golden-{model}.1." in name]
    assert there.found() == []


def golden_of(there: AuditedSite) -> str:
    """Model of a golden image that is complete."""
    member = there.site.instances()[0]
    there.site.host.volumes |= dict.fromkeys(parts_of(member.model, 1), b"")
    return member.model


def parts_of(model: str, serial: int) -> list[str]:
    return [name(PREFIX, model, serial) for name in (golden_disk, golden_memory, golden_mark)]


def test_what_was_left_when_a_golden_image_was_taken_is_removed_unless_a_controller_may_be_at_it(
    there: AuditedSite,
) -> None:
    disk, memory, _ = parts_of(there.site.instances()[0].model, 1)
    there.site.host.volumes |= {disk: b"", memory: b""}
    elsewhere = Lease(there.site.store, holder="elsewhere:1:1")
    elsewhere.take()
    assert there.found() == []
    elsewhere.release()
    assert there.found() == [("volume", "left over", memory), ("volume", "left over", disk)]
    assert there.mend() == []


def test_a_frozen_disk_stays_while_a_machine_is_written_over_it_and_goes_with_it(there: AuditedSite) -> None:
    model = golden_of(there)
    there.site.host.volumes |= dict.fromkeys(parts_of(model, 2), b"")
    user = f"{PREFIX}-{name_of(there)}"
    there.site.host.machines[user].golden = golden_disk(PREFIX, model, 1)
    left = [("volume", "left over", name(PREFIX, model, 1)) for name in (golden_mark, golden_memory)]
    assert there.found() == left
    there.site.host.machines[user].golden = ""
    assert there.found() == [*left, ("volume", "left over", golden_disk(PREFIX, model, 1))]
    assert there.mend() == []
    assert set(parts_of(model, 2)) <= set(there.site.host.volumes)


def test_a_frozen_disk_that_is_gone_is_missed_by_the_machine_over_it(there: AuditedSite) -> None:
    disk = golden_disk(PREFIX, there.site.instances()[0].model, 1)
    there.site.host.machines[f"{PREFIX}-{name_of(there)}"].golden = disk
    assert there.found() == [("volume", "missing", disk)]


def test_a_memory_image_from_which_a_fork_has_gone_on_is_removed(there: AuditedSite) -> None:
    name = f"{PREFIX}-{name_of(there)}.1.mem"
    there.site.host.volumes[name] = b""
    assert there.found() == [("volume", "left over", name)]
    assert there.mend() == []


def test_an_upload_cut_short_is_removed_unless_a_controller_may_be_at_it(there: AuditedSite) -> None:
    other = there.site.store.add_image("other", lambda version: replace(image_like(there), version=version))
    there.rooms.state = replace(there.rooms.state, images=there.rooms.state.images | {other.digest})
    name = image_volume(PREFIX, other.digest)
    there.site.host.volumes[name] = b"half of it"
    elsewhere = Lease(there.site.store, holder="elsewhere:1:1")
    elsewhere.take()
    assert there.found() == []
    elsewhere.release()
    assert there.found() == [("volume", "left over", name)]


def test_a_copy_that_a_host_kept_of_a_removed_image_is_removed(there: AuditedSite) -> None:
    """The host was down when the image was removed."""
    name = image_volume(PREFIX, "ab" * 32)
    there.site.host.volumes |= {name: b"a base disk", f"{name}.verified": b""}
    assert there.found() == [("volume", "left over", name), ("volume", "left over", f"{name}.verified")]
    assert there.mend() == []
    assert name not in there.site.host.volumes


def image_like(there: AuditedSite) -> Image:
    (image,) = there.site.store.list_images()
    return replace(image, name="other", digest="ab" * 32)


def test_the_guest_that_tries_kvm_is_given_time_before_it_is_left_over(there: AuditedSite) -> None:
    files = frozenset({f"{POOL}/{PREFIX}-probe.img"})
    there.room.probe = DomainStock(f"{PREFIX}-probe", "u", files=files)
    assert there.found() == [("probe", "left over", f"{PREFIX}-probe")]
    assert there.clock.rested == [7.0]
    assert there.mend() == []


def test_a_probe_of_somebody_else_s_is_not_ours(there: AuditedSite) -> None:
    there.room.probe = DomainStock(f"{PREFIX}-probe", "u", files=frozenset({"/srv/elsewhere.img"}))
    assert there.found() == []


def test_a_seed_that_a_machine_kept_is_taken_out_of_it(there: AuditedSite) -> None:
    site, name = there.site, name_of(there)
    seed = seed_volume(domain_name(PREFIX, name), 1)
    site.host.volumes[seed] = b"secrets"
    assert there.found() == [("seed", "left over", seed)]
    assert there.mend() == []
    assert ("remove_seed", domain_name(PREFIX, name)) in site.journal.entries()
    assert there.room.removed == []


def test_seeds_that_are_empty_or_needed_still_are_no_findings(there: AuditedSite, tmp_path: Path) -> None:
    domain = domain_name(PREFIX, name_of(there))
    there.site.host.volumes[seed_volume(domain, 1)] = b""  # its guest did not let go of it
    assert there.found() == []
    there.site.apply(make_spec(name="db", instances=1, setup={"keep_seed": True}, endpoints=[]))
    there.site.settle("db")
    there.site.crash()
    assert [one for one in there.site.host.volumes if one.endswith(".seed.iso") and "-db-" in one]
    assert there.found() == []


def test_a_seed_beside_a_memory_image_is_left_until_the_machine_runs(there: AuditedSite) -> None:
    (member,) = there.site.pool()
    domain = domain_name(PREFIX, member.name)
    there.site.host.machines[domain].power = Power.HIBERNATED
    there.site.host.volumes[seed_volume(domain, 1)] = b"secrets"
    (finding,) = [one for one in there.audit.examine().findings if one.kind.value == "seed"]
    assert (finding.is_fixable, "is claimed" in finding.fix) == (False, True)


def test_reservations_of_one_member_in_two_networks_are_two_things(there: AuditedSite) -> None:
    mac = machine_mac(there.site.store.installation(), "web-zzzzz")
    there.room.reservations = [Reservation(net, "web-zzzzz", mac, "192.168.203.9") for net in ("one", "two")]
    report = there.audit.examine()
    assert sorted(one.target for one in report.findings) == ["one", "two"]
    assert [one.failure for one in there.audit.mend(report)] == ["", ""]
    assert there.room.reservations == []


def test_reservations_are_ours_by_their_mac(there: AuditedSite) -> None:
    mac = machine_mac(there.site.store.installation(), "web-zzzzz")
    ours = Reservation("guests", "web-zzzzz", mac, "192.168.203.9")
    theirs = Reservation("guests", "web-yyyyy", "52:54:00:00:00:01", "192.168.203.8")
    there.room.reservations = [ours, theirs]
    assert there.found() == [("reservation", "left over", "web-zzzzz")]
    assert there.mend() == []
    assert there.room.reservations == [theirs]


def test_remnants_are_ours_if_their_member_was_let_go(there: AuditedSite) -> None:
    installation = there.site.store.installation()
    state = Remnant(RemnantKind.TPM, machine_uuid(installation, "web-zzzzz", 2), "/tpm/1")
    variables = Remnant(RemnantKind.VARIABLES, f"{PREFIX}-web-zzzzz", "/nvram/z")
    memory = Remnant(RemnantKind.MEMORY, f"{PREFIX}-web-yyyyy", "/save/y")
    mine = Remnant(RemnantKind.VARIABLES, domain_name(PREFIX, name_of(there)), "/nvram/mine")
    there.room.remnants = [state, variables, memory, mine]
    assert [name for _, _, name in there.found()] == ["/nvram/z", "/tpm/1"]
    assert there.mend() == []
    assert there.room.remnants == [memory, mine]


def test_what_killed_commands_left_in_the_state_directory_is_removed(there: AuditedSite) -> None:
    there.rooms.state = replace(
        there.rooms.state,
        images=there.rooms.state.images | {"e" * 64},
        scratch=frozenset({"import-x"}),
        uploads=frozenset({"a.tar"}),
        secrets=frozenset({"b"}),
        copies=frozenset({"image-records/micro@1.json", "image-records/micro@7.json"}),
    )
    there.processes.strays = [4711]
    kinds = {kind: name for kind, _, name in there.found()}
    assert kinds == {
        "image": "e" * 64,
        "scratch": "import-x",
        "upload": "a.tar",
        "secret": "b",
        "copy": "image-records/micro@7.json",
        "process": "4711",
    }
    assert there.mend() == []


def test_what_a_set_needs_in_the_state_directory_is_not_left_over(there: AuditedSite) -> None:
    there.site.apply(make_spec(name="db", setup=NEEDY, endpoints=[]))
    there.site.apply(make_spec(name="win", setup=WINDOWS, endpoints=[]))
    needed = {"uploads": frozenset({"d1.tar"}), "secrets": frozenset({"d2", "d3"})}
    there.rooms.state = replace(there.rooms.state, **needed)
    assert {kind for kind, _, _ in there.mend()} == {"set"}  # no controller is at the two
    assert {"uploads": there.rooms.state.uploads, "secrets": there.rooms.state.secrets} == needed


# ---- a store that is older than what exists ------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"{PREFIX}-web-yyyyy.1.qcow2", f"{PREFIX}-local.web-yyyyy.1.qcow2"])
def test_nothing_is_removed_by_a_store_that_was_never_told_of_what_exists(there: AuditedSite, name: str) -> None:
    also = f"{PREFIX}-web-zzzzz.1.qcow2"
    there.site.host.volumes |= {name: b"", also: b""}
    there.rooms.state = replace(there.rooms.state, images=there.rooms.state.images | {"e" * 64})
    left = there.mend()
    assert ("store", "wrong", "store") in left
    assert {one[2] for one in left} == {name, also, "e" * 64, "store"}
    assert there.room.removed == []


def test_machines_that_a_restored_store_does_not_know_are_left_alone(there: AuditedSite) -> None:
    name = name_of(there)
    with there.site.store.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM members WHERE name = ?", (name,))
    left = there.mend()
    assert ("machine", "left over", domain_name(PREFIX, name)) in left
    assert there.site.host.power(domain_name(PREFIX, name)) is Power.RUNNING
    assert name in there.site.rotation()


def test_a_newer_body_than_the_recorded_one_holds_the_audit_as_it_holds_the_controller(
    there: AuditedSite,
) -> None:
    site, name = there.site, name_of(there)
    with site.store.database.write() as connection:
        connection.exec_driver_sql("UPDATE members SET incarnation = 0 WHERE name = ?", (name,))
    also = f"{PREFIX}-web-zzzzz.1.qcow2"
    site.host.volumes[also] = b""
    report = there.audit.examine()
    assert {one.name: "adopt" in one.fix for one in report.findings if one.name == "store"} == {"store": True}
    assert [one for one in report.findings if one.remedy is not Remedy.OPERATOR] == []
    assert there.audit.mend(report) == []
    site.turn_until(lambda: "before 'understudy adopt'" in site.wanted().stuck, "the controller says so, too")
    assert also in site.host.volumes


def test_a_store_that_is_held_removes_nothing(there: AuditedSite) -> None:
    there.site.host.volumes[f"{PREFIX}-web-zzzzz.1.qcow2"] = b""
    there.site.store.write_fact(HOLD, "the store is the copy of yesterday")
    (store,) = (one for one in there.audit.examine().findings if one.name == "store")
    assert store.wrong == "the store is the copy of yesterday"
    assert ("volume", "left over", f"{PREFIX}-web-zzzzz.1.qcow2") in there.mend()


def test_a_store_that_is_older_than_a_copy_of_a_declaration_removes_nothing(there: AuditedSite) -> None:
    site = there.site
    site.host.volumes[f"{PREFIX}-web-zzzzz.1.qcow2"] = b""
    newer = replace(site.wanted(), generation=site.wanted().generation + 1)
    assert Ledger(site.folder / "declarations", site.folder / "image-records").keep([newer]) == ""
    (store,) = (one for one in there.audit.examine().findings if one.name == "store")
    assert "older than its copy" in store.wrong
    assert there.room.removed == []


def test_what_is_in_doubt_by_the_third_look_is_left_alone_and_said_so(there: AuditedSite) -> None:
    there.site.host.volumes[f"{PREFIX}-web-zzzzz.1.qcow2"] = b""
    report = there.audit.examine()
    there.site.store.write_fact(HOLD, "the store is the copy of yesterday")
    (mended,) = there.audit.mend(report)
    assert "left alone" in mended.failure
    assert there.room.removed == []


def test_a_copy_of_our_machine_under_another_name_is_nobody_s_business(there: AuditedSite) -> None:
    made = there.site.host.machines[domain_name(PREFIX, name_of(there))]
    copied = f"{PREFIX}-web-copied"
    there.room.probe = DomainStock(
        copied, "u", made.blueprint.installation, made.blueprint.member, made.blueprint.incarnation
    )
    assert there.found() == []


def test_machines_of_another_installation_in_our_pool_say_that_the_store_is_not_theirs(there: AuditedSite) -> None:
    path = f"{POOL}/{PREFIX}-image-{'e' * 64}.qcow2"
    there.room.probe = DomainStock(f"{PREFIX}-api-xxxxx", "u", "another", "api-xxxxx", 1, frozenset({path}))
    there.site.host.volumes[path.rpartition("/")[2]] = b""
    assert ("store", "wrong", "store") in there.mend()
    assert there.room.removed == []


# ---- missing and wrong ---------------------------------------------------------------------------------------


def test_a_machine_that_is_missing_is_left_to_the_controller(there: AuditedSite) -> None:
    name = name_of(there)
    there.site.host.vanish(domain_name(PREFIX, name))
    left = there.mend()
    assert ("machine", "missing", domain_name(PREFIX, name)) in left
    assert there.site.power(there.site.member(name)) is Power.ABSENT
    there.site.settle_again()
    there.site.crash()
    assert there.found() == []


def test_a_volume_that_a_machine_needs_is_missed(there: AuditedSite) -> None:
    name = name_of(there)
    gone = overlay_volume(domain_name(PREFIX, name), 1)
    del there.site.host.volumes[gone]
    (finding,) = there.audit.examine().findings
    assert (finding.fault.value, finding.name) == ("missing", gone)
    assert f"understudy reimage web/{name}" in finding.fix


def test_the_base_disk_of_a_set_in_use_is_missed(there: AuditedSite) -> None:
    (image,) = there.site.store.list_images()
    base = image_volume(PREFIX, image.digest)
    del there.site.host.volumes[base]
    assert ("volume", "missing", base) in there.found()


def test_drives_are_never_removed(there: AuditedSite) -> None:
    unknown, lost = drive_volume(PREFIX, "old", "data", 3), drive_volume(PREFIX, "web", "data", 0)
    there.site.host.volumes[unknown] = b""
    del there.site.host.volumes[lost]
    assert there.mend() == [("drive", "left over", unknown), ("drive", "missing", lost)]
    assert unknown in there.site.host.volumes


def test_raw_disks_of_an_earlier_version_are_told_and_neither_missed_nor_removed(there: AuditedSite) -> None:
    site, member = there.site, there.site.instances()[0]
    made = drive_volume(PREFIX, "web", "data", 0)
    raw = [raw_volume(made), raw_volume(local_volume(PREFIX, member.name, 1)), f"{PREFIX}-local.web-zzzzz.1.raw"]
    raw.append(raw_volume(drive_volume(PREFIX, "old", "data", 3)))
    del site.host.volumes[made]
    site.host.volumes |= dict.fromkeys(raw, b"data")
    expected = [("drive" if "-drive." in name else "volume", "wrong", name) for name in sorted(raw)]
    assert there.mend() == expected
    assert set(raw) <= site.host.volumes.keys()
    assert all("convert it by hand" in one.fix for one in there.audit.examine().findings)


def test_logs_that_no_member_needs_are_removed_with_what_was_rolled_over(there: AuditedSite) -> None:
    site, name = there.site, name_of(there)
    left = [console_log(domain_name(PREFIX, name), 7), f"{PREFIX}-web-zzzzz.1.console.log.0"]
    before = dict(site.host.consoles)
    site.host.consoles |= dict.fromkeys([*left, "notes.txt"], b"words")
    assert there.found() == [("log", "left over", one) for one in sorted(left)]
    assert there.mend() == []
    assert site.host.consoles == {**before, "notes.txt": b"words"}


def test_a_log_of_a_member_that_was_never_heard_of_is_left_alone(there: AuditedSite) -> None:
    log = f"{PREFIX}-web-yyyyy.1.console.log"
    there.site.host.consoles[log] = b"words"
    assert ("store", "wrong", "store") in there.mend()
    assert log in there.site.host.consoles


def test_somebody_else_s_machine_with_our_name_is_told_and_left(there: AuditedSite) -> None:
    domain = domain_name(PREFIX, name_of(there))
    there.site.host.vanish(domain)
    there.site.host.foreign.add(domain)
    assert ("machine", "wrong", domain) in there.mend()
    assert domain in there.site.host.foreign


def test_servers_that_differ_are_named_and_put_right(there: AuditedSite) -> None:
    there.site.balancer.die()
    assert there.found() == [("balancer", "missing", "haproxy")]
    assert there.mend() == []
    assert there.site.rotation() == {one.name for one in there.site.instances()}


def test_an_image_whose_file_is_gone_is_missed(there: AuditedSite) -> None:
    there.rooms.state = replace(there.rooms.state, images=frozenset())
    assert [kind for kind, _, _ in there.found()] == ["image"]


def test_work_that_was_not_finished_is_told_unless_somebody_is_at_it(there: AuditedSite) -> None:
    there.site.scale(4)
    (finding,) = there.audit.examine().findings
    assert (finding.kind.value, finding.name) == ("set", "web")
    assert "no controller is at it" in finding.wrong
    Lease(there.site.store, holder="elsewhere:1:1").take()
    assert there.found() == []


def test_a_failed_member_that_waits_for_its_next_try_is_no_unfinished_work(there: AuditedSite) -> None:
    name = name_of(there)
    there.site.host.destroy_machine(domain_name(PREFIX, name))
    with there.site.store.database.write() as connection:
        connection.exec_driver_sql("UPDATE members SET phase = 'failed' WHERE name = ?", (name,))
    assert there.site.phase(name) is Phase.FAILED
    assert [kind for kind, _, _ in there.found()] == ["balancer"]


def test_nothing_is_removed_that_was_put_right_before(there: AuditedSite) -> None:
    name = f"{PREFIX}-web-zzzzz.1.qcow2"
    there.site.host.volumes[name] = b""
    report = there.audit.examine()
    del there.site.host.volumes[name]
    assert [one.failure for one in there.audit.mend(report)] == [""]
    assert there.room.removed == []


def test_the_lease_is_held_while_something_is_removed_and_given_back(there: AuditedSite) -> None:
    holders: list[object] = []
    there.site.host.volumes[f"{PREFIX}-web-zzzzz.1.qcow2"] = b""
    there.room.on_remove = lambda: holders.append(there.site.store.find_lease_holder("controller"))
    assert there.mend() == []
    assert [holder[0] for holder in holders if isinstance(holder, tuple)] == ["audit"]
    assert there.site.store.find_lease_holder("controller") is None


def test_what_a_command_declares_meanwhile_is_not_removed_under_it(there: AuditedSite) -> None:
    there.rooms.state = replace(there.rooms.state, uploads=frozenset({"d1.tar"}), secrets=frozenset({"d2"}))
    report = there.audit.examine()
    assert [one.kind.value for one in report.findings] == ["secret", "upload"]
    needy = make_spec(name="db", setup=NEEDY, endpoints=[])
    there.hear = lambda words: there.site.apply(needy) if words.startswith("removing") else None
    assert [one.failure for one in there.audit.mend(report)] == ["", ""]
    assert there.rooms.state.uploads | there.rooms.state.secrets == {"d1.tar", "d2"}


def test_who_lost_the_lease_meanwhile_removes_nothing(there: AuditedSite) -> None:
    name = f"{PREFIX}-web-zzzzz.1.qcow2"
    there.site.host.volumes[name] = b""
    report = there.audit.examine()
    there.hear = lambda _words: seize(there, "other")
    assert ["not the controller any more" in one.failure for one in there.audit.mend(report)] == [True]
    assert there.room.removed == []


def seize(there: AuditedSite, holder: str) -> None:
    with there.site.store.database.write() as connection:
        connection.exec_driver_sql("UPDATE leases SET holder = ?", (holder,))


def test_the_load_balancer_is_left_to_a_controller_at_work(there: AuditedSite) -> None:
    there.site.balancer.die()
    elsewhere = Lease(there.site.store, holder="elsewhere:1:1")
    elsewhere.take()
    (finding,) = there.audit.examine().findings
    assert (finding.name, finding.is_fixable) == ("haproxy", False)
    assert "the controller at work puts it right" in finding.fix
    elsewhere.release()
    report = there.audit.examine()
    assert [one.is_fixable for one in report.findings] == [True]
    elsewhere.take()  # it came between the looks and the mending
    assert ["it alone changes HAProxy" in one.failure for one in there.audit.mend(report)] == [True]
    assert there.found() == [("balancer", "missing", "haproxy")]


# ---- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("us-web-4tz9k.1.qcow2", BodyVolume("web-4tz9k", 1)),
        ("us-a-b-4tz9k.12.seed.iso", BodyVolume("a-b-4tz9k", 12)),
        ("us-web-4tz9k.1.console.log", BodyVolume("web-4tz9k", 1)),
        ("us-web-4tz9k.1.console.log.2", BodyVolume("web-4tz9k", 1)),
        ("us-local.web-4tz9k.3.qcow2", LocalVolume("web-4tz9k", 3)),
        ("us-local.web-4tz9k.3.raw", LocalVolume("web-4tz9k", 3, is_raw=True)),
        ("us-local-4tz9k.3.qcow2", BodyVolume("local-4tz9k", 3)),
        ("us-web-4tz9k.1.top.qcow2", BodyVolume("web-4tz9k", 1)),
        ("us-web-4tz9k.1.mem", BodyVolume("web-4tz9k", 1, is_memory=True)),
        ("us-golden-0123456789abcdef.1.qcow2", GoldenVolume("0123456789abcdef", 1, "qcow2")),
        ("us-golden-0123456789abcdef.12.mem", GoldenVolume("0123456789abcdef", 12, "mem")),
        ("us-golden-0123456789abcdef.2.json", GoldenVolume("0123456789abcdef", 2, "json")),
        ("us-golden-4tz9k.2.mem", BodyVolume("golden-4tz9k", 2, is_memory=True)),
        ("us-golden-0123456789abcdef.0.mem", None),
        ("us-golden-0123456789abcde.1.mem", None),
        ("us-drive.web.data.0.qcow2", DriveVolume("web", "data", 0)),
        ("us-drive.web.data.0.raw", DriveVolume("web", "data", 0, is_raw=True)),
        (f"us-image-{'a' * 64}.qcow2", ImageVolume("a" * 64, False)),
        (f"us-image-{'a' * 64}.qcow2.verified", ImageVolume("a" * 64, True)),
        ("us-image-4tz9k.1.qcow2", BodyVolume("image-4tz9k", 1)),
        ("us-probe.img", ProbeVolume()),
        ("us-drive.web.data.00.qcow2", None),
        ("us-web-4tz9k.01.qcow2", None),
        ("us-local.web-4tz9k.\u0663.qcow2", None),
        ("us-web.qcow2", None),
        ("other-web-4tz9k.1.qcow2", None),
        ("us-web-4tz9k.1.qcow2.bak", None),
    ],
)
def test_names_of_volumes_are_understood(name: str, parsed: VolumeName | None) -> None:
    assert parse_volume("us", name) == parsed
