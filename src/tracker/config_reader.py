"""Reads a configuration into typed sections, and reports all its mistakes at once.

1. The file is read as YAML (`strict_yaml`).
2. The values of `TRACKER_…` variables replace those of the file, key by key. For each key the variable is remembered.
3. Text with a unit (`100MB`, `7d`) becomes a number where the key is a size or a duration.
4. Each value is checked separately, so that all mistakes are found. Each is reported with its source (the file or the
   variable), the key path, and what was expected.

All mistakes are reported together, as one ConfigurationError with a line for each mistake.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from tracker.config_values import Unexpected, convert
from tracker.core.printable import printable
from tracker.errors import ConfigurationError
from tracker.strict_yaml import mistake_line, parse_yaml, read_yaml, shorten

MAX_MISTAKES = 20  # at most this many are reported; of the others only the number

_KeyPath = tuple[str, ...]


class AwsSettings(NamedTuple):
    """What the settings of the AWS tools give; `tracker.aws` reads them. Each of `mistakes` names its source."""

    has_region: bool
    mistakes: tuple[str, ...] = ()


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of the file; unknown keys are errors."""

    def mistakes(self, aws: AwsSettings | None) -> Iterator[tuple[str, str, str]]:
        """The mistakes that the types do not show, each as key, index in its list ("[0]" or ""), and expectation.

        The key of a section within this one is given as a path with dots. `aws` is None where nobody will call AWS.
        """
        return iter(())


Config = TypeVar("Config", bound=Section)


def read_config(
    kind: type[Config],
    path: Path,
    environ: Mapping[str, str],
    others: Collection[str],
    aws: AwsSettings | None = None,
) -> Config:
    """The configuration of this `kind`. Raises ConfigurationError with all mistakes, or ConfigurationUnreadable.

    Variables for the sections `others` are ignored: they are for the other service, which may share the environment.
    """
    content = read_yaml(path)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            mistake_line(str(path), f"expected a mapping of sections, got {type(content).__name__}")
        )
    mistakes = _Mistakes(str(path), aws)
    _override(kind, content, environ, others, mistakes)
    config = _build(kind, content, (), mistakes)
    mistakes.add_lines(aws.mistakes if aws else ())
    mistakes.raise_if_any()
    return cast(Config, config)  # it is None only after a mistake


class _Mistakes:
    """The mistakes of a configuration, each with its source."""

    def __init__(self, file: str, aws: AwsSettings | None) -> None:
        self.aws = aws
        self.variables: dict[_KeyPath, str] = {}  # the variable that gave the value of a key
        self._file = file
        self._lines: list[str] = []

    def add(self, key: _KeyPath, expectation: str, *, index: str = "") -> None:
        """Add a mistake at `key`, or at the element `index` of its list."""
        text = f"{shorten('.'.join(key))}{index}: {expectation}" if key else expectation
        self._lines.append(mistake_line(self._source(key), text))

    def add_lines(self, lines: Iterable[str]) -> None:
        """Add mistakes that name their source already."""
        self._lines += lines

    def __len__(self) -> int:
        return len(self._lines)

    def raise_if_any(self) -> None:
        """Raise ConfigurationError if there is any mistake."""
        if not self._lines:
            return
        lines = self._lines[:MAX_MISTAKES]
        if more := len(self._lines) - len(lines):
            lines.append(f"{printable(self._file)}: and {more:,} more mistakes")
        raise ConfigurationError("\n".join(lines))

    def _source(self, key: _KeyPath) -> str:
        for length in range(len(key), 0, -1):
            if (variable := self.variables.get(key[:length])) is not None:
                return f"environment {variable}"
        return self._file


def _override(
    kind: type[Section],
    content: dict[str, Any],
    environ: Mapping[str, str],
    others: Collection[str],
    mistakes: _Mistakes,
) -> None:
    """Put the values of the environment into `content`."""
    for name, value in sorted(environ.items()):
        if not name.startswith("TRACKER_") or ("__" not in name and name != "TRACKER_WORKERS"):
            continue
        keys = tuple(name.removeprefix("TRACKER_").lower().split("__"))
        if keys[0] not in kind.__struct_fields__ and keys[0] in others:
            continue
        mistakes.variables[keys] = name
        target = _target(kind, content, keys)
        if target is None:
            mistakes.add(keys, "unknown key")
            continue
        try:
            target[keys[-1]] = parse_yaml(value, f"environment {name}")
        except ConfigurationError as error:
            target[keys[-1]] = error  # reported when the key is checked


def _target(kind: type[Section], content: dict[str, Any], keys: _KeyPath) -> dict[str, Any] | None:
    """The mapping of `content` that holds the last of `keys`; None when a key before it is not a section."""
    for key in keys[:-1]:
        section = _subsections(kind).get(key)
        if section is None:
            return None
        inner = content.get(key)
        if inner is not None and not isinstance(inner, dict):
            return {}  # `_build` reports that a mapping was expected there
        kind = section
        content[key] = content = dict(inner or {})  # a copy: a YAML alias may have put the same mapping in two places
    return content


def _subsections(kind: type[Section]) -> dict[str, type[Section]]:
    return {
        field.name: field.type
        for field in msgspec.structs.fields(kind)
        if isinstance(field.type, type) and issubclass(field.type, Section)
    }


def _build(kind: type[Section], content: Any, path: _KeyPath, mistakes: _Mistakes) -> Section | None:
    """The section of `kind` that `content` describes. None when a mistake in it was reported."""
    before = len(mistakes)
    if isinstance(content, ConfigurationError):
        mistakes.add_lines([str(content)])
        return None
    if content is None:  # its keys are absent or all commented out
        content = {}
    if not isinstance(content, dict):
        mistakes.add(path, f"expected a mapping of keys, got {type(content).__name__}")
        return None
    for key in content:
        if not isinstance(key, str):
            mistakes.add(path, "every key must be text")
        elif key not in kind.__struct_fields__:
            mistakes.add(
                (*path, key), "unknown key; a section is a mapping of its keys" if "." in key else "unknown key"
            )
    sections = _subsections(kind)
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        key_path = (*path, field.name)
        if field.name in sections:
            values[field.name] = _build(sections[field.name], content.get(field.name), key_path, mistakes)
        elif field.name not in content:
            if field.required:
                mistakes.add(key_path, "expected a value, it is required")
        elif isinstance(content[field.name], ConfigurationError):
            mistakes.add_lines([str(content[field.name])])
        else:
            try:
                values[field.name] = convert(content[field.name], field.type)
            except Unexpected as error:
                mistakes.add(key_path, error.expectation, index=error.index)
    if len(mistakes) > before:
        return None
    section = kind(**values)
    for key, index, expectation in section.mistakes(mistakes.aws):
        mistakes.add((*path, *key.split(".")), expectation, index=index)
    return section
