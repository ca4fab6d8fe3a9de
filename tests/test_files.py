"""Links in the place of files do not lead the services astray."""

from pathlib import Path

import pytest

from tests.system.processes import Process, write_config

ARN = "arn:aws:sns:us-east-1:000000000000:tracking"


def ended(module: str, config: Path, folder: Path) -> tuple[int, str]:
    process = Process(module, "--config", str(config), home=folder, name=module)
    try:
        return process.wait(), process.output
    finally:
        process.destroy()


def test_a_visit_log_that_is_a_link_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.log"
    elsewhere.touch()
    (tmp_path / "visits.log").symlink_to(elsewhere)
    config = write_config(
        tmp_path / "storage.yaml", {"sqs": {"queue": "visits", "region": "us-east-1"}, "log": {"path": "visits.log"}}
    )
    status, said = ended("tracker.storage", config, tmp_path)
    assert status == 78
    assert "log.path" in said
    assert str(elsewhere) in said
    assert elsewhere.stat().st_size == 0


@pytest.mark.parametrize("victim", ["outbox/publisher.lock", "visits.log.d/lock"])
def test_a_link_in_the_place_of_a_lock_is_refused_and_its_target_untouched(tmp_path: Path, victim: str) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / victim
    link.parent.mkdir()
    link.symlink_to(target)
    if victim.startswith("outbox"):
        module, document = "tracker.pixel", {"sns": {"topic_arn": ARN}, "outbox": {"dir": "outbox"}}
    else:
        module = "tracker.storage"
        document = {"sqs": {"queue": "visits", "region": "us-east-1"}, "log": {"path": "visits.log"}}
    status, said = ended(module, write_config(tmp_path / "config.yaml", document), tmp_path)
    assert status == 78, said
    assert target.read_text() == "precious"
