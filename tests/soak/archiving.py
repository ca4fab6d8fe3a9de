"""A siege of the archive: closed logs become objects and are removed, while everything is killed and S3 fails.

Storage rotates its log every few hundred visits, compresses it, and keeps few closed logs. The archiver follows, and
removes what it has archived. In each round one to three of these processes are killed at random times: pixel, storage,
archiver. SNS, SQS and S3 fail in each round. At the end the union of the live log, the closed logs without marker and
the archive must have every answered visit once.
"""

import random
import time
from collections import Counter
from pathlib import Path
from uuid import uuid4

from tests.archive.closed import union
from tests.fake_aws.faults import AFTER, BEFORE
from tests.fake_aws.s3 import BUCKET, FakeS3
from tests.ports import free_port
from tests.system.processes import Process, Service, write_config
from tests.system.siege import SNS_FAULTS, SQS_FAULTS
from tests.system.stack import FakeStack
from tests.system.wire import Load, wait_for

ANSWERS_A_ROUND = 300
S3_CHANCE = 0.1  # of each kind of fault, a call
PATIENCE = 120.0  # seconds, for what is left when the faults end


class ArchivedSiege:
    """One log, its archive, and processes that come and go. One seed decides about faults and times."""

    def __init__(self, home: Path, seed: int) -> None:
        self.seed = seed
        self.kills = Counter[str]()
        self.answered = 0
        self.archived = 0
        """Closed logs, that is objects: all visits have one day, unless it is midnight."""
        self.problems: list[str] = []
        self._random = random.Random(seed)
        self._stack = FakeStack(home, seed=seed)
        self._s3 = FakeS3()
        self._pixel_port = free_port()
        self._storage_config = {
            "log": {"rotate": {"max_bytes": 20_000, "compress": "gzip", "keep": 3}},
            "archive": {
                "url": f"s3://{BUCKET}/a",
                "endpoint_url": self._s3.url,
                "region": "eu-west-1",
                "keep_local": 0,
            },
        }
        self._pixel: Service | None = None
        self._storage: Service | None = None
        self._archiver: Process | None = None

    def run(self, rounds: int) -> bool:
        """Whether every answered visit was found once. The problems say what was not."""
        try:
            with self._s3:
                self._start()
                with Load(self._pixel_port, connections=4) as load:
                    for _ in range(rounds):
                        self._round(load)
                self.answered = len(load.answered)
                self._end()
                self._judge(load.answered)
        except AssertionError as error:
            self.problems.append(str(error))
        finally:
            if self._archiver is not None:
                self._archiver.destroy()
            self._stack.destroy()
        return not self.problems

    def _round(self, load: Load) -> None:
        for endpoint, chances in ((self._stack.sns, SNS_FAULTS), (self._stack.sqs, SQS_FAULTS)):
            endpoint.repair()
            for kind, chance in chances.items():
                endpoint.faults.inject(kind, chance=chance)
        self._s3.faults.clear()
        for kind in (*BEFORE, *AFTER):
            self._s3.faults.inject(kind, chance=S3_CHANCE)
        for _ in range(self._random.randint(1, 3)):
            time.sleep(self._random.uniform(0.0, 1.5))
            self._kill(self._random.choice(["pixel", "storage", "archiver", "archiver"]))
        self._start()
        load.wait_answered(ANSWERS_A_ROUND)

    def _kill(self, name: str) -> None:
        process: Process | None = getattr(self, f"_{name}")
        if process is not None:
            self.kills[name] += 1
            process.kill()
            setattr(self, f"_{name}", None)
            self._stack.redeliver()

    def _start(self) -> None:
        """Start what does not run. It is not awaited."""
        if self._pixel is None:
            self._pixel = self._stack.start_pixel({"http": {"port": self._pixel_port}, "workers": 2}, ready=False)
        if self._storage is None:
            self._storage = self._stack.start_storage(self._storage_config, ready=False)
        if self._archiver is None:
            self._archiver = self._archive("--follow")
        for process in (self._storage, self._archiver):
            process.check_running()

    def _archive(self, *options: str) -> Process:
        home = self._stack.home
        config = write_config(
            home / f"archive-{uuid4().hex[:8]}.yaml", self._stack.storage_config(self._storage_config)
        )
        return Process("tracker.cli", "archive", "--config", str(config), *options, home=home, name="archive")

    def _end(self) -> None:
        """Without faults, everything that was answered is stored and archived, and all processes stop."""
        for endpoint in (self._stack.sns, self._stack.sqs):
            endpoint.repair()
        self._s3.faults.clear()
        self._start()
        assert self._pixel is not None
        assert self._storage is not None
        assert self._archiver is not None
        self._storage.wait_ready()
        self._pixel.wait_ready()
        self._pixel.stop()
        self._stack.redeliver()
        wait_for(lambda: not self._stack.segments(), "all journals published", timeout=PATIENCE)
        self._stack.wait_queue()
        self._storage.stop()
        self._archiver.terminate()
        assert self._archiver.wait(PATIENCE) == 0, self._archiver.output
        last = self._archive()
        assert last.wait(PATIENCE) == 0, last.output
        self.archived = len(self._s3.objects)

    def _judge(self, answered: set[str]) -> None:
        found = Counter(union(self._stack.log_path, self._s3.objects))
        if missing := answered - found.keys():
            self.problems.append(f"{len(missing)} answered visits are nowhere, as {min(missing)}")
        if twice := sorted(referrer or "" for referrer, times in found.items() if times > 1):
            self.problems.append(f"{len(twice)} visits are there more than once, as {twice[0]}")
        if not self.archived:
            self.problems.append("nothing was archived")
