"""Publishes messages again, and counts what became of them: `tracker import`.

1. All messages of a window are published at once.
2. What SNS does not accept is published again, after longer and longer pauses: for as long as SNS throttles, and for
   `GIVE_UP_SECONDS` after any other failure.
3. A message that SNS refuses is published once more, alone: SNS may have refused a whole request for one of its
   messages. If SNS refuses it again, it is reported and left out. If SNS refuses many, one after the other, or all, the
   topic or its permissions are at fault: that ends the import.
"""

import asyncio
import time
from dataclasses import dataclass

from tracker import exit_status
from tracker.errors import PublishFailed, PublishRefused, PublishThrottled, TrackerError
from tracker.lifecycle import Backoff
from tracker.operations.kept_messages import Kept, Unusable
from tracker.pixel.topic import Topic

GIVE_UP_SECONDS = 30.0
REFUSED_AT_ONCE = 20  # after so many refusals without an acceptance, the topic is at fault and not the messages
SHOWN = 10  # problems of each file
AGAIN = "begin the same import again: what is stored is not stored again"


@dataclass
class Import:
    """What was found and published so far."""

    found: int = 0
    """Messages."""
    found_visits: int = 0
    published: int = 0
    """Messages that SNS has accepted."""
    published_visits: int = 0
    made: int = 0
    """Visits that had no journal."""
    old: int = 0
    """Messages with visits that the ledger may have forgotten."""
    unusable: int = 0
    unread: int = 0
    """Files and journals that could not be read, or not to their ends."""
    refused: int = 0
    """Messages that SNS refuses."""
    shown: tuple[str, int] = ("", 0)
    """The file that is read now, and how many problems of it were reported."""

    @property
    def exit_status(self) -> int:
        if self.unread:
            return exit_status.COULD_NOT_LOOK
        return exit_status.FOUND if self.unusable or self.refused else exit_status.OK

    def count(self, kept: Kept, forgotten: str) -> None:
        """Count a message that was found. `forgotten` is a time: of earlier visits the ledger may know nothing."""
        self.found += 1
        self.found_visits += kept.message.visits
        self.made += kept.message.visits if kept.has_made_journal else 0
        self.old += bool(kept.oldest) and kept.oldest < forgotten

    def count_unusable(self, file: str, each: Unusable) -> None:
        self.unread += each.could_not_read
        self.unusable += not each.could_not_read
        self.show_problem(file, each.place, each.problem)

    def show_problem(self, file: str, place: str, problem: str) -> None:
        """Print a problem, at most `SHOWN` of each file."""
        count = self.shown[1] + 1 if self.shown[0] == file else 1
        self.shown = (file, count)
        if count <= SHOWN:
            exit_status.print_error(f"{place}: {problem}")
        elif count == SHOWN + 1:
            exit_status.print_error(f"{file}: further problems are counted and not shown")


class Publisher:
    """Publishes windows of messages until SNS has accepted or refused each."""

    def __init__(self, topic: Topic, done: Import, *, give_up: float = GIVE_UP_SECONDS, backoff: Backoff) -> None:
        self._topic = topic
        self._done = done
        self._give_up = give_up
        self._backoff = backoff
        self._refused_at_once = 0
        self._accepted_at = time.monotonic()  # or the time of the last throttle: SNS can be reached

    async def publish(self, window: list[tuple[str, Kept]]) -> None:
        """Publish all of them. Raises TrackerError if SNS cannot be reached, or accepts nothing."""
        self._accepted_at = time.monotonic()
        while window:
            outcomes = await self._topic.publish([each.message for _, each in window])
            left: list[tuple[str, Kept]] = []
            error: PublishFailed | None = None
            for (file, each), outcome in zip(window, outcomes, strict=True):
                if outcome is None:
                    self._count_accepted(each)
                elif isinstance(outcome, PublishRefused) and len(window) == 1:
                    self._count_refused(file, each, outcome)
                elif isinstance(outcome, PublishRefused):
                    await self.publish([(file, each)])
                else:
                    left, error = [*left, (file, each)], outcome
            if error is not None:
                await self._wait(error, is_progress=len(left) < len(window))
            window = left

    def end(self) -> None:
        """Raise TrackerError if SNS has refused everything."""
        if self._done.refused and not self._done.published:
            raise TrackerError("SNS refuses every message: check the topic and the permission sns:Publish")

    async def _wait(self, error: PublishFailed, *, is_progress: bool) -> None:
        if is_progress:
            self._backoff.reset()
        if is_progress or isinstance(error, PublishThrottled):
            self._accepted_at = time.monotonic()
        if time.monotonic() - self._accepted_at > self._give_up:
            raise TrackerError(f"SNS does not accept messages: {error}. When the cause is fixed, {AGAIN}")
        await asyncio.sleep(self._backoff.next())

    def _count_accepted(self, kept: Kept) -> None:
        self._refused_at_once = 0
        self._done.published += 1
        self._done.published_visits += kept.message.visits

    def _count_refused(self, file: str, kept: Kept, error: PublishRefused) -> None:
        self._done.refused += 1
        self._done.show_problem(file, kept.place, f"SNS refuses this message: {error}")
        self._refused_at_once += 1
        if self._refused_at_once >= REFUSED_AT_ONCE:
            raise TrackerError(
                f"SNS has refused {REFUSED_AT_ONCE} messages one after the other: check the topic and the permission "
                f"sns:Publish. The last reason: {error}"
            )
