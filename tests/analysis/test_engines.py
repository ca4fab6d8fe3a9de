"""Every engine that docs/analysis.md names gives the report's answers, by the statements of the page.

Spark needs Java and half a gigabyte: `make rehearse ARGS=spark` asks it.
"""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.analysis.archives import archive_of
from tests.analysis.questions import ENGINES, Answers, answers_of_the_text, write_logs


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    logs = write_logs(tmp_path_factory.mktemp("closed"))
    for log in logs:
        archive_of(log)
    return logs


@pytest.fixture(scope="module")
def expected(logs: list[Path]) -> Answers:
    return answers_of_the_text(logs)


def test_the_questions_are_about_what_real_logs_have(logs: list[Path], expected: Answers) -> None:
    archive = logs[0].parent / "archive"
    assert {folder.name for folder in archive.iterdir()} >= {"date=2026-10-31", "date=2026-12-01", "_malformed"}
    assert max(len(list(day.iterdir())) for day in archive.glob("date=*")) > 1
    assert [day for day, _, _ in expected.by_day] == sorted({day for day, _, _ in expected.by_day})
    assert len(expected.by_day) == 30
    assert {name for name, _ in expected.pages} >= {None, "null", "https://例え.example/🍵", "https://example.com/café"}
    assert len({visits for _, visits in expected.pages}) == 20
    assert len({at for at, *_ in expected.of_address}) == len(expected.of_address) > 10


@pytest.mark.parametrize("engine", ENGINES)
def test_the_engine_answers_as_the_report_does(engine: str, logs: list[Path], expected: Answers) -> None:
    found = ENGINES[engine](logs[0].parent / "archive")
    assert found.by_day == expected.by_day
    assert found.pages == expected.pages
    assert [rest for _, *rest in found.of_address] == [rest for _, *rest in expected.of_address]
    precision = timedelta(milliseconds=0.5) if engine == "Athena" else timedelta()
    for (at, *_), (exactly, *_) in zip(found.of_address, expected.of_address, strict=True):
        assert abs(at - exactly) <= precision
