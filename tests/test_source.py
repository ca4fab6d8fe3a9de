"""What holds for the source files: their sizes, that the tests use public names, and what the soak is made of."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak.__main__ import DEEP

ROOT = Path(__file__).parent.parent

VISIT_LINES = 3_500  # of code, in all modules that a visit passes on its way to its line
PROCESS_LINES = 1_300  # of code, in the modules that start, watch, reload and stop the processes
MODULE_LINES = 250  # of any kind, in one module
PROCESS_MODULES = [
    *("lifecycle", "owner_thread", "processes", "start", "systemd"),
    *("pixel/control", "pixel/reload", "pixel/service", "pixel/start_worker"),
    *("pixel/worker", "pixel/worker_pool", "pixel/worker_process", "pixel/worker_starter"),
    *("storage/service", "storage/shutdown"),
]

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


def code_lines(source: str) -> int:
    """The number of lines that are not blank, not only a comment, and not part of a docstring."""
    no_code = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in no_code
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        match node:
            case (
                ast.Module(body=[first, *_])
                | ast.ClassDef(body=[first, *_])
                | ast.FunctionDef(body=[first, *_])
                | ast.AsyncFunctionDef(body=[first, *_])
            ) if ast.get_docstring(node) is not None:
                lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def lines_of(modules: list[Path]) -> int:
    return sum(code_lines(module.read_text(encoding="utf-8")) for module in modules)


def test_the_way_of_a_visit_to_its_line_is_short() -> None:
    page = (ROOT / "docs/how-it-works.md").read_text(encoding="utf-8")
    walk = page[page.index("## A visit to its line") :].removeprefix("##").partition("\n## ")[0]
    names = set(re.findall(r"tracker\.(?:aws|core|pixel|storage)\.[a-z_]+", walk))  # not the commands it mentions
    modules = [path for name in names if (path := ROOT / "src" / f"{name.replace('.', '/')}.py").exists()]
    assert len(modules) > 25
    assert lines_of(modules) <= VISIT_LINES


def test_the_life_of_the_processes_is_short() -> None:
    assert lines_of([ROOT / f"src/tracker/{name}.py" for name in PROCESS_MODULES]) <= PROCESS_LINES


def test_no_module_is_long() -> None:
    package = ROOT / "src/tracker"
    lengths = {
        path.relative_to(package).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in package.rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > MODULE_LINES} == {}


def test_a_line_of_code_is_neither_blank_nor_a_comment_nor_of_a_docstring() -> None:
    source = """\
'''A module.

With a second paragraph.'''

# a comment
def f(  # a line with a comment
    a,
):
    "A function."
    # a comment

    return (
        a
    )
text = "no docstring"
"""
    assert code_lines(source) == 7


def test_every_test_that_tries_more_in_the_soak_is_part_of_it() -> None:
    tries_more = re.compile(r"TRACKER_SOAK|^from tests\.seam\.method import .*\bLONG\b", re.MULTILINE)
    for path in (ROOT / "tests").rglob("test_*.py"):
        name = path.relative_to(ROOT).as_posix()
        if path != Path(__file__) and tries_more.search(path.read_text(encoding="utf-8")):
            assert name.startswith(DEEP), f"{name}: tests/soak/__main__.py leaves it out"
