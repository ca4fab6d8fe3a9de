"""What holds for each source file: its size, and that the tests use public names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PUBLIC_DESPITE_THEIR_NAME = {
    "_replace": "a documented method of named tuples",
    "_exit": "a documented function of os",
}
ALLOWED = {
    ("tests/local/test_broker.py", "_messages"): "moto has no public way to add a message in the middle of a delete",
}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC_DESPITE_THEIR_NAME


def private_names(source: str) -> Iterator[str]:
    """The private names in a source that belong to something else than the object or class that uses them.

    Also those that are given as a string to `setattr`, `getattr` and the like: as `"_name"` or as `"module._name"`.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super"))):
                pass
            case ast.Attribute(attr=name) if _is_private(name):
                yield name
            case ast.ImportFrom(names=aliases):
                yield from (alias.name for alias in aliases if _is_private(alias.name))
            case ast.Call(
                func=ast.Attribute(attr="setattr" | "delattr") | ast.Name(id="setattr" | "getattr" | "delattr"),
                args=arguments,
            ):
                texts = [each.value for each in arguments[:2] if isinstance(each, ast.Constant)]
                parts = [part for text in texts if isinstance(text, str) for part in text.split(".")]
                yield from filter(_is_private, parts)


@pytest.mark.parametrize("folder", ["tests", "benchmarks"])
def test_tests_and_benchmarks_use_public_names(folder: str) -> None:
    found = [
        f"{path}: {name}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for path in [file.relative_to(ROOT).as_posix()]
        for name in private_names(file.read_text(encoding="utf-8"))
        if (path, name) not in ALLOWED
    ]
    assert not found, "give the code a parameter or a public name instead"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("telemetry.HITS._value.get()", ["_value"]),
        ("of(x)._counts; x[0]._counts", ["_counts", "_counts"]),
        ("from tracker.core.message import _crc32, pack", ["_crc32"]),
        ("monkeypatch.setattr(module, '_size', 1); monkeypatch.setattr('tracker.x._y', 1)", ["_size", "_y"]),
        ("getattr(writer, '_file')", ["_file"]),
        ("self._x = cls._y + super()._z; s._replace(a=1); x.__class__; os._exit(1); setattr(a, 'b', '_c')", []),
    ],
)
def test_a_private_name_is_recognised(source: str, names: list[str]) -> None:
    assert list(private_names(source)) == names
