"""Several storages on one topic: another number of them under load, by the operations guide, and bringing back.

In each step of the guide the pixel and the storages are killed, and SNS and SQS deliver messages twice and lose
replies. At the end each answered visit is in one of the logs, once, and no ledger misses a byte or knows a journal of
another one.
"""

import json
import random
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fake_aws.queues import Queue
from tests.launched import Launched
from tests.pixel.journals import journal_with, line
from tests.ports import free_port
from tracker import cli
from tracker.core.message import pack
from tracker.operations.shards import filter_policy, queue_names

from .processes import Config, Service, write_config
from .stack import FakeStack
from .wire import Load, wait_for

VISITS = 100  # answered between two steps


@dataclass
class Generation:
    """A topic with its queues and their storages, each with a log of its own."""

    stack: FakeStack
    count: int
    topic_arn: str = ""
    storages: list[Service] = field(default_factory=list)
    configs: list[Path] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)
    queue_urls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Step 1: topic, queues and subscriptions. Step 2: the storages."""
        aws, home = self.stack.aws, self.stack.home
        self.topic_arn = aws.create_topic(f"tracking-{self.count}")
        for shard, queue in enumerate(queue_names(f"visits-of-{self.count}", self.count)):
            url = aws.create_queue(queue)
            arn = aws.queue_attributes(url)["QueueArn"]
            aws.subscribe(self.topic_arn, arn, filter_policy=filter_policy(shard, self.count))
            self.queue_urls.append(url)
            self.logs.append(home / f"{queue}.log")
            self.start_storage(shard)
            self.configs.append(self.storages[shard].config)
        for storage in self.storages:
            storage.wait_ready()

    def start_storage(self, shard: int) -> None:
        config = {"sqs": {"queue": self.queue_names[shard]}, "log": {"path": str(self.logs[shard])}}
        self.storages[shard:] = [self.stack.start_storage(config, ready=False), *self.storages[shard + 1 :]]

    @property
    def queue_names(self) -> list[str]:
        return [url.rpartition("/")[2] for url in self.queue_urls]

    @property
    def outbox(self) -> Path:
        return self.stack.home / f"outbox-{self.count}"

    def pixel_config(self, port: int) -> Config:
        sns = {"topic_arn": self.topic_arn}
        return {"http": {"port": port}, "outbox": {"dir": str(self.outbox)}, "sns": sns}

    def kill_a_storage(self, shard: int) -> None:
        self.storages[shard].kill()
        self.start_storage(shard)
        self.storages[shard].wait_ready()

    def lines(self) -> Counter[str]:
        whole = [log.read_bytes().decode("ascii") for log in self.logs if log.exists()]
        return Counter(line.split("|")[1] for text in whole for line in text.splitlines())

    def end(self) -> None:
        """Step 4: what is left in the old outbox goes to the old topic. Step 5: the old queues become empty."""
        config = write_config(self.stack.home / f"old-{self.count}.yaml", self.stack.pixel_config(self.pixel_config(1)))
        assert cli.main(["import", "--config", str(config), str(self.outbox)]) == 0
        for name in self.queue_names:
            self.stack.fake.queue(name, Queue.expire)  # what a killed storage had in flight

        def depth() -> int:
            return sum(map(self.stack.aws.depth, self.queue_urls))

        wait_for(lambda: not depth(), lambda: f"empty queues, {depth()} messages are in them", timeout=90)
        for storage in self.storages:
            storage.stop()


def test_the_number_of_storages_changes_under_load_with_nothing_lost_and_nothing_twice(stack: FakeStack) -> None:
    port = free_port()
    stack.sns.faults.inject("lost_reply", "Publish", "PublishBatch", chance=0.1)
    stack.sns.faults.inject("double", "Publish", "PublishBatch", chance=0.1)
    stack.sqs.faults.inject("duplicate", "ReceiveMessage", chance=0.1)
    now = Generation(stack, 2)
    done: list[Generation] = []
    pixel = stack.start_pixel(now.pixel_config(port))
    with Load(port, connections=3) as load:
        for count in (4, 1):
            load.wait_answered(VISITS)
            now.kill_a_storage(0)
            load.wait_answered(VISITS)
            following = Generation(stack, count)
            pixel.kill()  # step 3, in its worst form: what was not published stays in the old outbox
            pixel = stack.start_pixel(following.pixel_config(port))
            load.wait_answered(VISITS)
            now.end()
            done.append(now)
            now = following
        now.kill_a_storage(0)
        load.wait_answered(VISITS)
    pixel.stop()
    stack.sns.faults.clear()
    stack.sqs.faults.clear()
    now.end()
    done.append(now)

    lines: Counter[str] = sum((each.lines() for each in done), Counter())
    assert len(load.answered) >= 7 * VISITS
    missing = load.answered - lines.keys()
    assert not missing, f"{len(missing)} answered visits are in no log"
    assert max(lines.values()) == 1, lines.most_common(3)
    assert all(each.lines() for each in done), "each number of storages has stored something"
    configs = [str(config) for each in done for config in each.configs]
    assert cli.main(["audit", "--grace", "0", "--config", *configs]) == 0


def test_what_was_kept_comes_back_once_though_every_import_but_the_last_is_killed(stack: FakeStack) -> None:
    kept = Generation(stack, 2)
    kept.outbox.mkdir()
    chance = random.Random(1)
    dump: list[str] = []
    for number in range(12):
        lines = [line(100 * number + each) for each in range(30)]
        journal = journal_with(kept.outbox, *lines)
        journal.close()
        for first in range(0, 30, 5):  # what a dead-letter queue held of it, in spans of other lengths
            message = pack(
                journal.path.name, len(b"".join(lines[:first])), b"".join(lines[first : first + 7]), compress=True
            )
            typed = {name: {"DataType": "String", "StringValue": text} for name, text in message.attributes.items()}
            dump.append(json.dumps({"MessageId": "m", "Body": message.body, "MessageAttributes": typed}))
    chance.shuffle(dump)
    (stack.home / "dead-letters.json").write_text("\n".join(dump))
    config = write_config(stack.home / "import.yaml", stack.pixel_config(kept.pixel_config(1)))
    stack.sns.faults.inject("lost_reply", "Publish", "PublishBatch", chance=0.2)
    stack.sns.faults.inject("throttle", "Publish", "PublishBatch", chance=0.2)
    stack.sqs.faults.inject("duplicate", "ReceiveMessage", chance=0.2)

    def accepted() -> int:
        return stack.fake.topic(kept.topic_arn, lambda topic: len(topic.accepted))

    command = [sys.executable, "-m", "tracker.cli", "import", "--config", str(config), "dead-letters.json"]

    def import_and_kill() -> None:
        before = accepted()
        with Launched([*command, str(kept.outbox)], output_file=stack.home / "import.txt", home=stack.home) as running:
            running.wait_alive(lambda: accepted() > before, "the first messages are published")
            kept.kill_a_storage(0)
            running.signal(signal.SIGKILL)
            running.wait()

    for _ in range(2):
        import_and_kill()
    with Launched([*command, str(kept.outbox)], output_file=stack.home / "last.txt", home=stack.home) as running:
        assert running.wait(60) == 0, running.output
    kept.end()

    wanted = {f"https://example.org/{100 * number + each}" for number in range(12) for each in range(30)}
    assert kept.lines() == Counter(wanted)
    assert cli.main(["audit", "--grace", "0", "--config", *map(str, kept.configs)]) == 0
