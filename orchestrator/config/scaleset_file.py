"""Scale set files: YAML documents -> ScaleSetSpec, with file and line in every complaint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from orchestrator.config.explain import explain
from orchestrator.config.plain_file import read_plain_file
from orchestrator.config.secrets import read_password, read_secret
from orchestrator.errors import SpecError
from orchestrator.models.durations import find_implausible_durations
from orchestrator.models.spec import ScaleSetSpec
from orchestrator.models.user_data import refuse_reserved
from orchestrator.models.windows_disks import find_useless_windows_disks

MAX_FILE_SIZE = 1024 * 1024


@dataclass(frozen=True)
class _Document:
    file: Path
    node: yaml.Node

    def line(self, where: tuple[str | int, ...]) -> int:
        """Line (from 1) of the deepest node on the way to `where`."""
        node, line = self.node, self.node.start_mark.line + 1
        for part in where:
            step = _child(node, part)
            if step is None:
                break
            line, node = step
        return line


def load_scale_sets(file: Path) -> list[ScaleSetSpec]:
    """Every document of the file. Raises SpecError with one line for each complaint; nothing is half loaded."""
    documents = _parse(file)
    if not documents:
        raise SpecError(f"{file}: no document in it", "begin with 'kind: ScaleSet'; see 'understudy schema'")
    specs = [_load(document) for document in documents]
    names = [spec.name for spec in specs]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise SpecError(f"{file}:{documents[index].line(('name',))}: a second set named {name!r}")
    return specs


def declaring_file(file: Path) -> str:
    """The absolute path by which a file is known as that of its sets, from wherever it is named; a link is a
    file of its own. Empty for what cannot be come back to: standard input, a pipe."""
    path = file.parent.resolve() / file.name
    is_kept = path.is_file() and path.parts[1] not in ("dev", "proc")
    return str(path) if is_kept else ""


def _parse(file: Path) -> list[_Document]:
    try:
        if file.stat().st_size > MAX_FILE_SIZE:
            raise SpecError(f"{file} is larger than 1 MiB; that is no scale set file")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{file} is not UTF-8 text") from error
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{file}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{file}: not valid YAML: {error}") from error
    return [_Document(file, node) for node in nodes]


def _load(document: _Document) -> ScaleSetSpec:
    _refuse_double_keys(document.file, document.node)
    value = _construct(document)
    if not isinstance(value, dict):
        raise SpecError(f"{document.file}:{document.line(())}: a scale set is a mapping of keys to values")
    try:
        spec = ScaleSetSpec.model_validate(value)
    except ValidationError as error:
        lines = [
            f"{document.file}:{document.line(problem.where)}: {problem.text}"
            for problem in explain(error, ScaleSetSpec)
        ]
        raise SpecError("\n".join(lines)) from error
    found = [*find_implausible_durations(value), *find_useless_windows_disks(spec)]
    if found:
        raise SpecError("\n".join(f"{document.file}:{document.line(where)}: {text}" for where, text in found))
    spec = _resolve_secrets(spec, document)
    spec = _resolve_password(_inline_user_data(_resolve_uploads(spec, document), document), document)
    if len(spec.to_json()) > MAX_FILE_SIZE:
        raise SpecError(f"{document.file}:{document.line(())}: with all its aliases this set is larger than 1 MiB")
    return spec


def _construct(document: _Document) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(document.node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{document.file}:{line}: {error.problem}") from error
    except (ValueError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        # Scalars that look like a date, a number or a tag and are none.
        raise SpecError(f"{document.file}:{document.line(())}: a value cannot be read: {error!r}") from error
    finally:
        loader.dispose()


def _refuse_double_keys(file: Path, node: yaml.Node, depth: int = 0) -> None:
    if depth > 50:
        raise SpecError(f"{file}:{node.start_mark.line + 1}: nested too deeply")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise SpecError(f"{file}:{key.start_mark.line + 1}: key {key.value!r} is given twice")
            seen.add(str(key.value))
            _refuse_double_keys(file, value, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_double_keys(file, item, depth + 1)


def _child(node: yaml.Node, part: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line + 1, item
    return None


def _inline_user_data(spec: ScaleSetSpec, document: _Document) -> ScaleSetSpec:
    """The named file's text becomes the spec's: what is applied is kept, whatever happens to the file."""
    named = spec.setup.user_data_file
    if named is None:
        return spec
    file = document.file.parent / named
    where = f"{document.file}:{document.line(('setup', 'user_data_file'))}"
    try:
        content, _ = read_plain_file(file, MAX_FILE_SIZE, "user_data_file")
        text = content.decode()
    except UnicodeDecodeError as error:
        raise SpecError(f"{where}: cannot read user_data_file {file}: it is not UTF-8 text: {error}") from error
    except SpecError as error:
        raise SpecError(f"{where}: {error.message}", error.fix) from error
    if len(content) > MAX_FILE_SIZE:
        raise SpecError(f"{where}: user_data_file {file} is larger than {MAX_FILE_SIZE // 2**20} MiB")
    if not text.startswith(("#!", "#cloud-config")):
        raise SpecError(f"{where}: {file} must begin with '#!' or '#cloud-config'")
    try:
        refuse_reserved(text)
    except ValueError as error:
        raise SpecError(f"{where}: {error}") from error
    setup = spec.setup.model_copy(update={"user_data": text, "user_data_file": None})
    return spec.model_copy(update={"setup": setup})


def _resolve_uploads(spec: ScaleSetSpec, document: _Document) -> ScaleSetSpec:
    """Upload sources become absolute paths that exist; a trailing slash (contents only) is kept."""
    steps = []
    for index, step in enumerate(spec.setup.steps):
        if step.upload is None:
            steps.append(step)
            continue
        if step.upload.digest is not None:
            line = document.line(("setup", "steps", index, "upload", "digest"))
            raise SpecError(f"{document.file}:{line}: unknown key 'digest' (it is computed)")
        path = _resolved(document.file.parent, step.upload.source)
        if not _exists(path):
            line = document.line(("setup", "steps", index, "upload", "from"))
            raise SpecError(f"{document.file}:{line}: cannot upload {step.upload.source!r}: {path} does not exist")
        source = str(path) + ("/" if step.upload.source.endswith("/") else "")
        upload = step.upload.model_copy(update={"source": source})
        steps.append(step.model_copy(update={"upload": upload}))
    setup = spec.setup.model_copy(update={"steps": tuple(steps)})
    return spec.model_copy(update={"setup": setup})


def _resolve_password(spec: ScaleSetSpec, document: _Document) -> ScaleSetSpec:
    """The path becomes absolute, and its file one that can be applied; the password itself is left there."""
    windows = spec.setup.windows
    if windows is None:
        return spec
    keys = ("administrator_password_digest", "administrator_password_file")
    given = (windows.administrator_password_digest, windows.administrator_password_file)
    file = _private_file(document, ("setup", "windows"), keys, given, read_password)
    named = windows.model_copy(update={"administrator_password_file": file})
    return spec.model_copy(update={"setup": spec.setup.model_copy(update={"windows": named})})


def _resolve_secrets(spec: ScaleSetSpec, document: _Document) -> ScaleSetSpec:
    """Paths become absolute, their files ones that can be applied; the secrets themselves are left there."""
    resolved = {}
    for name, one in spec.setup.secrets.items():
        where = ("setup", "secrets", name)
        file = _private_file(document, where, ("digest", "file"), (one.digest, one.file), read_secret)
        resolved[name] = one.model_copy(update={"file": file})
    return spec.model_copy(update={"setup": spec.setup.model_copy(update={"secrets": resolved})})


def _private_file(
    document: _Document,
    where: tuple[str, ...],
    keys: tuple[str, str],
    given: tuple[str | None, str],
    read: Callable[[Path], object],
) -> str:
    """The absolute path of a secret's file that `read` accepts. `keys` and `given`: of its digest, of its file."""
    if given[0] is not None:
        line = document.line((*where, keys[0]))
        raise SpecError(f"{document.file}:{line}: unknown key {keys[0]!r} (it is computed)")
    file = _resolved(document.file.parent, given[1])
    try:
        read(file)
    except SpecError as error:
        line = document.line((*where, keys[1]))
        raise SpecError(f"{document.file}:{line}: {error.message}", error.fix) from error
    return str(file)


def _resolved(directory: Path, source: str) -> Path:
    try:
        return (directory / source).resolve()
    except (OSError, ValueError):
        return directory / source


def _exists(path: Path) -> bool:
    """False also for what cannot be a path (too long, a NUL in it)."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
