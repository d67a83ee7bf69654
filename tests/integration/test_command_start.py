"""What a command loads before it does anything: that is most of the time that a short one takes."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.catalog import COMMANDS, load_command

HEAVY = {
    "asyncio",
    "cryptography",
    "jinja2",
    "libvirt",
    "paramiko",
    "pycdlib",
    "pydantic",
    "rich",
    "sqlalchemy",
    "yaml",
}
# Prints what was loaded, whichever way the command ends.
SCRIPT = """
import sys
from orchestrator.cli.main import main
try:
    main()
finally:
    sys.stderr.write("\\n".join(sys.modules))
"""


def loaded_by(*arguments: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines())


@pytest.fixture(scope="module")
def heavy() -> set[str]:
    """Without what the command line library itself loads: that differs between its versions."""
    script = "import sys, typer.core; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return HEAVY - set(done.stdout.split())


def ours(modules: set[str]) -> set[str]:
    """Without the package's name."""
    return {name.removeprefix("orchestrator.") for name in modules if name.startswith("orchestrator.")}


def test_help_loads_no_command_and_no_library_but_the_command_line(heavy: set[str]) -> None:
    modules = loaded_by("--help")
    assert ours(modules) == {"cli", "cli.catalog", "cli.context", "cli.main", "errors"}
    assert not heavy & modules


def test_a_command_that_is_only_looked_up_loads_its_own_module(heavy: set[str]) -> None:
    modules = loaded_by("scale", "--help")
    assert ours(modules) == {"cli", "cli.catalog", "cli.context", "cli.main", "cli.sets", "errors"}
    assert not heavy & modules - {"pydantic"}  # the command line library takes it for arguments


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Of an installation on libvirt's test driver."""
    (tmp_path / "config.toml").write_text('[[hosts]]\nuri = "test:///default"\n', encoding="utf-8")
    return tmp_path


def test_status_loads_what_looks_and_nothing_that_acts(state: Path, heavy: set[str]) -> None:
    modules = loaded_by("--state-dir", str(state), "status")
    assert heavy & modules == {"asyncio", "libvirt", "pydantic", "sqlalchemy"}
    packages = {name.partition(".")[0] for name in ours(modules)}
    assert not packages & {"apply", "doctor", "imaging"}
    acting = {"cli.progress", "daemon.embedded", "daemon.wake", "reconcile.controller", "reconcile.workers"}
    assert not ours(modules) & acting
    assert {name for name in ours(modules) if name.startswith("cli.")} == {
        "cli.catalog",
        "cli.context",
        "cli.main",
        "cli.view",
    }


def test_a_command_that_changes_a_set_loads_what_follows_its_wish_and_nothing_that_makes_machines(
    state: Path, heavy: set[str]
) -> None:
    """It ends before it has a wish here, because there is no set; what carries a wish out is loaded after it."""
    script = SCRIPT.replace("main()\n", "main()\nexcept SystemExit:\n    pass\n", 1)
    arguments = ["--state-dir", str(state), "scale", "web", "2"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    modules = set(done.stderr.splitlines())
    assert heavy & modules == {"asyncio", "libvirt", "pydantic", "sqlalchemy"}
    assert {"cli.progress", "daemon.embedded"} <= ours(modules)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_of_a_command_what_its_own_help_begins_with(name: str) -> None:
    command = load_command(name)
    assert command.name == name
    summary = COMMANDS[name][1]
    assert summary.endswith(".")
    assert " ".join(inspect.cleandoc(command.help).split()).startswith(summary)


def test_a_command_that_does_not_exist_makes_nothing(state: Path) -> None:
    """A command that does not exist is answered from the table, with what was perhaps meant."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "--state-dir", str(state), "statu"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 2
    assert "No such command 'statu'" in done.stderr
    assert not (state / "store.sqlite").exists()


def test_every_module_of_commands_is_in_the_table() -> None:
    """So that no command is written that nobody can call."""
    folder = Path(inspect.getfile(load_command)).parent
    rest = {"__init__", "catalog", "context", "main", "progress"}
    assert {file.stem for file in folder.glob("*.py")} - rest == {
        place.partition(":")[0] for place, _ in COMMANDS.values()
    }


def test_a_signal_that_comes_while_an_object_is_finalized_is_not_lost() -> None:
    script = """
import os, signal, time
import orchestrator.cli.main as command

class Late:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def app(prog_name):
    Late()
    time.sleep(60)

command.app = app
command.main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 130
    assert done.stderr.startswith("understudy: interrupted")
