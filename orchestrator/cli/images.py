"""image build|add|list|show|remove|prune."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.catalog import new_app
from orchestrator.cli.context import JsonOption, opened, opened_to_act, print_json, say, stopped_means
from orchestrator.errors import NotFound

if TYPE_CHECKING:
    from orchestrator.daemon.runtime import Runtime
    from orchestrator.models.members import Image

app = new_app(no_args_is_help=True, help="Images: immutable, versioned base disks.")

_STAGE_STEP = 10.0  # percent after which a stage says again how far it is, where there is no bar
_NOTHING_LEFT = "interrupted; nothing of it is left behind\n  (the same command begins anew)"
_GOES_ON = "(the same command goes on there; 'understudy image prune' removes what is kept for more than a week)"
_DOWNLOAD_KEPT = f"interrupted; what was downloaded is kept\n  {_GOES_ON}"
_COPY_KEPT = f"interrupted; what was copied and converted is kept\n  {_GOES_ON}"

RefArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="name (the newest version) or name:version.")]


@app.command()
def build(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe: micro or debian-12.")],
) -> None:
    """Build an image from distribution packages (no image is downloaded) and add it.

    Examples:

      understudy image build debian-12
    """
    from orchestrator.config.scratch import scratch
    from orchestrator.imaging.building import build_image, load_recipe
    from orchestrator.imaging.files import part_of
    from orchestrator.imaging.importing import import_built

    recipe = load_recipe(name)
    with stopped_means(_NOTHING_LEFT), opened() as runtime, _Bar(f"building {name}") as bar:
        runtime.refuse_if_held(look=False)  # the state directory and its rooms are made now, before the long part
        with scratch(runtime.paths.work, "recipe-") as room:
            output = room / f"{name}.qcow2"
            build_image(recipe, output, runtime.paths.work, part_of(bar.show, 0, 90))
            image = import_built(runtime.repository, name, output, part_of(bar.show, 90, 100))
    say(f"{image.ref} is ready ({image.size / 2**20:.0f} MiB)")


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the image.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|URL", help="qcow2, raw, VHD, VHDX or VMDK disk image; http or https URL of one."
        ),
    ],
    sha256: Annotated[
        str,
        typer.Option(
            "--sha256", metavar="HEX", help="Refuse the file unless this is its checksum. A URL needs it."
        ),
    ] = "",
) -> None:
    """Add a disk image of your own as the next version of NAME. The file is copied and kept read-only, as qcow2.

    A command that was interrupted goes on where it was when it is given again: a file unless it has changed
    since, a download with any mirror's URL.

    Examples:

      understudy image add web ./web-disk.qcow2

      understudy image add web ./from-hyper-v.vhdx --sha256 "$(cut -d' ' -f1 from-hyper-v.vhdx.sha256)"

      understudy image add debian https://mirror.example/debian-12.qcow2 --sha256 9f86d081...0f00a08
    """
    from orchestrator.drivers.http_download import is_url

    image = _add_url(name, source, sha256) if is_url(source) else _add_file(name, Path(source), sha256)
    say(f"{image.ref} is ready (sha256 {image.digest})")


def _add_file(name: str, file: Path, sha256: str) -> Image:
    from orchestrator.imaging.importing import import_image

    with stopped_means(_COPY_KEPT), opened() as runtime, _Bar(f"adding {name}") as bar:
        runtime.refuse_if_held(look=False)
        return import_image(runtime.repository, name, file, bar.show, sha256)


def _add_url(name: str, url: str, sha256: str) -> Image:
    from orchestrator.imaging.downloading import parse_download
    from orchestrator.imaging.importing import import_download

    download = parse_download(url, sha256)
    with stopped_means(_DOWNLOAD_KEPT), opened() as runtime, _Bar(f"adding {name}") as bar:
        runtime.refuse_if_held(look=False)
        return import_download(runtime.repository, name, download, bar.show)


@app.command("list")
def list_(
    golden: Annotated[
        bool, typer.Option("--golden", help="Golden images of the hosts instead: what forks go on from.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """List images.

    Examples:

      understudy image list

      understudy image list --json

      understudy image list --golden
    """
    with opened() as runtime:
        if golden:
            _list_golden(runtime, json_)
            return
        images = runtime.store.list_images()
        if json_:
            print_json([_fields(image) for image in images])
            return
        for image in images:
            made = datetime.fromtimestamp(image.created_at).astimezone().strftime("%Y-%m-%d %H:%M")
            say(
                f"{image.ref:<24} {image.size / 2**20:7.0f} MiB, disk {image.virtual_size / 2**20:.0f} MiB  {made}"
                f"  {image.digest[:12]}"
            )
        if not images:
            say("no images; build one: understudy image build debian-12")


def _list_golden(runtime: Runtime, as_json: bool) -> None:
    from orchestrator.errors import HostError
    from orchestrator.service.goldens import golden_rows

    found = {}
    for name, host in runtime.hosts.items():
        try:
            found[name] = host.list_goldens()
        except HostError as error:
            typer.echo(str(error), err=True)
    known = runtime.store.snapshot()
    rows = golden_rows(found, known.sets, known.members, runtime.store.list_images(), runtime.clock.now())
    if as_json:
        print_json(rows)
        return
    for row in rows:
        size = (row["disk"] + row["memory"]) / 2**20
        say(
            f"{row['host']:<10} {row['model']}  {', '.join(row['sets']) or '-':<20} {row['image'] or '-':<16} "
            f"{size:7.0f} MiB  {row['age'] / 60:6.0f} min old, of {row['source']}"
        )
    if not rows:
        say("no golden images; one is taken of the first member of a set that is ready (docs/fork.md)")


@app.command()
def show(ref: RefArgument, json_: JsonOption = False) -> None:
    """Show one image and who uses it.

    Examples:

      understudy image show web

      understudy image show web:1 --json
    """
    with opened() as runtime:
        image = _get(runtime, ref)
        fields = {**_fields(image), "used_by": runtime.store.image_users(image)}
        if json_:
            print_json(fields)
            return
        for key, value in fields.items():
            say(f"{key:<13} {', '.join(value) if isinstance(value, list) else value}")


@app.command()
def remove(ref: RefArgument) -> None:
    """Remove an image version; refused while a set uses it.

    Examples:

      understudy image remove web:1
    """
    from orchestrator.imaging.repository import refuse_left

    with opened_to_act() as runtime:
        removal = runtime.repository.remove(_get(runtime, ref), runtime.hosts)
        say(f"{removal.image.ref} is removed")
        refuse_left([removal])


@app.command()
def prune() -> None:
    """Remove versions that nobody uses, except the newest of each name, and what additions left for a week.

    Examples:

      understudy image prune
    """
    from orchestrator.imaging.repository import refuse_left
    from orchestrator.imaging.stages import prune_stages

    with opened_to_act() as runtime:
        removed = []
        for removal in runtime.repository.prune(runtime.hosts):
            say(f"{removal.image.ref} is removed")
            removed.append(removal)
        unfinished, size = prune_stages(runtime.paths.work, runtime.clock.now())
        if unfinished:
            say(f"unfinished additions removed: {unfinished} ({size / 2**20:.0f} MiB)")
        if not removed and not unfinished:
            say("nothing to remove: every version is in use or the newest of its name")
        refuse_left(removed)


def _get(runtime: Runtime, ref: str) -> Image:
    image = runtime.store.find_image(ref) if ref.partition(":")[2].isdigit() or ":" not in ref else None
    if image is None:
        known = ", ".join(one.ref for one in runtime.store.list_images()) or "none"
        raise NotFound(f"there is no image {ref!r}", f"images: {known}")
    return image


def _fields(image: Image) -> dict[str, Any]:
    return {"ref": image.ref, **vars(image)}


class _Bar:
    """A bar on a terminal, elsewhere a line for each new stage and each tenth of it.

    Words up to the first comma name the stage.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._stage = ""
        self._percent = 0.0

    def __enter__(self) -> _Bar:
        import sys

        self._bars = None
        if sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn(self._title, markup=False),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
            )
            self._bars = Progress(*columns)
            self._bars.start()
            self._task = self._bars.add_task("", total=100.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, percent: float, words: str) -> None:
        if self._bars is not None:
            self._bars.update(self._task, completed=percent, description=words)
            return
        stage = words.partition(",")[0]
        if stage != self._stage or percent >= self._percent + _STAGE_STEP:
            say(f"{self._title}: {percent:3.0f} %  {words}")
            self._stage, self._percent = stage, percent
