"""The repository keeps its word: documents and files name only what is there, and say what the code says."""

import importlib
import pkgutil
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
import yaml

import tracker
from tracker import config
from tracker.local.demo import app_snippet, embed_snippet, newsletter_snippet
from tracker.pixel.fast_path import FastPath
from tracker.pixel.reload import FIXED

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "tests/README.md"])
CONFIGURATIONS = sorted(ROOT.glob("config/*.yaml"))

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def _leaves(value: object, path: str = "") -> dict[str, object]:
    """Every key path of nested mappings with its value."""
    if isinstance(value, dict):
        return {name: leaf for key, inner in value.items() for name, leaf in _leaves(inner, f"{path}.{key}").items()}
    return {path.removeprefix("."): value}


def _slug(heading: str) -> str:
    """The anchor GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def _anchors(document: Path) -> set[str]:
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    return {_slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_the_pixel_reference_holds_the_defaults_and_every_key() -> None:
    path = ROOT / "config/pixel.reference.yaml"
    loaded = config.load_pixel(path, {})
    assert loaded == config.PixelConfig(sns=config.SnsConfig(topic_arn=loaded.sns.topic_arn))
    assert _leaves(yaml.safe_load(path.read_text())).keys() == _leaves(msgspec.to_builtins(loaded)).keys()


def test_the_storage_reference_holds_the_defaults_and_every_key() -> None:
    path = ROOT / "config/storage.reference.yaml"
    loaded = config.load_storage(path, {})
    assert loaded == config.StorageConfig(sqs=config.SqsConfig(queue=loaded.sqs.queue))
    assert _leaves(yaml.safe_load(path.read_text())).keys() == _leaves(msgspec.to_builtins(loaded)).keys()


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_every_configuration_file_loads(path: Path) -> None:
    load = config.load_pixel if path.name.startswith("pixel") else config.load_storage
    load(path, {})


def test_both_services_have_a_configuration_to_run_with() -> None:
    assert {"pixel.yaml", "storage.yaml"} <= {path.name for path in CONFIGURATIONS}


def test_the_configuration_page_describes_every_key() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    keys_of = page[page.index("## Pixel") : page.index("## The client's IP")]
    documented = set(re.findall(r"^\| `([a-z_.]+)` \|", keys_of, re.MULTILINE))
    keys = {
        *_leaves(msgspec.to_builtins(config.load_pixel(ROOT / "config/pixel.reference.yaml", {}))),
        *_leaves(msgspec.to_builtins(config.load_storage(ROOT / "config/storage.reference.yaml", {}))),
    }
    assert documented == keys


def test_the_configuration_page_says_of_every_key_of_the_pixel_when_a_reload_applies_it() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    table = page[page.index("## Reload") : page.index("## Credentials")]
    rows = [re.findall(r"`([a-z_.*]+)`", row) for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)]
    keys = _leaves(msgspec.to_builtins(config.load_pixel(ROOT / "config/pixel.reference.yaml", {})))
    named = [[key for pattern in row for key in keys if fnmatch(key, pattern)] for row in rows]
    assert sorted(key for row in named for key in row) == sorted(keys)
    assert sorted(named[-1]) == sorted(FIXED)


def test_make_help_lists_every_command_the_documents_name() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  make (\S+)", listed, re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        named = set(re.findall(r"`make ([a-z][a-z-]*)[^`]*`", text)) | set(re.findall(r"^make ([a-z-]+)", text, re.M))
        assert named <= targets, f"{document.relative_to(ROOT)} names make targets that are not there"


def test_make_alone_is_make_help() -> None:
    runs = [
        subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for words in ([], ["help"])
    ]
    assert runs[0] == runs[1] != ""


@pytest.mark.parametrize(("words", "named"), [(["PYTHON=another"], True), ([], False)])
@pytest.mark.parametrize("target", ["run", "types"])
def test_the_set_up_may_take_another_python_exactly_when_one_is_named(
    monkeypatch: pytest.MonkeyPatch, words: list[str], named: bool, target: str
) -> None:
    for name in ("PYTHON", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"):  # of the `make test` that runs this
        monkeypatch.delenv(name, raising=False)
    command = ["make", "--dry-run", target, *words]
    recipe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert ("exec another -I requirements/set_up.py .venv --with-this-python" in recipe) == named
    assert ("exec python3 -I requirements/set_up.py" in recipe) != named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (document.parent / file).resolve() if file else document
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), f"{link}: no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_names_that_the_documents_mention_exist(document: Path) -> None:
    text = _FENCE.sub("", document.read_text(encoding="utf-8"))
    for path in re.findall(r"`((?:src|tests|config|docs|requirements|\.ci)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{path} is not there"
    for file, test in re.findall(r"`(tests/[\w./-]+)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"
    for name in re.findall(r"`(tracker(?:\.\w+)+)(?:\(\))?`", text):
        pkgutil.resolve_name(name)
    for metric in re.findall(r"`(tracker_(?:pixel|storage)_\w+)`", text):
        declared = (ROOT / "src/tracker/telemetry.py").read_text(encoding="utf-8")
        assert f'"{metric.removesuffix("_total")}"' in declared, f"there is no metric {metric}"


def test_log_events_and_other_words_of_the_code_in_the_documents_are_in_the_code() -> None:
    files = [path for name in ("src", "config", "deploy") for path in (ROOT / name).rglob("*") if path.suffix != ".pyc"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file())
    of_others = {"empty_gif", "ncsa_extended"}  # nginx, Matomo
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:  # a decision may tell of names that were
        named = set(re.findall(r"`(?!test_)([a-z]+(?:_[a-z0-9]+)+)[`= ]", document.read_text(encoding="utf-8")))
        unknown = {name for name in named - of_others if name.removesuffix("_total") not in code}
        assert not unknown, f"{document.relative_to(ROOT)}: {unknown}"


def test_the_index_of_the_documents_leads_to_every_page() -> None:
    linked = set(_LINK.findall((ROOT / "docs/README.md").read_text(encoding="utf-8")))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


def test_every_decision_is_in_the_index_with_its_title() -> None:
    index = (ROOT / "docs/adr/README.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs/adr").glob("0*.md"):
        number, _, title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ").partition(". ")
        assert int(number) == int(path.name[:4])
        assert f"| {number} | [{title}]({path.name}) |" in index


def test_the_changelog_has_a_dated_section_for_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## (\d+\.\d+\.\d+) - \d{4}-\d{2}-\d{2}$", changelog, re.MULTILINE)
    assert released[0] == tracker.__version__


def test_the_picture_of_the_modules_names_each_of_them_once_in_its_package_and_nothing_else() -> None:
    page = (ROOT / "docs/how-it-works.md").read_text(encoding="utf-8")
    picture = page[page.index("```\n", page.index("## The modules")) + 4 :].partition("```")[0]
    drawn, package = [], ""
    for line in picture.splitlines():
        names = line.partition("#")[0].split("─")[0].split()
        if not line.startswith("  "):  # a package with its first modules, or modules of no package
            package = names.pop(0) if names and names[0].endswith("/") else ""
        drawn += [f"{package}{name}" for name in names]
    source = ROOT / "src/tracker"
    modules = [path.relative_to(source).with_suffix("") for path in source.rglob("*.py") if path.stem[:2] != "__"]
    assert sorted(drawn) == sorted(map(str, modules))


def test_a_walk_enters_no_module_twice_without_saying_why() -> None:
    page = (ROOT / "docs/how-it-works.md").read_text(encoding="utf-8")
    walks = re.split(r"^## ", page, flags=re.MULTILINE)
    lengths = []
    for walk in walks:
        entered: set[str] = set()
        steps = re.findall(r"^\d+\. \*\*`(tracker\.[\w.]+)`\*\*(, again because)?", walk, re.MULTILINE)
        for module, reason in steps:
            assert bool(reason) == (module in entered), f"{walk.splitlines()[0]}: {module}"
            entered.add(module)
        lengths.append(len(steps))
    assert len([length for length in lengths if length >= 5]) >= 4  # a visit, a stop, a reload, a rotation


def test_the_page_about_the_tests_names_every_folder_and_every_module_that_tests_share() -> None:
    tests = ROOT / "tests"
    named = set(_LINK.findall((tests / "README.md").read_text(encoding="utf-8")))
    folders = {str(path.parent.relative_to(tests)) for path in tests.rglob("*.py") if path.parent != tests}
    shared = {
        str(path.relative_to(tests))
        for path in tests.rglob("*.py")
        if not path.name.startswith(("test_", "__")) and (path.name != "conftest.py" or path.parent == tests)
    }
    assert not (folders | shared) - named, "tests/README.md does not say what these are"


def test_the_snippet_of_the_readme_is_the_one_of_the_demo_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```html\n{embed_snippet('http://127.0.0.1:8080/track')}\n```" in readme


def test_the_picture_of_the_readme_loads_nothing_and_shows_what_the_system_says_of_itself() -> None:
    picture = ElementTree.parse(ROOT / "docs/terminal.svg")
    text = " ".join("".join(picture.getroot().itertext()).replace("\N{NO-BREAK SPACE}", " ").split())
    for shown in ("$ make run", "page=newsletter%2F2026-11", "|newsletter/2026-11|", "tracker report var/visits.log"):
        assert shown in text
    pixel = config.load_pixel(ROOT / "config/pixel.yaml", {}).http
    assert f"http://{pixel.host}:{pixel.port}{pixel.path}" in text
    loaded = re.findall(
        r"(?:url\(|href=|src=|@import)[\"']?([^#\"'][^)\"']*)", (ROOT / "docs/terminal.svg").read_text()
    )
    assert loaded == []


def test_the_pieces_of_put_it_on_are_those_of_the_demo_page() -> None:
    page = (ROOT / "docs/put-it-on.md").read_text(encoding="utf-8")
    pixel = "https://pixel.example.com/track"
    for snippet in (embed_snippet(pixel), newsletter_snippet(pixel, "page"), app_snippet(pixel)):
        assert f"```html\n{snippet}\n```" in page


# The distribution `tracker` on PyPI is not ours. Ours is `tracking-pixel`, and is installed from its source tree.
_FOREIGN_COMMAND = re.compile(
    r"(?:\b(?:pip[\d.]*|uv|poetry|pdm|conda)\b[^\n]*?\b(?:install|add|run|wheel|download|sync)\b|\buvx\b|\bpipx\b|--from\b|--with\b|--spec\b)"
    r"[^\n]*?(?:[ '\"]|--(?:from|with|spec)=)tracker(?:\[[^\]\n]*\])?(?=['\"`\s;,)]|[=<>~!@]|$)",
    re.MULTILINE,
)
_FOREIGN_REQUIREMENT = re.compile(r"^\s*[\"']?tracker(?:\[[^\]\n]*\])?\s*(?:$|==|[<>~!@;\"'])", re.MULTILINE)


@pytest.mark.parametrize(
    "line",
    [
        "pip install tracker",
        "python3 -m pip install --upgrade 'tracker[analysis]'",
        "/opt/tracker/bin/pip3 install tracker==0.1.0",
        "run `pip install tracker` first",
        'pip install "tracker[local]>=0.1"',
        "uv pip install tracker",
        "uv add tracker",
        "uvx tracker report",
        "uvx --from tracker tracker-pixel",
        "uv tool run --from=tracker tracker-pixel",
        "pipx run tracker",
        "pipx install tracker[analysis]",
        "poetry add tracker",
    ],
)
def test_the_search_for_a_strangers_package_finds_it(line: str) -> None:
    assert _FOREIGN_COMMAND.search(line)


@pytest.mark.parametrize("line", ["tracker", "tracker[analysis]==0.1", "    tracker>=1", "'tracker[local]',"])
def test_the_search_for_a_strangers_requirement_finds_it(line: str) -> None:
    assert _FOREIGN_REQUIREMENT.search(line)


def test_no_file_installs_the_package_of_a_stranger() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        path = ROOT / name
        if path == Path(__file__) or path.suffix in (".png", ".gz") or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        found = _FOREIGN_COMMAND.search(text)
        assert found is None, f"{name}: {found[0]}"
        if name.startswith("requirements/") or name in ("setup.cfg", "pyproject.toml"):
            found = _FOREIGN_REQUIREMENT.search(re.sub(r"^containers =\n    tracker\n", "", text, flags=re.MULTILINE))
            assert found is None, f"{name}: {found[0]}"


def test_the_extra_of_the_local_broker_names_the_packages_of_its_lock() -> None:
    wanted = [line for line in (ROOT / "requirements/run.in").read_text().splitlines() if line[0] not in "#-"]
    section = re.search(r"^local =\n((?:    .+\n)+)", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert section is not None
    assert section[1].split() == wanted


@pytest.mark.parametrize("name", ["run", "runtime", "analysis", "build", "testing"])
def test_a_lock_has_the_versions_of_the_development_environment(name: str) -> None:
    def pins(lock: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==[^\s;]+", (ROOT / f"requirements/{lock}.txt").read_text(), re.MULTILINE))

    assert pins(name) <= pins("development")


def test_setup_cfg_and_the_locked_input_name_the_same_packages() -> None:
    wanted = (ROOT / "requirements/runtime.in").read_text().splitlines()
    section = re.search(r"^install_requires =\n((?:    .+\n)+)", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert section is not None
    assert section[1].split() == [line for line in wanted if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["run", "runtime", "analysis", "build", "testing", "development", "dist"])
def test_every_locked_requirement_has_its_hashes(name: str) -> None:
    lock = (ROOT / f"requirements/{name}.txt").read_text()
    entries = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE | re.IGNORECASE)[1:]
    assert entries
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    assert numbers is not None, version
    return tuple(int(number) for number in numbers[0].split("."))


@pytest.mark.parametrize("name", ["run", "runtime", "analysis", "build", "testing", "development", "dist"])
def test_no_locked_version_is_below_its_floor(name: str) -> None:
    floors = dict(re.findall(r"^([a-z0-9-]+)>=(\S+)", (ROOT / "requirements/floors.txt").read_text(), re.MULTILINE))
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE))
    assert locked
    below = {
        package for package in floors.keys() & locked.keys() if _release(locked[package]) < _release(floors[package])
    }
    assert not below
    if name == "development":  # which locks everything
        assert floors.keys() <= locked.keys()


# The parser of `re` has no type hints.
_parser = importlib.import_module("re._parser")


def _is_one_character(parsed: Any) -> bool:
    if len(parsed) != 1:
        return False
    operation, value = parsed[0]
    if operation is _parser.SUBPATTERN:
        return value[0] is None and _is_one_character(value[-1])
    return operation in (_parser.LITERAL, _parser.NOT_LITERAL, _parser.ANY, _parser.IN)


def _wrong_in_some_python(parsed: object) -> Iterator[str]:
    """The parts of a parsed pattern that Python 3.11.2, or any later release, matches wrongly.

    Possessive quantifiers around more than one character: half of a group is accepted before 3.11.5 (gh-106052,
    gh-100061), captures are wrong before 3.12.8 and 3.13.1 (gh-101955).
    """
    if isinstance(parsed, _parser.SubPattern):
        parsed = parsed.data
    if isinstance(parsed, list | tuple):
        if parsed and parsed[0] is _parser.POSSESSIVE_REPEAT and not _is_one_character(parsed[1][2]):
            yield f"a possessive quantifier around {parsed[1][2]}"
        for part in parsed:
            yield from _wrong_in_some_python(part)


def test_no_pattern_is_one_that_some_python_matches_wrongly() -> None:
    # The one that a constructor makes, and those of all modules; also `name = re.compile(...).fullmatch`.
    values: list[object] = [FastPath("/track", ["Referer", "User-Agent"]).pattern]
    for module in pkgutil.walk_packages(tracker.__path__, "tracker."):
        if not module.name.endswith(".__main__"):  # which runs when it is imported
            values += vars(importlib.import_module(module.name)).values()
    patterns = {pattern for value in values if isinstance(pattern := getattr(value, "__self__", value), re.Pattern)}
    assert len(patterns) > 10
    for pattern in patterns:
        wrong = list(_wrong_in_some_python(_parser.parse(pattern.pattern, pattern.flags)))
        assert not wrong, f"{pattern.pattern!r} has {wrong}"


def test_no_pattern_within_a_function_is_one_that_some_python_matches_wrongly() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        found = re.search(r"\)(?:[*+?]|\{\d*,?\d*\}|\{\{.*?\}\})\+", path.read_text(encoding="utf-8"))
        assert found is None, f"{path.relative_to(ROOT)} has a possessive quantifier around a group: {found[0]}"


@pytest.mark.parametrize(
    ("pattern", "is_wrong"),
    [
        ("(?:ab?c)*+", True),
        ("x(?:y(?:ab){1,2}+|z)", True),
        ("(?=(?:ab)?+)", True),
        ("([ab])++", True),
        ("(?i:[ab])*+a?+.{2,3}+", False),
        ("(?>(?:ab?c)*)", False),
    ],
)
def test_wrongly_matched_patterns_are_recognised(pattern: str, is_wrong: bool) -> None:
    assert bool(list(_wrong_in_some_python(_parser.parse(pattern)))) == is_wrong
