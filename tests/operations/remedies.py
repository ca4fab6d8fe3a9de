"""Runs the doctor as an operator does: reads what it prints, copies a command out of it, and looks again."""

import argparse
import asyncio
import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tracker import cli
from tracker.operations.doctor import examine
from tracker.operations.findings import Finding, Level, Report

AWS = ("queue", "dead letters", "topic", "subscription")
_COMMAND = re.compile(r"((?:[A-Z_]+=\S+ )*tracker (?:provision|redrive) .*)$", re.MULTILINE)


class Look:
    """One run of the doctor, without a canary: its findings about AWS, and its output."""

    def __init__(self, findings: list[Finding], output: str) -> None:
        self.findings = [finding for finding in findings if finding.subject in AWS]
        self.output = output

    @property
    def levels(self) -> set[Level]:
        return {finding.level for finding in self.findings}

    def found(self, level: Level, subject: str, words: str) -> Finding:
        """The one finding of this level and subject with these words; each says why it matters and how to fix it."""
        matching = [one for one in self.findings if (one.level, one.subject) == (level, subject) and words in one.what]
        assert len(matching) == 1, self.output
        assert matching[0].fix
        return matching[0]

    def command(self, finding: Finding) -> str:
        """The command in the remedy of a finding, as it was printed."""
        [line] = {line for line in self.output.splitlines() if line.endswith(f"fix: {finding.fix}")}
        command = _COMMAND.search(line)
        assert command is not None, line
        return command[1]


async def look(pixel: Path | None, storage: Path | None) -> Look:
    options = argparse.Namespace(pixel=pixel, storage=storage, no_canary=True, url=None, within=1.0)
    out = io.StringIO()
    report = Report(out)
    await examine(options, {}, report)
    return Look(report.findings, out.getvalue())


async def paste(command: str) -> int:
    """Run a command of the doctor, as a shell would take it apart; returns its exit status."""
    words = shlex.split(command)
    variables = dict(word.split("=", 1) for word in words[: words.index("tracker")])
    with _environment(variables):
        return await asyncio.to_thread(cli.main, words[words.index("tracker") + 1 :])


async def paste_aws(commands: str, client: Any) -> None:
    """Make the calls of commands of the AWS CLI, which has the options of the API, with hyphens and in JSON."""
    words = shlex.split(commands, comments=True)
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        (program, _, name, *options), words = words[:end], words[end + 1 :]
        assert program == "aws"
        named = dict(zip(options[::2], options[1::2], strict=True))
        for place in ("--region", "--endpoint-url"):  # of the client
            named.pop(place, None)
        parameters = {
            option.title().replace("-", ""): json.loads(value) if value.startswith("{") else value
            for option, value in named.items()
        }
        await getattr(client, name.replace("-", "_"))(**parameters)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
