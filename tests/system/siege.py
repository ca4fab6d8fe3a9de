"""The siege: both services under load and faults, killed and stopped at random instants, round after round.

In each round one to three kinds of faults are drawn from `_KINDS`: each is one function. Some of them last for several
rounds: a worker that hangs, a log that nobody reads, connections that stay open. So they meet each other.

All of it depends on one seed: what is done in a round, when, and which call of SNS and SQS meets which fault. The seed
does not fix the timing of the processes, so a seed that failed may need a few runs to fail again. The verdict is taken
from outside: the visit log, the set of answered visits, /healthz, the exit of a process, and its memory.
"""

import itertools
import json
import os
import random
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from tests.fake_aws import Endpoint
from tests.fake_aws.queues import Queue
from tests.ports import free_port
from tracker.files import raise_open_files

from . import hostile
from .processes import Config, Service, left_behind
from .stack import FakeStack
from .verdict import Foreign, Verdict
from .wire import Load, wait_for

CHECK_EVERY = 10  # rounds
ARRIVE_SECONDS = 60.0
ANSWERS_A_ROUND = 15
FORMATS = ("packed", "plain", "single")
OPEN_FILES = 512  # of each service: fewer than the connections of a flood on an admin port
HUNG_SECONDS = 30.0  # within which main kills and replaces a worker that hangs; its own patience is about ten
FIGURES_SECONDS = 30.0  # within which storage's metrics show a gap; it looks every ten

# The largest resident size of a process, in KiB, whatever visitors and strangers send. Idle, they need about half.
MEMORY_KIB = {"pixel main": 128 << 10, "pixel worker": 96 << 10, "storage": 192 << 10}

# Chances a call. botocore tries twice, so that of SNS's calls about one in ten fails. A call that hangs costs ten
# seconds, or what is left of its round.
SNS_FAULTS = {
    "cut": 0.05,
    "throttle": 0.05,
    "error": 0.05,
    "slow": 0.05,
    "hang": 0.01,
    "lost_reply": 0.08,
    "error_after": 0.05,
    "partial": 0.05,
    "unlisted_done": 0.03,
    "unlisted_undone": 0.03,
    "double": 0.05,
}
SQS_FAULTS = {
    "cut": 0.01,
    "throttle": 0.01,
    "error": 0.01,
    "slow": 0.05,
    "hang": 0.01,
    "lost_reply": 0.03,
    "error_after": 0.02,
    "partial": 0.03,
    "unlisted_done": 0.02,
    "unlisted_undone": 0.02,
    "duplicate": 0.05,
    "reorder": 0.2,
    "stale": 0.03,
    "early": 0.03,
    "undeleted": 0.03,
}


Deed = Callable[["Siege", float], None]
"""One kind of fault; it is given a pause of up to half a second."""


class Siege:
    """One log, one outbox, and services that come and go."""

    def __init__(self, home: Path, seed: int) -> None:
        self.seed = seed
        self.verdict = Verdict()
        self._random = random.Random(seed)
        self._stack = FakeStack(home, seed=seed)
        self._stack.piped = True
        self._port = free_port()
        self._pixel_config: Config = {
            "http": {"port": self._port},
            "workers": 3,
            "outbox": {"segment_bytes": 20_000},
        }
        self._foreign = Foreign(self._stack)
        self._pixel: Service | None = None
        self._storage: Service | None = None
        self._deck: list[Deed] = []
        self._lasting: dict[str, list[Callable[[], None]]] = {}  # kind -> what ends it
        self._hung: dict[int, float] = {}  # worker -> since when
        self._odd = hostile.OddVisitors(self._port)
        self._gaps = 0  # bytes that strangers' spans left out
        self._gaps_to_show = False
        self._formats = itertools.cycle(self._random.sample(FORMATS, len(FORMATS)))

    def run(self, rounds: int, after_round: Callable[[Verdict], None] = lambda verdict: None) -> Verdict:
        """So many rounds; then everything is stopped and judged. Ends early with the first bad verdict."""
        raise_open_files()  # a flood's connections are files of this process
        try:
            self._start()
            with Load(self._port, connections=4) as load:
                for self.verdict.rounds in range(1, rounds + 1):
                    self._round(load)
                    self._measure()
                    if self.verdict.rounds % CHECK_EVERY == 0 and not self._check_arrived(load):
                        break
                    after_round(self.verdict)
            if self._check_arrived(load):
                self._end()
        except BaseException as error:
            error.add_note(self.repeat())
            raise
        finally:
            for endpoint in (self._stack.sns, self._stack.sqs):
                self.verdict.injected.update(endpoint.faults.injected)
            for kind in list(self._lasting):
                self._end_lasting(kind)
            self._stack.destroy()
        return self.verdict

    def repeat(self) -> str:
        """How to have this again."""
        return f"seed {self.seed}: make soak ARGS='--seed {self.seed} --rounds {self.verdict.rounds}'"

    # -- a round

    def _round(self, load: Load) -> None:
        self._random.seed(f"{self.seed}/{self.verdict.rounds}")  # what an earlier round drew changes nothing here
        self._inject(self._stack.sns, SNS_FAULTS)
        self._inject(self._stack.sqs, SQS_FAULTS)
        for kind in sorted(self._lasting):
            if self._random.random() < 0.5:
                self._end_lasting(kind)
        for _ in range(self._random.randint(1, 3)):
            deed = self._next_deed()
            pause = self._random.uniform(0.0, 0.5)
            time.sleep(self._random.uniform(0.0, 0.5))
            self._measure()
            deed(self, pause)
        self._start()
        wanted = len(load.answered) + ANSWERS_A_ROUND
        assert self._pixel is not None
        assert self._storage is not None
        assert self._storage.running, f"storage ended by itself:\n{self._storage.output}"
        self._pixel.wait_alive(lambda: len(load.answered) >= wanted, f"{ANSWERS_A_ROUND} answers")

    def _next_deed(self) -> Deed:
        """All of them in some order, each as often as its weight says, and then again in another."""
        if not self._deck:
            self._deck = [deed for deed, weight in self._KINDS.items() for _ in range(weight)]
            self._random.shuffle(self._deck)
        return self._deck.pop()

    def _last(self, kind: str, end: Callable[[], None]) -> None:
        """Remember the call that ends this kind of fault. The fault lasts until it is called."""
        self._lasting.setdefault(kind, []).append(end)

    def _end_lasting(self, kind: str) -> None:
        for end in self._lasting.pop(kind, []):
            end()

    def _up(self) -> tuple[Service, Service]:
        """Both services, started where they were not, and ready."""
        self._start()
        assert self._pixel is not None
        assert self._storage is not None
        self._pixel.wait_ready()
        self._storage.wait_ready()
        return self._pixel, self._storage

    # -- kinds of faults

    def _kill_pixel(self, _: float) -> None:
        if self._pixel is not None:
            self._count("SIGKILL pixel main")
            self._pixel.kill()
            self._pixel = None

    def _kill_a_worker(self, pause: float) -> None:
        workers = self._pixel.workers() if self._pixel is not None else []
        for pid in workers[: 1 + (pause > 0.4)]:
            self._kill_worker(pid)

    def _kill_all_workers(self, _: float) -> None:
        for pid in self._pixel.workers() if self._pixel is not None else []:
            self._kill_worker(pid)

    def _kill_worker(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it has gone since
        self._count("SIGKILL pixel worker")

    def _kill_storage(self, _: float) -> None:
        if self._storage is not None:
            self._count("SIGKILL storage")
            self._storage.kill()
            self._storage = None
            self._stack.redeliver()

    def _kill_storage_as_it_starts(self, pause: float) -> None:
        self._kill_storage(pause)
        self._start()
        time.sleep(2 * pause)  # a start takes about half a second
        self._kill_storage(pause)

    def _stop_pixel(self, _: float) -> None:
        if self._pixel is not None and self._pixel.is_ready():
            self._count("SIGTERM pixel")
            self._pixel.stop()
            self._pixel = None

    def _stop_storage(self, _: float) -> None:
        if self._storage is not None and self._storage.is_ready():
            self._count("SIGTERM storage")
            self._storage.stop()
            self._storage = None

    def _freeze_storage(self, pause: float) -> None:
        """It sleeps longer than what it holds is hidden."""
        if self._storage is not None:
            self._count("SIGSTOP storage")
            os.kill(self._storage.pid, signal.SIGSTOP)
            self._stack.redeliver()
            time.sleep(pause)
            os.kill(self._storage.pid, signal.SIGCONT)

    def _hang_a_worker(self, _: float) -> None:
        """One worker is stopped and never continued: main has to kill it and to start another."""
        # Only on Linux does the kernel also kill a stopped worker when its main is killed.
        if self._hung or sys.platform != "linux":
            return
        pixel = self._up()[0]
        pixel.wait_alive(lambda: len(pixel.workers()) > 1, "a worker beside the one that is to hang")
        pid = self._random.choice(pixel.workers())
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            return  # it has gone since
        self._count("SIGSTOP pixel worker")
        self._hung[pid] = time.monotonic()

    def _stall_log_readers(self, pause: float) -> None:
        """Nobody reads what the services log, and each has something to log just then."""
        self._end_lasting("log reader stalled")
        for service in self._up():
            assert service.log_pipe is not None
            self._count("log reader stalled")
            service.log_pipe.stall()
            self._last("log reader stalled", service.log_pipe.resume)
            if service is self._pixel:
                self._kill_a_worker(pause)
            else:
                os.kill(service.pid, signal.SIGHUP)
            service.wait_alive(service.is_alive, "answers though nobody reads its log")

    def _flood_admin(self, _: float) -> None:
        self._end_lasting("admin flood")
        for service in self._up():
            self._count("admin flood")
            flood = hostile.Flood(service.admin_port, hostile.admin_requests())
            self._last("admin flood", flood.close)
            service.wait_alive(service.is_alive, "answers through a flood on its admin port")

    def _flood_with_headers(self, _: float) -> None:
        self._flood("unfinished headers", hostile.unfinished_headers())

    def _flood_with_bodies(self, _: float) -> None:
        self._flood("odd bodies", hostile.odd_bodies(self._odd))

    def _flood(self, kind: str, contents: list[bytes]) -> None:
        self._end_lasting(kind)
        self._up()
        self._count(kind)
        self._last(kind, hostile.Flood(self._port, contents).close)
        self._odd.visit("plain")

    def _odd_visits(self, _: float) -> None:
        self._up()
        for shape in hostile.ODD_VISITS:
            self._count("odd visit")
            half_close, split = self._random.random() < 0.5, self._random.random() < 0.5
            self._odd.visit(shape, half_close=half_close, split_at=self._random.random() if split else None)

    def _strangers_messages(self, _: float) -> None:
        self._gaps += hostile.GAP_BYTES
        self._gaps_to_show = True
        messages = [hostile.gap(), *hostile.forged_end_markers()]
        messages += [hostile.MESSAGES[kind]() for kind in self._random.sample(sorted(hostile.MESSAGES), 4)]
        # Only of a message that is gone from the queue is it certain that the log has its visits.
        published = self._stack.fake.topic(self._stack.topic_arn, lambda topic: list(topic.accepted))
        queued = self._stack.in_queue(Queue.sent)
        if stored := [sent for sent in published if hostile.is_ours(sent) and sent.body != "\n" and sent not in queued]:
            messages.append(hostile.altered_copy(self._random.choice(stored)))
        for message in messages:
            self._publish(message)

    def _publish(self, message: hostile.Message) -> None:
        self._count("stranger's message")
        body, attributes = message
        entries: dict[str, str] = {}
        for number, (name, value) in enumerate({**attributes, hostile.STRANGER: "true"}.items(), 1):
            entry = f"MessageAttributes.entry.{number}"
            entries |= {f"{entry}.Name": name, f"{entry}.Value.DataType": "String", f"{entry}.Value.StringValue": value}
        self._stack.aws.sns("Publish", TopicArn=self._stack.topic_arn, Message=body, **entries)

    def _damage_a_line(self, pause: float) -> None:
        """One byte of a line in a journal is overwritten, while lines wait there because SNS is away."""
        self._stack.sns.down()
        time.sleep(pause)
        if segments := self._stack.segments():
            self._overwrite(self._random.choice(segments))
        self._stack.sns.up()

    def _overwrite(self, segment: Path) -> None:
        try:
            with segment.open("r+b", buffering=0) as file:
                lines = file.read().splitlines(keepends=True)
                index = self._random.randrange(max(0, len(lines) - 10), len(lines))
                line = lines[index]
                self.verdict.overwritten.add(json.loads(line)["Referer"])
                # Each of these makes the line one that is no visit: without its first byte, or not in ASCII.
                damage = [(b"\x00", 0), (b"\n", 0), (b"\xff", self._random.randrange(len(line) - 1))]
                byte, at = self._random.choice(damage)
                file.seek(sum(map(len, lines[:index])) + at)
                file.write(byte)
        except (FileNotFoundError, ValueError):
            return  # published since; empty, cut off or damaged already
        self._count("damaged line")

    def _sns_away(self, pause: float) -> None:
        self._away(self._stack.sns, "SNS away", 4 * pause)  # longer than botocore's second try takes

    def _sqs_away(self, pause: float) -> None:
        self._away(self._stack.sqs, "SQS away", 4 * pause)

    def _away(self, endpoint: Endpoint, what: str, pause: float) -> None:
        self._count(what)
        endpoint.down()
        time.sleep(pause)
        endpoint.up()

    def _start(self) -> None:
        """Starts what is not there, and does not wait for it."""
        if self._pixel is None:
            sns = {"format": next(self._formats)}  # each publishes what is left of another format's, too
            self._pixel = self._stack.start_pixel({**self._pixel_config, "sns": sns}, ready=False)
        if self._storage is None:
            self._storage = self._stack.start_storage(ready=False)
        for service in (self._pixel, self._storage):
            if hasattr(resource, "prlimit") and service.running:
                resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))

    def _inject(self, endpoint: Endpoint, chances: dict[str, float]) -> None:
        endpoint.repair()
        for kind, chance in chances.items():
            endpoint.faults.inject(kind, chance=chance)

    def _count(self, what: str) -> None:
        self.verdict.injected[what] += 1

    # -- the verdict

    def _measure(self) -> None:
        """The memory of every process, and whether workers that hang have been replaced."""
        if self._pixel is not None and self._pixel.running:
            family = self._pixel.family()
            self._note_memory("pixel main", self._pixel.pid)
            for pid in family.keys() - {self._pixel.pid}:
                self._note_memory("pixel worker", pid)
        else:
            family = {}
        self._hung = {pid: since for pid, since in self._hung.items() if pid in family}
        for pid, since in self._hung.items():
            assert time.monotonic() - since < HUNG_SECONDS, f"worker {pid} hangs, and main did not replace it"
        if self._storage is not None:
            self._note_memory("storage", self._storage.pid)

    def _note_memory(self, name: str, pid: int) -> None:
        try:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        except OSError:
            return  # it has gone since, or the system has no /proc
        if found is not None:
            self.verdict.memory[name] = max(self.verdict.memory.get(name, 0), int(found[1]))
            assert self.verdict.memory[name] < MEMORY_KIB[name], f"a {name} took {int(found[1]):,} KiB"

    def _check_arrived(self, load: Load) -> bool:
        """Whether every visit answered so far is in the log exactly once, after a time without faults of AWS.

        Faults that last for several rounds go on. This also waits until hung workers are replaced and storage's metrics
        show the gaps.
        """
        verdict = self.verdict
        for endpoint in (self._stack.sns, self._stack.sqs):
            endpoint.repair()
        answered = load.answered | self._odd.answered
        self._stack.redeliver()
        deadline = time.monotonic() + ARRIVE_SECONDS
        while (lost := answered - self._judge().keys()) - verdict.overwritten and time.monotonic() < deadline:
            time.sleep(0.3)
        verdict.answered, verdict.missing = len(answered), lost - verdict.overwritten
        verdict.damaged = len(lost & verdict.overwritten)
        if verdict.is_clean:
            wait_for(self._nobody_hangs, "a worker that hangs is replaced", timeout=HUNG_SECONDS + 1.0)
            if self._gaps_to_show:
                wait_for(self._gaps_are_shown, f"storage's metrics show a gap of {self._gaps} bytes", FIGURES_SECONDS)
            self._gaps_to_show = False
            self._remove_strangers()
        return verdict.is_clean

    def _remove_strangers(self) -> None:
        """Remove messages that storage cannot read. SQS delivers them again and again; an operator would purge them."""
        for ask in (self._stack.in_queue, self._stack.dead_letters):
            ask(lambda queue: queue.remove(lambda sent: not hostile.is_ours(sent)))

    def _nobody_hangs(self) -> bool:
        self._measure()
        return not self._hung

    def _gaps_are_shown(self) -> bool:
        assert self._storage is not None
        try:
            return self._storage.metric("tracker_storage_missing_bytes") >= self._gaps
        except OSError:
            return False  # it is starting

    def _judge(self) -> Counter[str]:
        return self.verdict.judge(self._foreign.rest_of_log())

    def _end(self) -> None:
        """Stop everything. No message, journal or process may be left, and no file of others may be changed."""
        verdict = self.verdict
        assert self._pixel is not None
        assert self._storage is not None
        for service in (self._pixel, self._storage):
            service.wait_ready()
        self._pixel.stop()
        self._remove_strangers()
        self._stack.wait_queue()
        self._storage.stop()
        referrers = self._judge()
        if len(referrers) < verdict.answered - verdict.damaged:
            verdict.strange.append(f"{len(referrers)} visits, fewer than answered")
        if letters := self._stack.aws.depth(self._stack.dead_letters_url):
            verdict.strange.append(f"{letters} messages in the dead-letter queue")
        if not self._stack.log_text().endswith("\n"):
            verdict.strange.append("the log does not end with a whole line")
        if segments := self._stack.segments():
            verdict.strange.append(f"journals left: {segments}")
        verdict.kept_aside = len(list(self._stack.home.glob("visits.log.torn-*")))
        verdict.strange += self._foreign.touched()
        verdict.strange += left_behind(self._stack.home)

    # How often each kind is in the deck.
    _KINDS: ClassVar[dict[Deed, int]] = {
        _kill_pixel: 1,
        _kill_a_worker: 1,
        _kill_all_workers: 1,
        _kill_storage: 1,
        _kill_storage_as_it_starts: 1,
        _stop_pixel: 1,
        _stop_storage: 1,
        _freeze_storage: 1,
        _sns_away: 1,
        _sqs_away: 1,
        _hang_a_worker: 1,
        _stall_log_readers: 1,
        _flood_admin: 1,
        _flood_with_headers: 1,
        _flood_with_bodies: 1,
        _odd_visits: 1,
        _strangers_messages: 1,
        _damage_a_line: 1,
    }
