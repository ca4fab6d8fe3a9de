"""Every command of the documents is run: here, by another file, by `make rehearse`; or its mark says what it needs."""

import gzip
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.guides import CODE, KINDS, ROOT, SHELLS, Block, all_blocks, pages
from tests.rehearse import on_docker, on_systemd
from tracker.cli import COMMANDS, main
from tracker.local.demo import embed_snippet

BLOCKS = all_blocks()
HERE = [block for block in BLOCKS if block.mark is None and block.language in SHELLS]
LINES = (
    "2026-11-23T07:09:24.932706+00:00|https://example.com/blog/a?user=7|Mozilla/5.0 (X11)|192.0.2.7\n"
    "2026-11-24T07:09:25.000000+00:00|null|Mozilla/5.0 (X11)|2001:db8::7\n"
)


def test_a_mark_is_a_kind_or_the_file_that_runs_the_block() -> None:
    for block in BLOCKS:
        if block.mark is not None and block.mark not in KINDS:
            assert (ROOT / block.mark).is_file(), f"{block}: {block.mark} is neither a kind nor a file"


def test_sql_and_python_name_the_file_that_runs_them() -> None:
    for block in BLOCKS:
        if block.language in CODE:
            assert block.mark is not None, f"{block}: which test runs it?"
            assert block.mark not in KINDS, block


def test_the_commands_that_nothing_runs_are_counted() -> None:
    # Whoever adds a command that no test and no rehearsal can run changes this number, and says why in the commit.
    marks = Counter(block.mark for block in BLOCKS if block.mark in KINDS)
    assert marks == {"rehearsed": 17, "aws": 3, "registry": 1, "cluster": 1, "tls": 1}


def test_the_rehearsal_types_each_block_that_is_marked_for_it() -> None:
    typed = {(f"docs/{page}", heading) for page, heading in [*on_systemd.TYPED, *on_docker.TYPED]}
    assert {(block.page, block.heading) for block in BLOCKS if block.mark == "rehearsed"} == typed


def test_no_command_hides_in_a_block_without_a_language_or_in_one_of_another_shell() -> None:
    command = re.compile(
        r"^(?:[$#] |sudo |tracker[ -]|make |curl |docker |systemctl |pip |python3? -m |kubectl |aws )", re.MULTILINE
    )
    for page in pages():
        for language, text in re.findall(
            r"^```(\S*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            if language not in SHELLS:
                assert not command.search(text), (
                    f"{page.relative_to(ROOT)}: a command in a block of {language or 'text'}"
                )


@pytest.mark.parametrize("block", HERE, ids=str)
def test_a_command_without_a_mark_runs(block: Block, tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    for log in ("visits.log", "var/visits.log"):
        (tmp_path / log).write_text(LINES)
    with gzip.open(tmp_path / "visits.log-20261123.gz", "wt") as closed:
        closed.write(LINES)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "src")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{block}:\n{done.stdout}"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_a_command_that_the_documents_name_exist(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    for page in pages():
        if page.name == "CHANGELOG.md" or "adr" in page.parts:
            continue  # they may tell of options that were
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for typed in re.findall(rf"`(?:[^`]* )?tracker {command}\b([^`]*)`", text):
            unknown = set(re.findall(r"(?<=\s)--[a-z][a-z-]+", typed)) - known
            assert not unknown, f"{page.relative_to(ROOT)}: tracker {command} has no {unknown}"


def test_the_snippet_of_the_deployment_guide_is_the_one_of_the_demo_page_by_https() -> None:
    guide = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    assert f"```html\n{embed_snippet('https://pixel.example.com/track')}\n```" in guide
