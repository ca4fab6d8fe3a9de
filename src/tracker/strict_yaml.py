"""YAML, read strictly: a file of bounded size, plain values as in YAML 1.2, no key twice, no merge keys (`<<`).

Every mistake is a ConfigurationError of one line that names the file or variable and, where there is one, the line.
"""

import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from tracker.core.printable import printable
from tracker.errors import ConfigurationError, ConfigurationUnreadable

MAX_FILE_BYTES = 1 << 20
MAX_REPORTED_CHARS = 200  # of one key or one expectation: a value in it may be as long as the file


def read_yaml(path: Path) -> Any:
    """The document in the file at `path`. Raises ConfigurationUnreadable, ConfigurationError."""
    return parse_yaml(_read(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The document in `text`, which comes from `where`. Raises ConfigurationError."""
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        source = f"{where}: line {error.problem_mark.line + 1}" if error.problem_mark else where
        problem = f"expected YAML: {error.problem}"
        if error.context == "while scanning an alias" or _NEEDS_QUOTES.search(problem):
            problem += '; a value that begins with * : % @ or `, or ends with a colon, needs quotes, as in "*" or "::1"'
        raise ConfigurationError(mistake_line(source, problem)) from None
    except RecursionError:
        raise ConfigurationError(mistake_line(where, "expected YAML that is not nested so deeply")) from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigurationError(mistake_line(where, f"expected YAML: {' '.join(str(error).split())}")) from None
    except Exception as error:  # for a tag that does not match its value ("!!bool x") PyYAML raises errors of any type
        problem = f"expected YAML: a value does not have its tag's form: {error}"
        raise ConfigurationError(mistake_line(where, problem)) from None


def mistake_line(source: str, text: str) -> str:
    """The line that reports a mistake. Whatever the file holds, it is one line and safe to show on a terminal."""
    return f"{printable(source)}: {shorten(text, 2 * MAX_REPORTED_CHARS)}"


def shorten(text: str, length: int = MAX_REPORTED_CHARS) -> str:
    shown = printable(text)
    return shown if len(shown) <= length else f"{shown[:length]}..."


def _read(path: Path) -> str:
    try:
        # Without O_NONBLOCK the opening of a pipe waits until somebody writes to it.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigurationUnreadable(
                    mistake_line(str(path), "cannot be read: expected a file, got something else")
                )
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationUnreadable(mistake_line(str(path), f"cannot be read: {error.strerror}")) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigurationError(mistake_line(str(path), f"expected at most {MAX_FILE_BYTES} bytes"))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(mistake_line(str(path), "expected UTF-8 text")) from None


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, and reads plain scalars as YAML 1.2 does.

    In YAML 1.1 `on` and `no` are booleans, `0640` is 416, `22:22` is 1342, and `1_0` is 10. `<<` copies other mappings,
    and a small file that does so repeatedly can fill the memory. This loader reads all of these as text.
    """

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if re.search(r"[\ud800-\udfff]", value):  # "\ud800": such text cannot be encoded, in a message or a path
            raise yaml.MarkedYAMLError(None, None, "text with half of a surrogate pair", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            # Raises for an explicit `!!merge` key, because there is no constructor for it.
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                continue  # `config_reader` refuses every key that is not text
            if key in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
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

_NEEDS_QUOTES = re.compile(
    r"expected the node content, but found ':'|found character '[%@`]' that cannot start|mapping values are not allowed"
)
