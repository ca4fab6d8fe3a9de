"""A filter drops visits for a while. All of them come back from the outbox by the commands of the guide."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from tests import guides
from tests.launched import environment
from tracker.pixel import outbox_files

from .processes import Service
from .stack import FakeStack
from .wire import Load, wait_for


def journals(outbox: Path) -> set[str]:
    return {path.name for path in outbox_files.journals(outbox)}


def drop_a_journal(stack: FakeStack) -> None:
    """From now on the filter drops the visits of the busiest worker."""
    busiest = max(stack.segments(), key=lambda segment: segment.stat().st_size).parent
    digit = busiest.name[0]
    rules = [{"prefix": each} for each in "0123456789abcdef" if each != digit]
    stack.fake.topic(stack.topic_arn, lambda topic: topic.subscriptions[0].filter_policy.update(Journal=rules))


def repair(stack: FakeStack) -> None:
    stack.fake.topic(stack.topic_arn, lambda topic: topic.subscriptions[0].filter_policy.clear())


def commands(stack: FakeStack, pixel: Service, storage: Service) -> list[list[str]]:
    """The commands of the guide, for the services and the files of this test."""
    [block] = guides.guide("operations.md", "A gap")
    text = block.text.replace("/var/lib/tracker/outbox", str(stack.outbox))
    for name, service in (("pixel", pixel), ("storage", storage)):
        text = text.replace(f"tracker-as {name} tracker", f"{sys.executable} -m tracker.cli")
        text = text.replace(f"/etc/tracker/{name}.yaml", str(service.config))
    return [shlex.split(line) for line in text.splitlines() if not line.startswith("#")]


def test_what_a_filter_dropped_comes_back_from_a_copy_and_from_the_outbox_of_the_running_pixel(
    stack: FakeStack,
) -> None:
    def run(command: list[str]) -> None:
        done = subprocess.run(command, env=environment(stack.home), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    pixel = stack.start_pixel({"workers": 2})
    storage = stack.start_storage()
    copy, bring_back, audit = commands(stack, pixel, storage)
    with Load(pixel.port, site="first.example") as first:
        first.wait_answered(200)
        drop_a_journal(stack)
        first.wait_answered(200)
    run(copy)
    before = journals(stack.outbox)
    pixel.reload(json.loads(pixel.config.read_text()))
    wait_for(lambda: not before & journals(stack.outbox), "the reload removes the journals of the earlier workers")
    repair(stack)
    with Load(pixel.port, site="second.example") as second:
        second.wait_answered(200)
        drop_a_journal(stack)
        second.wait_answered(200)
        repair(stack)
        second.wait_answered(200)
    stack.wait_queue()
    assert first.answered - stack.referrers().keys()
    assert second.answered - stack.referrers().keys()
    run(bring_back)
    run(bring_back)
    stack.assert_exactly_once(first)
    stack.assert_exactly_once(second)
    run(audit)
