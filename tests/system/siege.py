"""The siege: both services under load and faults, killed and stopped at random instants, round after round.

All of it hangs on one seed: what is done in a round, when, and which call of SNS and SQS meets which fault. How the
processes' own timing falls is in nobody's hand, so a seed that failed may want a few runs to fail again. The verdict is
taken from the visit log and the set of answered visits alone.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.fake_aws import Endpoint
from tests.ports import free_port

from .processes import Config, Service, left_behind
from .stack import FakeStack
from .verdict import Foreign, Tally
from .wire import Load

SETTLE_EVERY = 10  # rounds
SETTLE_SECONDS = 60.0
ANSWERS_A_ROUND = 15
FORMATS = ("packed", "plain", "single")

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


class Siege:
    """One log, one outbox, and services that come and go."""

    def __init__(self, home: Path, seed: int) -> None:
        self.seed = seed
        self.tally = Tally()
        self._random = random.Random(seed)
        self._stack = FakeStack(home, seed=seed)
        self._port = free_port()
        self._pixel_config: Config = {
            "http": {"port": self._port},
            "workers": 3,
            "outbox": {"segment_bytes": 20_000},
        }
        self._foreign = Foreign(self._stack)
        self._pixel: Service | None = None
        self._storage: Service | None = None
        self._deck: list[Callable[[float], None]] = []

    def run(self, rounds: int, after_round: Callable[[Tally], None] = lambda tally: None) -> Tally:
        """So many rounds; then everything is stopped and judged. Ends early with the first bad verdict."""
        try:
            self._start()
            with Load(self._port, connections=4, pause=0.01) as load:
                for self.tally.rounds in range(1, rounds + 1):
                    self._round(load)
                    if self.tally.rounds % SETTLE_EVERY == 0 and not self._settle(load):
                        break
                    after_round(self.tally)
            if self._settle(load):
                self._end()
            for endpoint in (self._stack.sns, self._stack.sqs):
                self.tally.injected.update(endpoint.faults.injected)
        except BaseException as error:
            error.add_note(self.repeat())
            raise
        finally:
            self._stack.destroy()
        return self.tally

    def repeat(self) -> str:
        """How to have this again."""
        return f"seed {self.seed}: make soak ARGS='--seed {self.seed} --rounds {self.tally.rounds}'"

    # -- a round

    def _round(self, load: Load) -> None:
        self._random.seed(f"{self.seed}/{self.tally.rounds}")  # what an earlier round drew changes nothing here
        self._trouble(self._stack.sns, SNS_FAULTS)
        self._trouble(self._stack.sqs, SQS_FAULTS)
        for _ in range(self._random.randint(1, 3)):
            deed = self._next_deed()
            pause = self._random.uniform(0.0, 0.5)
            time.sleep(self._random.uniform(0.0, 0.5))
            deed(pause)
        self._start()
        wanted = len(load.answered) + ANSWERS_A_ROUND
        assert self._pixel is not None
        self._pixel.wait_alive(lambda: len(load.answered) >= wanted, f"{ANSWERS_A_ROUND} answers")

    def _next_deed(self) -> Callable[[float], None]:
        """All of them in some order, and then again in another."""
        if not self._deck:
            self._deck = [
                self._kill_pixel,
                self._kill_a_worker,
                self._kill_all_workers,
                self._kill_storage,
                self._kill_storage_as_it_starts,
                self._stop_pixel,
                self._stop_storage,
                self._freeze_storage,
                self._sns_away,
                self._sqs_away,
            ]
            self._random.shuffle(self._deck)
        return self._deck.pop()

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

    def _sns_away(self, pause: float) -> None:
        self._away(self._stack.sns, "SNS away", pause)

    def _sqs_away(self, pause: float) -> None:
        self._away(self._stack.sqs, "SQS away", pause)

    def _away(self, endpoint: Endpoint, what: str, pause: float) -> None:
        self._count(what)
        endpoint.down()
        time.sleep(pause)
        endpoint.up()

    def _start(self) -> None:
        """Starts what is not there, and does not wait for it."""
        if self._pixel is None:
            format = self._random.choice(FORMATS)  # the next one publishes what is left of another format's
            self._pixel = self._stack.start_pixel({**self._pixel_config, "sns": {"format": format}}, ready=False)
        if self._storage is None:
            self._storage = self._stack.start_storage(ready=False)

    def _trouble(self, endpoint: Endpoint, chances: dict[str, float]) -> None:
        endpoint.mend()
        for kind, chance in chances.items():
            endpoint.faults.inject(kind, chance=chance)

    def _count(self, what: str) -> None:
        self.tally.injected[what] += 1

    # -- the verdict

    def _settle(self, load: Load) -> bool:
        """All is well for a while: what was answered until now has to arrive, and only once. Whether it did."""
        tally = self.tally
        for endpoint in (self._stack.sns, self._stack.sqs):
            endpoint.mend()
        answered = set(load.answered)
        self._stack.redeliver()
        deadline = time.monotonic() + SETTLE_SECONDS
        while (missing := answered - self._judge().keys()) and time.monotonic() < deadline:
            time.sleep(0.3)
        tally.answered, tally.missing = len(answered), missing
        return tally.is_clean

    def _judge(self) -> Counter[str]:
        return self.tally.judge(self._foreign.rest_of_log())

    def _end(self) -> None:
        """Everything stops, and nothing may be left: no message, no journal, no process; nor anything touched."""
        tally = self.tally
        assert self._pixel is not None
        assert self._storage is not None
        for service in (self._pixel, self._storage):
            service.wait_ready()
        self._pixel.stop()
        self._stack.wait_queue()
        self._storage.stop()
        referrers = self._judge()
        tally.strange += [f"{len(referrers)} visits, fewer than answered"] if len(referrers) < tally.answered else []
        if letters := self._stack.aws.depth(self._stack.dead_letters_url):
            tally.strange.append(f"{letters} messages in the dead-letter queue")
        if not self._stack.log_text().endswith("\n"):
            tally.strange.append("the log does not end with a whole line")
        if segments := self._stack.segments():
            tally.strange.append(f"journals left: {segments}")
        tally.kept_aside = len(list(self._stack.home.glob("visits.log.torn-*")))
        tally.strange += self._foreign.touched()
        tally.strange += left_behind(self._stack.home)
