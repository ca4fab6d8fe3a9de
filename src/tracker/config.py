"""Configuration of both services: YAML file, environment overrides, strict types. See docs/configuration.md.

A configuration is read in three steps:

1. The file is read as YAML. Its size is bounded, its aliases are never expanded, a key given twice is a mistake.
2. The values of `TRACKER_…` variables replace those of the file, key by key. Which variable gave which key is kept.
3. Each value is checked by itself, so that all mistakes are found at once, and each is reported with its source: the
   file or the variable, the key path, and what was expected.

All mistakes together are one ConfigurationError with a line for each.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
import yaml
from msgspec import inspect

from tracker.core.client_ip import ClientIp
from tracker.errors import ConfigurationError
from tracker.logs import printable

MAX_FILE_BYTES = 1 << 20
MAX_MISTAKES = 20  # reported at once
MAX_REPORTED_CHARS = 200  # of one key or one expectation: a value in it may be as long as the file


def _form(pattern: str, description: str) -> msgspec.Meta:
    """Text that matches `pattern` from its first to its last character; `description` is for the error message."""
    return msgspec.Meta(pattern=rf"\A(?:{pattern})\Z", description=description)


Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Bytes = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]  # the longest file of Linux
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Url = Annotated[str, _form(r"https?://[A-Za-z0-9._:\[\]-]+(/[!-~]*)?", "an http or https URL without credentials")]
# No control character, those of Unicode (C1, line and paragraph separator) included.
Text = Annotated[
    str,
    _form(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+", "text of one character or more, none a control character"),
]
Host = Annotated[str, _form(r"\*|[A-Za-z0-9._:%-]+", '"*", an IP address or a host name')]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of the file; unknown keys are errors."""

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        """What is wrong beyond the types of its keys: key, index in its list ("[0]", or nothing), what was expected.

        The key may be one of a section below, as a path with dots.
        """
        return iter(())


class Http(Section, frozen=True):
    host: Host = "*"
    port: Port = 8080
    path: Annotated[str, _form(r"/[A-Za-z0-9._~/-]*", "a path such as /track, of letters, digits and . _ ~ / -")] = (
        "/track"
    )
    trusted_proxies: list[str] = msgspec.field(default_factory=list)
    client_ip_header: Annotated[str, _form(r"[A-Za-z0-9-]+", "the name of a header")] = "X-Forwarded-For"
    keepalive_timeout: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 75.0
    rate_limit: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] | None = None

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        for index, network in enumerate(self.trusted_proxies):
            try:
                ClientIp([network], self.client_ip_header)
            except ConfigurationError as error:
                yield "trusted_proxies", f"[{index}]", str(error)


class Admin(Section, frozen=True):
    host: Host = "127.0.0.1"
    port: Port = 8081


class StorageAdmin(Section, frozen=True):
    host: Host = "127.0.0.1"
    port: Port = 8082


class Privacy(Section, frozen=True):
    ip: Literal["full", "truncated"] = "full"
    honor: list[Literal["gpc", "dnt"]] = msgspec.field(default_factory=list)


class OutboxConfig(Section, frozen=True):
    dir: Text = "var/outbox"
    max_bytes: Bytes = 1_073_741_824
    segment_bytes: Bytes = 16_777_216
    fsync_interval: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 1.0


class SnsConfig(Section, frozen=True):
    topic_arn: Annotated[
        str,
        _form(
            r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}",
            "the ARN of an SNS topic that is no FIFO topic, arn:aws:sns:REGION:ACCOUNT:NAME",
        ),
    ]
    region: Text | None = None
    endpoint_url: Url | None = None
    linger: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.2
    format: Literal["packed", "plain", "single"] = "packed"


class PixelShutdown(Section, frozen=True):
    drain_delay: Seconds = 0.0
    timeout: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 25.0


class StorageShutdown(Section, frozen=True):
    timeout: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 25.0


class Logging(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class SqsConfig(Section, frozen=True):
    queue: Text
    region: Text | None = None
    endpoint_url: Url | None = None
    receivers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    wait_time: Annotated[int, msgspec.Meta(ge=0, le=20)] = 10
    visibility_timeout: Annotated[int, msgspec.Meta(ge=10, le=43_200)] = 30


class Rotate(Section, frozen=True):
    max_bytes: Bytes | None = None
    every: Literal["hour", "day"] | None = None
    compress: Literal["none", "gzip"] = "none"


class LogConfig(Section, frozen=True):
    path: Text = "var/visits.log"
    mode: Annotated[str, _form(r"0?[0-7]{3}", 'permissions as octal digits in quotes, such as "0640"')] = "0640"
    rotate: Rotate = Rotate()


class PixelConfig(Section, frozen=True):
    sns: SnsConfig
    http: Http = Http()
    admin: Admin = Admin()
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] | Literal["auto"] = 1
    privacy: Privacy = Privacy()
    outbox: OutboxConfig = OutboxConfig()
    shutdown: PixelShutdown = PixelShutdown()
    logging: Logging = Logging()

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        if self.admin.port == self.http.port and _share_addresses(self.admin.host, self.http.host):
            yield "admin.port", "", f"expected another port than http.port, got {self.admin.port} for both"


class StorageConfig(Section, frozen=True):
    sqs: SqsConfig
    log: LogConfig = LogConfig()
    admin: StorageAdmin = StorageAdmin()
    shutdown: StorageShutdown = StorageShutdown()
    logging: Logging = Logging()


def _share_addresses(host: str, other: str) -> bool:
    """Whether two listeners with these hosts have an address in common, as far as that is known without a lookup."""
    if host == other or "*" in (host, other):
        return True
    is_ipv6 = ":" in host, ":" in other
    return ("0.0.0.0" in (host, other) and not any(is_ipv6)) or ("::" in (host, other) and all(is_ipv6))


Config = TypeVar("Config", PixelConfig, StorageConfig)

# Both services may share one environment: a section of the other one is not ours to judge.
_SECTIONS = {*PixelConfig.__struct_fields__, *StorageConfig.__struct_fields__}

_KeyPath = tuple[str, ...]


def load_pixel(path: Path, environ: Mapping[str, str]) -> PixelConfig:
    """The pixel's configuration from `path`, overridden by `TRACKER_…` of `environ`."""
    return _load(PixelConfig, path, environ)


def load_storage(path: Path, environ: Mapping[str, str]) -> StorageConfig:
    """The storage's configuration from `path`, overridden by `TRACKER_…` of `environ`."""
    return _load(StorageConfig, path, environ)


def _load(kind: type[Config], path: Path, environ: Mapping[str, str]) -> Config:
    content = _parse_yaml(_read(path), str(path))
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigurationError(_line(str(path), f"expected a mapping of sections, got {type(content).__name__}"))
    mistakes = _Mistakes(str(path))
    _override(kind, content, environ, mistakes)
    config = _build(kind, content, (), mistakes)
    mistakes.refuse()
    return cast(Config, config)  # without a mistake there is one


class _Mistakes:
    """What is wrong with a configuration, each with its source."""

    def __init__(self, file: str) -> None:
        self.variables: dict[_KeyPath, str] = {}  # the variable that gave the value of a key
        self._file = file
        self._lines: list[str] = []

    def add(self, key: _KeyPath, expectation: str, *, index: str = "") -> None:
        """A mistake at `key`, or at the element `index` of its list."""
        text = f"{_cut('.'.join(key))}{index}: {expectation}" if key else expectation
        self._lines.append(_line(self._source(key), text))

    def add_error(self, error: ConfigurationError) -> None:
        """A mistake that names its source already."""
        self._lines.append(str(error))

    def __len__(self) -> int:
        return len(self._lines)

    def refuse(self) -> None:
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


def _line(source: str, text: str) -> str:
    """One line, whatever the file holds: nothing of it may begin a second line or reach a terminal as it is."""
    return f"{printable(source)}: {_cut(text, 2 * MAX_REPORTED_CHARS)}"


def _cut(text: str, length: int = MAX_REPORTED_CHARS) -> str:
    shown = printable(text)
    return shown if len(shown) <= length else f"{shown[:length]}..."


def _read(path: Path) -> str:
    try:
        # Without O_NONBLOCK the opening of a pipe waits until somebody writes to it.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigurationError(_line(str(path), "cannot be read: expected a file, got something else"))
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(_line(str(path), f"cannot be read: {error.strerror}")) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(_line(str(path), f"expected at most {MAX_FILE_BYTES} bytes"))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(_line(str(path), "expected UTF-8 text")) from None


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, and reads plain scalars as YAML 1.2 does.

    YAML 1.1 has surprises: `on` and `no` are booleans, `0640` is 416, `22:22` is 1342, `1_0` is 10, and `<<` copies
    other mappings, which a small file can use to fill the memory. Here they all are text.
    """

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if re.search(r"[\ud800-\udfff]", value):  # "\ud800": such text cannot be encoded, in a message or a path
            raise yaml.MarkedYAMLError(None, None, "text with half of a surrogate pair", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(
                key_node, deep=True
            )  # an explicit `!!merge` key ends here: it has no constructor
            if not isinstance(key, str):
                continue  # refused later, like every key that is no text
            if key in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {}  # none of YAML 1.1
_WHOLE = r"[-+]?(?:0|[1-9][0-9]*)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", _WHOLE, [*"-+0123456789"]),
    (
        "float",
        rf"(?:{_WHOLE}(?:\.[0-9]*)?|[-+]?\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)

_WANTS_QUOTES = re.compile(
    r"expected the node content, but found ':'|found character '[%@`]' that cannot start|mapping values are not allowed"
)


def _parse_yaml(text: str, where: str) -> Any:
    """The document in `text`. Raises ConfigurationError."""
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        source = f"{where}: line {error.problem_mark.line + 1}" if error.problem_mark else where
        problem = f"expected YAML: {error.problem}"
        if error.context == "while scanning an alias" or _WANTS_QUOTES.search(problem):
            problem += '; a value that begins with * : % @ or `, or ends with a colon, wants quotes, as in "*" or "::1"'
        raise ConfigurationError(_line(source, problem)) from None
    except RecursionError:
        raise ConfigurationError(_line(where, "expected YAML that is not nested so deeply")) from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigurationError(_line(where, f"expected YAML: {' '.join(str(error).split())}")) from None
    except Exception as error:  # a tag that does not go with its value, as in "!!bool x", has no error of its own
        problem = f"expected YAML: a value does not have its tag's form: {error}"
        raise ConfigurationError(_line(where, problem)) from None


def _override(kind: type[Section], content: dict[str, Any], environ: Mapping[str, str], mistakes: _Mistakes) -> None:
    """Put the environment's values into `content`."""
    for name, value in sorted(environ.items()):
        if not name.startswith("TRACKER_") or ("__" not in name and name != "TRACKER_WORKERS"):
            continue
        keys = tuple(name.removeprefix("TRACKER_").lower().split("__"))
        if keys[0] not in kind.__struct_fields__ and keys[0] in _SECTIONS:
            continue
        mistakes.variables[keys] = name
        target = _target(kind, content, keys)
        if target is None:
            mistakes.add(keys, "unknown key")
            continue
        try:
            target[keys[-1]] = _parse_yaml(value, f"environment {name}")
        except ConfigurationError as error:
            target[keys[-1]] = error  # reported when the key is checked


def _target(kind: type[Section], content: dict[str, Any], keys: _KeyPath) -> dict[str, Any] | None:
    """The mapping of `content` that holds the last of `keys`; None when the keys above it are no sections."""
    for key in keys[:-1]:
        section = _subsections(kind).get(key)
        if section is None:
            return None
        below = content.get(key)
        if below is not None and not isinstance(below, dict):
            return {}  # the mistake is the one in whose place a mapping was expected
        kind = section
        content[key] = content = dict(below or {})  # a copy: a YAML alias may have put it in two places
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
        mistakes.add_error(content)
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
            mistakes.add_error(content[field.name])
        else:
            try:
                values[field.name] = msgspec.convert(content[field.name], field.type)
            except msgspec.ValidationError as error:
                expectation, index = _explain(field.type, str(error))
                mistakes.add(key_path, expectation, index=index)
    if len(mistakes) > before:
        return None
    section = kind(**values)
    for key, index, expectation in section.mistakes():
        mistakes.add((*path, *key.split(".")), expectation, index=index)
    return section


def _explain(expected_type: Any, message: str) -> tuple[str, str]:
    """Expectation, and index in a list, from msgspec's words: "Expected `int`, got `str` - at `$[0]`"."""
    text, index = message, ""
    if at := re.search(r" - at `\$(\[\d+\])`\Z", message):
        text, index = message[: at.start()], at[1]
    text = text.replace("`", "")
    words = _words(inspect.type_info(expected_type))
    if text.startswith("Invalid enum value "):
        return f"expected {words}, got {text.removeprefix('Invalid enum value ')}", index
    expected, comma, got = text.partition(", got ")
    if words and (comma or "matching regex" in expected) and " array" not in expected:
        expected = f"Expected {words}"
    if re.match("Expected str", text) and comma and got != "null":
        got += "; put the value into quotes"
    return f"{expected[:1].lower()}{expected[1:]}{comma}{got}", index


def _words(expected_type: inspect.Type) -> str:
    """What may stand in the place of a type, for people: its description, or the words of a choice. Often nothing."""
    if isinstance(expected_type, inspect.Metadata):
        return str((expected_type.extra_json_schema or {}).get("description", ""))
    if isinstance(expected_type, inspect.CollectionType):
        return _words(expected_type.item_type)
    if isinstance(expected_type, inspect.LiteralType):
        return " or ".join(map(str, expected_type.values))
    if isinstance(expected_type, inspect.UnionType):
        words = [text for each in expected_type.types if (text := _words(each))]
        numbers = ["a number"] if any(isinstance(each, inspect.IntType) for each in expected_type.types) else []
        return " or ".join(words + numbers)
    return ""
