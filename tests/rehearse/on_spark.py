"""The statements of docs/analysis.md on Spark, which needs Java and half a gigabyte.

1. `prepare` installs pyspark into a folder of its own.
2. `rehearse` makes an archive, asks Spark the three questions, and compares the answers with those of the report.
"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.analysis.archives import archive_of
from tests.analysis.questions import answers_of_spark, answers_of_the_text, write_logs
from tests.rehearse.prepared import program, run

PYSPARK = "pyspark>=4,<5"


def prepare(base: Path) -> None:
    program("java", "openjdk-17-jre-headless")
    packages, made = _packages(base), base / "spark.made"
    if not made.exists():
        run(sys.executable, "-m", "pip", "install", "--quiet", "--target", packages, PYSPARK)
        made.touch()


def rehearse(base: Path, folder: Path, say: Callable[[str], None]) -> None:
    logs = write_logs(folder)
    for log in logs:
        archive_of(log)
    sys.path.append(str(_packages(base)))
    os.environ["PYTHONPATH"] = str(_packages(base))  # of the processes that Spark starts
    os.environ["TZ"] = "Pacific/Auckland"  # the answers do not depend on the clock of the machine
    builder = importlib.import_module("pyspark.sql").SparkSession.builder.master("local[2]")
    for name, value in {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1"}.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        found, expected = answers_of_spark(folder / "archive", spark), answers_of_the_text(logs)
    finally:
        spark.stop()
    assert found == expected, f"Spark {spark.version} answers {found}; expected {expected}"
    say(f"Spark {spark.version} gives the report's answers")


def _packages(base: Path) -> Path:
    return base / "spark"
