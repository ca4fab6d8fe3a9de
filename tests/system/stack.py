"""A topic, its queues, and the services of one test between them, with the log and the outbox they leave."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from tests.fake_aws import FakeAws
from tests.fake_aws.queues import Queue
from tests.ports import free_port

from .broker import REGION, Aws
from .processes import Config, Process, Service, merged, write_config
from .wire import LOOPBACK, Load, wait_for

T = TypeVar("T")
BATCH = 10  # deliveries that storage deletes in one call


class Stack:
    """One test's topic and queues on a broker, and the services it starts."""

    def __init__(self, home: Path, port: int, *, raw: bool = True, max_receives: int = 100) -> None:
        """The broker answers at `port`."""
        self.home = home
        self.aws = Aws(port)
        self.sns_url = self.sqs_url = f"http://{LOOPBACK}:{port}"
        name = uuid4().hex[:12]
        self.topic_arn = self.aws.create_topic(f"tracking-{name}")
        self.queue = f"visits-{name}"
        self.dead_letters_url = self.aws.create_queue(f"visits-dlq-{name}")
        dead_letters_arn = self.aws.queue_attributes(self.dead_letters_url)["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": dead_letters_arn, "maxReceiveCount": str(max_receives)})
        self.queue_url = self.aws.create_queue(self.queue, RedrivePolicy=redrive)
        self.aws.subscribe(self.topic_arn, self.aws.queue_attributes(self.queue_url)["QueueArn"], raw=raw)
        self.log_path = home / "visits.log"
        self.outbox = home / "outbox"
        self.piped = False  # whether the services to be started write their log into a pipe
        self._processes: list[Process] = []

    def destroy(self) -> None:
        for process in self._processes:
            process.destroy()

    def redeliver(self) -> None:
        """Lets what is in flight come again, where that can be had without waiting for it."""

    def _hurry_deletes(self) -> None:
        """Makes storage delete from SQS at once. Here nothing: moto cannot make a delivery visible early."""

    def pixel_config(self, override: Config | None = None) -> Config:
        base: Config = {
            "http": {"host": LOOPBACK, "port": free_port()},
            "admin": {"host": LOOPBACK, "port": free_port()},
            "outbox": {"dir": str(self.outbox)},
            "sns": {"topic_arn": self.topic_arn, "region": REGION, "endpoint_url": self.sns_url, "linger": 0.1},
            "shutdown": {"timeout": 15},
        }
        return merged(base, override or {})

    def storage_config(self, override: Config | None = None) -> Config:
        base: Config = {
            "sqs": {
                "queue": self.queue,
                "region": REGION,
                "endpoint_url": self.sqs_url,
                "wait_time": 1,
                "visibility_timeout": 10,
            },
            "log": {"path": str(self.log_path)},
            "admin": {"host": LOOPBACK, "port": free_port()},
            "shutdown": {"timeout": 15},
        }
        return merged(base, override or {})

    def start_pixel(
        self,
        override: Config | None = None,
        env: Mapping[str, str] | None = None,
        *,
        ready: bool = True,
        **launch: Any,
    ) -> Service:
        """`launch` is how the process is started: see `Process`."""
        config = self.pixel_config(override)
        return self._start("tracker.pixel", config, env, config["http"]["port"], ready, launch)

    def start_storage(
        self,
        override: Config | None = None,
        env: Mapping[str, str] | None = None,
        *,
        ready: bool = True,
        module: str = "tracker.storage",
        **launch: Any,
    ) -> Service:
        return self._start(module, self.storage_config(override), env, 0, ready, launch)

    def _start(
        self,
        module: str,
        config: Config,
        env: Mapping[str, str] | None,
        port: int,
        ready: bool,
        launch: dict[str, Any],
    ) -> Service:
        path = write_config(self.home / f"{module}-{uuid4().hex[:8]}.yaml", config)
        launch.setdefault("piped", self.piped)
        service = Service(module, path, self.home, env, port, config["admin"]["port"], **launch)
        self._processes.append(service)
        if ready:
            service.wait_ready()
        return service

    def log_text(self) -> str:
        """The visit log; whatever is in it, it must be ASCII."""
        return self.log_path.read_bytes().decode("ascii") if self.log_path.exists() else ""

    def lines(self) -> list[list[str]]:
        """The log's whole lines, split into their four fields."""
        whole, _, _ = self.log_text().rpartition("\n")
        rows = [line.split("|") for line in whole.split("\n")] if whole else []
        assert all(len(row) == 4 for row in rows), [row for row in rows if len(row) != 4]
        return rows

    def referrers(self) -> Counter[str]:
        return Counter(row[1] for row in self.lines())

    def wait_lines(self, count: int) -> list[list[str]]:
        """Waits until the log has at least so many lines."""
        wait_for(lambda: len(self.lines()) >= count, lambda: f"{count} lines in the log, got {len(self.lines())}")
        return self.lines()

    def wait_queue(self, depth: int = 0) -> None:
        """Waits until so many messages are left in the queue, in flight or not."""
        found = -1

        def check() -> bool:
            nonlocal found
            found = self.aws.depth(self.queue_url)
            return found == depth

        wait_for(check, lambda: f"{depth} messages in the queue, found {found}", timeout=60)

    def assert_exactly_once(self, load: Load) -> None:
        """Every answered hit is in the log, none is there twice; asked once the queue has come to rest."""
        assert load.answered
        self.redeliver()
        wait_for(
            lambda: load.answered <= self.referrers().keys(),
            lambda: (
                f"all {len(load.answered)} answered visits in the log; "
                f"{len(load.answered - self.referrers().keys())} are not, "
                f"{self.aws.depth(self.queue_url)} messages in the queue"
            ),
            timeout=60,
        )
        self._hurry_deletes()
        self.wait_queue()
        twice = [referrer for referrer, times in self.referrers().items() if times > 1]
        assert not twice, f"{len(twice)} visits are in the log more than once, as {twice[0]}"
        assert self.log_text().endswith("\n")

    def recorded(self) -> list[dict[str, str | None]]:
        """The visits in the outbox's segments: files named by the 20 digits of their first byte's offset."""
        visits: list[dict[str, str | None]] = []
        for segment in self.segments():
            visits += [json.loads(line) for line in segment.read_bytes().splitlines()]
        return visits

    def segments(self) -> list[Path]:
        return sorted(path for path in self.outbox.glob("*/*") if re.search(r"/[0-9a-f]{32}/\d{20}$", str(path)))


class FakeStack(Stack):
    """A stack on our own SNS and SQS, where everything can go wrong that can with AWS's."""

    def __init__(self, home: Path, *, seed: int = 0, max_receives: int = 100) -> None:
        self.fake = FakeAws(seed)
        self.sns, self.sqs = self.fake.sns, self.fake.sqs
        super().__init__(home, self.fake.door.port, max_receives=max_receives)
        self.sns_url, self.sqs_url = self.sns.url, self.sqs.url

    def destroy(self) -> None:
        super().destroy()
        self.fake.close()

    def redeliver(self) -> None:
        """What is in flight comes again at once: whoever had it is gone, and its visibility timeout over."""
        self.in_queue(Queue.expire)

    def _hurry_deletes(self) -> None:
        # Storage deletes as soon as it has a batch of ten, else after two seconds. Repeated deliveries fill the batch.
        for _ in range(BATCH):
            if not any(self.in_queue(Queue.counts)):
                return
            self.redeliver()
            wait_for(lambda: self.in_queue(Queue.counts)[0] == 0, "storage receives what comes again")

    def in_queue(self, do: Callable[[Queue], T]) -> T:
        """Asks the fake's queue itself."""
        return self.fake.queue(self.queue, do)

    def dead_letters(self, do: Callable[[Queue], T]) -> T:
        """Asks the fake's dead-letter queue itself."""
        return self.fake.queue(self.dead_letters_url.rpartition("/")[2], do)

    def published(self) -> list[dict[str, str]]:
        """The attributes of the messages that SNS took last."""
        accepted = self.fake.topic(self.topic_arn, lambda topic: list(topic.accepted))
        return [{name: each.value for name, each in sent.attributes.items()} for sent in accepted]
