"""Configuration of both services: YAML file, environment overrides, strict types. See docs/configuration.md.

Every mistake is a ConfigurationError that names the file (or variable), the key path and what was expected.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml
from msgspec import inspect

from tracker.core.client_ip import ClientIp
from tracker.errors import ConfigurationError

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Url = Annotated[str, msgspec.Meta(pattern=r"^https?://[A-Za-z0-9._:\[\]-]+(/\S*)?$")]
Text = Annotated[str, msgspec.Meta(min_length=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of the file; unknown keys are errors."""


class Http(Section, frozen=True):
    host: Text = "0.0.0.0"
    port: Port = 8080
    path: Annotated[str, msgspec.Meta(pattern=r"^/[A-Za-z0-9._~/-]*$")] = "/track"
    trusted_proxies: list[str] = msgspec.field(default_factory=list)
    client_ip_header: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]+$")] = "X-Forwarded-For"
    keepalive_timeout: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 75.0
    rate_limit: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] | None = None


class Admin(Section, frozen=True):
    host: Text = "127.0.0.1"
    port: Port = 8081


class StorageAdmin(Section, frozen=True):
    host: Text = "127.0.0.1"
    port: Port = 8082


class Privacy(Section, frozen=True):
    ip: Literal["full", "truncated"] = "full"
    honor: list[Literal["gpc", "dnt"]] = msgspec.field(default_factory=list)


class OutboxConfig(Section, frozen=True):
    dir: Text = "var/outbox"
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1_073_741_824
    segment_bytes: Annotated[int, msgspec.Meta(ge=1)] = 16_777_216
    fsync_interval: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 1.0


class SnsConfig(Section, frozen=True):
    topic_arn: Annotated[str, msgspec.Meta(pattern=r"^arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,256}$")]
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
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    every: Literal["hour", "day"] | None = None
    compress: Literal["none", "gzip"] = "none"


class LogConfig(Section, frozen=True):
    path: Text = "var/visits.log"
    mode: Annotated[str, msgspec.Meta(pattern=r"^0?[0-7]{3}$")] = "0640"
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


class StorageConfig(Section, frozen=True):
    sqs: SqsConfig
    log: LogConfig = LogConfig()
    admin: StorageAdmin = StorageAdmin()
    shutdown: StorageShutdown = StorageShutdown()
    logging: Logging = Logging()


Config = TypeVar("Config", PixelConfig, StorageConfig)

# Both services may share one environment: a section of the other one is not ours to judge.
_SECTIONS = {*PixelConfig.__struct_fields__, *StorageConfig.__struct_fields__}


def load_pixel(path: Path, environ: Mapping[str, str]) -> PixelConfig:
    """The pixel's configuration from `path`, overridden by `TRACKER_…` of `environ`."""
    return _load(PixelConfig, path, environ, _check_pixel)


def load_storage(path: Path, environ: Mapping[str, str]) -> StorageConfig:
    """The storage's configuration from `path`, overridden by `TRACKER_…` of `environ`."""
    return _load(StorageConfig, path, environ)


def _load(
    kind: type[Config],
    path: Path,
    environ: Mapping[str, str],
    check: Callable[[Config], tuple[str, str] | None] = lambda config: None,
) -> Config:
    content = _read_yaml(path)
    overridden = _override(content, kind.__struct_fields__, environ)

    for field in msgspec.structs.fields(kind):
        # An absent or empty section stands for its defaults; of a required one, its missing key is named.
        if isinstance(field.type, type) and issubclass(field.type, Section) and content.get(field.name) is None:
            content[field.name] = {}

    def fail(key: str, expectation: str) -> ConfigurationError:
        variable = next((name for given, name in overridden.items() if _related(key.partition("[")[0], given)), None)
        where = f"environment {variable}" if variable else str(path)
        return ConfigurationError(f"{where}: {key}: {expectation}" if key else f"{where}: {expectation}")

    try:
        config = msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise fail(*_explain(kind, str(error))) from None
    if (problem := check(config)) is not None:
        raise fail(*problem)
    return config


def _check_pixel(config: PixelConfig) -> tuple[str, str] | None:
    for index, network in enumerate(config.http.trusted_proxies):
        try:
            ClientIp([network], config.http.client_ip_header)
        except ConfigurationError as error:
            return f"http.trusted_proxies[{index}]", str(error)
    return None


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.MarkedYAMLError(None, None, f"the key {key!r} stands twice", node.value[index][0].start_mark)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigurationError(f"{where}:{line} expected YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{where}: expected YAML: {' '.join(str(error).split())}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: expected UTF-8 text") from None
    content = _parse_yaml(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected a mapping of sections, got {type(content).__name__}")
    return content


def _override(content: dict[str, Any], sections: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    """Put the environment's values into `content`; which variable gave which key path."""
    overridden = {}
    for name, value in sorted(environ.items()):
        if not name.startswith("TRACKER_") or ("__" not in name and name != "TRACKER_WORKERS"):
            continue
        keys = name.removeprefix("TRACKER_").lower().split("__")
        if keys[0] not in sections and keys[0] in _SECTIONS:
            continue
        target = content
        for key in keys[:-1]:
            section = {} if target.get(key) is None else target[key]
            if not isinstance(section, dict):
                raise ConfigurationError(f"environment {name}: {'.'.join(keys)}: {key} is no mapping")
            target[key] = section = dict(section)  # a copy: a YAML alias may have put it in two places
            target = section
        target[keys[-1]] = _parse_yaml(value, f"environment {name}")
        overridden[".".join(keys)] = name
    return overridden


def _related(one: str, other: str) -> bool:
    """Whether one key path is the other, or leads to it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _explain(kind: type[Section], message: str) -> tuple[str, str]:
    """Key path and expectation from msgspec's words: "Expected `int`, got `str` - at `$.http.port`"."""
    text, _, at = message.partition(" - at `")
    key = at.rstrip("`").removeprefix("$").removeprefix(".")
    text = text.replace("`", "")
    if key.startswith("key` in `$"):  # also what YAML 1.1 makes of a bare on, no or 1
        return key.removeprefix("key` in `$").removeprefix("."), "every key must be text"
    if invalid := re.fullmatch(r"Invalid enum value (.*)", text):
        return key, f"expected {_choices(kind, key)}, got {invalid[1]}"
    if missing := re.fullmatch(r"Object (missing required|contains unknown) field (\S+)", text):
        key = f"{key}.{missing[2]}".lstrip(".")
        return key, "expected a value, it is required" if missing[1].startswith("missing") else "unknown key"
    return key, text[:1].lower() + text[1:]


def _choices(kind: type[Section], key: str) -> str:
    """The words that may stand at a key path."""
    here: Any = inspect.type_info(kind)
    for name in key.split("."):
        fields = {field.name: field.type for field in here.fields}
        here = fields[name.partition("[")[0]]
        if isinstance(here, inspect.ListType):
            here = here.item_type
    kinds = here.types if isinstance(here, inspect.UnionType) else (here,)
    words = [str(word) for each in kinds if isinstance(each, inspect.LiteralType) for word in each.values]
    numbers = ["a number"] if any(isinstance(each, inspect.IntType) for each in kinds) else []
    return " or ".join(words + numbers)
