"""Images that go: from the store, from the copies beside it, from hosts; and numbers that never come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import Conflict, HostError, HostUnreachable
from orchestrator.imaging.repository import Repository, refuse_left
from orchestrator.models.members import Image
from tests.builders import make_spec
from tests.support.repository import add, make_qcow2, open_repository


class Host:
    """Has a copy of every image."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.removed: list[str] = []
        self._meanwhile = meanwhile

    def remove_image(self, digest: str) -> None:
        self._meanwhile()
        self.removed.append(digest)


class SilentHost:
    def remove_image(self, digest: str) -> None:
        raise HostUnreachable("cannot reach qemu:///silent: it is down")


def test_an_image_that_is_added_while_it_is_removed_keeps_its_file(repository: Repository, tmp_path: Path) -> None:
    file = make_qcow2(tmp_path)
    image, again = add(repository, file), list[Image]()
    first, second = Host(lambda: again.append(add(repository, file, "other"))), Host()
    repository.remove(image, {"a": first, "b": second})
    assert repository.store.list_images() == again
    assert (repository.paths.images / f"{image.digest}.qcow2").exists()
    assert second.removed == []


def test_pruning_keeps_the_newest_version_and_what_is_used(repository: Repository, tmp_path: Path) -> None:
    versions = [add(repository, make_qcow2(tmp_path, size)) for size in ("8M", "16M", "24M")]
    repository.store.declare_set(make_spec(image="web:2"), versions[1], "m" * 16)
    host = Host()
    assert [removal.image for removal in repository.prune({"a": host})] == [versions[0]]
    assert host.removed == [versions[0].digest]
    assert [image.ref for image in repository.store.list_images()] == ["web:2", "web:3"]
    assert list(repository.prune({"a": host})) == []


def test_removing_keeps_content_that_another_version_shares(repository: Repository, tmp_path: Path) -> None:
    file = make_qcow2(tmp_path)
    one, two = add(repository, file, "one"), add(repository, file, "two")
    host = Host()
    repository.remove(one, {"a": host})
    assert (host.removed, (repository.paths.images / f"{two.digest}.qcow2").exists()) == ([], True)
    repository.remove(two, {"a": host})
    assert (host.removed, list(repository.paths.images.iterdir())) == ([two.digest], [])


# ---- a host that does not answer -------------------------------------------------------------------------


def test_a_host_that_is_down_holds_nothing_up(repository: Repository, tmp_path: Path) -> None:
    image, other = add(repository, make_qcow2(tmp_path)), Host()
    removal = repository.remove(image, {"a": SilentHost(), "b": other})
    assert removal.left_on == {"a": "cannot reach qemu:///silent: it is down"}
    assert other.removed == [image.digest]
    assert repository.store.list_images() == []
    assert repository.ledger.images() == ()
    assert list(repository.paths.images.iterdir()) == []


def test_pruning_goes_on_behind_a_host_that_is_down(repository: Repository, tmp_path: Path) -> None:
    versions = [add(repository, make_qcow2(tmp_path, size)) for size in ("8M", "16M", "24M")]
    removals = list(repository.prune({"a": SilentHost()}))
    assert [removal.image for removal in removals] == versions[:2]
    assert repository.ledger.images() == (versions[2],)
    with pytest.raises(HostError) as caught:
        refuse_left(removals)
    assert caught.value.message == "web:1, web:2 still on host a: cannot reach qemu:///silent: it is down"
    assert "understudy audit --fix" in caught.value.fix
    assert caught.value.exit_code == 1


def test_what_is_left_nowhere_is_no_failure(repository: Repository, tmp_path: Path) -> None:
    refuse_left([repository.remove(add(repository, make_qcow2(tmp_path)), {"a": Host()})])


def test_an_image_in_use_stays_described(repository: Repository, tmp_path: Path) -> None:
    image = add(repository, make_qcow2(tmp_path))
    repository.store.declare_set(make_spec(image="web"), image, "m" * 16)
    with pytest.raises(Conflict, match="in use by web"):
        repository.remove(image, {})
    assert repository.ledger.images() == (image,)


def test_a_description_of_other_content_is_written_again(repository: Repository, tmp_path: Path) -> None:
    """As one that a removal under an older version left, whose number was then given once more."""
    image = add(repository, make_qcow2(tmp_path))
    repository.ledger.forget_image(image)
    repository.ledger.keep_images([replace(image, digest="e5" * 32)], {})
    repository.keep_records()
    assert repository.ledger.images() == (image,)


# ---- numbers ---------------------------------------------------------------------------------------------


def test_the_number_of_a_removed_version_is_not_given_again(repository: Repository, tmp_path: Path) -> None:
    add(repository, make_qcow2(tmp_path, "8M"))
    newest = add(repository, make_qcow2(tmp_path, "16M"))
    repository.remove(newest, {})
    assert add(repository, make_qcow2(tmp_path, "24M")).ref == "web:3"
    assert add(repository, make_qcow2(tmp_path, "24M"), "other").ref == "other:1"


def test_the_same_content_after_its_removal_is_a_new_version(repository: Repository, tmp_path: Path) -> None:
    file = make_qcow2(tmp_path)
    image = add(repository, file)
    repository.remove(image, {})
    again = add(repository, file)
    assert (again.ref, again.digest) == ("web:2", image.digest)


def test_a_store_that_is_lost_or_old_gives_no_number_again(repository: Repository, tmp_path: Path) -> None:
    """What is beside it remembers them."""
    for size in ("8M", "16M"):
        repository.remove(add(repository, make_qcow2(tmp_path, size)), {})
    repository.store.close()
    repository.paths.database.unlink()
    other = open_repository(repository.paths.root)
    assert other.store.given_versions() == {}
    assert add(other, make_qcow2(tmp_path, "24M")).ref == "web:3"
    assert other.store.given_versions() == {"web": 3}
    other.store.close()


def test_a_store_remembers_the_numbers_without_what_is_beside_it(repository: Repository, tmp_path: Path) -> None:
    repository.remove(add(repository, make_qcow2(tmp_path)), {})
    for file in repository.paths.image_records.iterdir():
        file.unlink()
    repository.keep_records()
    assert repository.ledger.given_versions() == {"web": 1}
    assert add(repository, make_qcow2(tmp_path)).ref == "web:2"


def test_one_file_for_each_name_remembers_its_numbers(repository: Repository, tmp_path: Path) -> None:
    for size in ("8M", "16M", "24M"):
        repository.remove(add(repository, make_qcow2(tmp_path, size)), {})
    assert [file.name for file in repository.paths.image_records.iterdir()] == ["web@3.given"]
