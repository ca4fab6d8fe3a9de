"""What every service process needs: command line, start on uvloop, stop signals, deadlines, backoff, exit status."""

import argparse
import asyncio
import itertools
import logging
import math
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import uvloop

from tracker import exit_status
from tracker.config import Config
from tracker.core.printable import printable
from tracker.errors import ConfigurationError, HeldByAnother, StopRequested, TrackerError
from tracker.logs import setup_logging
from tracker.standard_error import STREAM
from tracker.start import imports_done

log = logging.getLogger(__name__)

HELD_SECONDS = 10.0  # how long a start waits for an address or a lock that another process holds
HELD_RETRY_SECONDS = 0.2
LAST_LINES_SECONDS = 0.2  # how long `exit_now` waits until the last log lines are written

T = TypeVar("T")


class Stop:
    """A stop request: the first SIGTERM or SIGINT sets `requested`, a second one ends the process at once."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()

    def request(self, why: str) -> None:
        if self.requested.is_set():
            exit_now(exit_status.CRASH)
        log.info("stop_requested by=%s; The service stops.", why)
        self.requested.set()


def install_stop_signals() -> Stop:
    """A `Stop` that SIGTERM and SIGINT request, also those that were sent since the start of the process."""
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        _handle(number, stop.request, number.name)
    return stop


def on_hangup(callback: Callable[[], None]) -> None:
    """Call `callback` on the running loop for each SIGHUP, also for one sent since the start of the process."""
    _handle(signal.SIGHUP, callback)


def _handle(number: signal.Signals, callback: Callable[..., None], *arguments: str) -> None:
    asyncio.get_running_loop().add_signal_handler(number, callback, *arguments)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})  # blocked since `start.prepare_service`


def exit_now(status: int) -> NoReturn:
    """End the process at once, without cleaning up. It waits at most 0.2 seconds for log lines that are queued."""
    STREAM.drain(LAST_LINES_SECONDS)
    os._exit(status)


class Deadline:
    """A point in time, `seconds` from now, that several steps share."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - time.monotonic())


class Budget:
    """The time of a stop, divided among its steps.

    `shares` names the steps in their order, each with its share of `seconds`; the time runs from now on. A step may
    last until its own share and those of all steps before it are used up, so the time that one step does not need goes
    to the next ones. Raises ValueError when the shares do not add up to 1.
    """

    def __init__(self, shares: Mapping[str, float], seconds: float) -> None:
        if not math.isclose(total := sum(shares.values()), 1.0):
            raise ValueError(f"shares: expected a sum of 1, got {total:g}: {dict(shares)}")
        ends = itertools.accumulate(shares.values())
        self._deadlines = {step: Deadline(seconds * end) for step, end in zip(shares, ends, strict=True)}

    def remaining(self, step: str) -> float:
        """Seconds until the end of `step`, never negative. Raises KeyError for a step that has no share."""
        return self._deadlines[step].remaining()


class Backoff:
    """Waits between tries, in seconds: each is twice as long as the one before, from `first` up to `cap`.

    Jitter shortens each by up to a half, so that processes do not try at the same moment.
    """

    def __init__(self, first: float = 0.2, cap: float = 10.0) -> None:
        self._first = first
        self._cap = cap
        self._current = first

    def next(self) -> float:
        wait = self._current * random.uniform(0.5, 1.0)
        self._current = min(self._cap, self._current * 2)
        return wait

    def reset(self) -> None:
        self._current = self._first


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until `event` is set, at most `seconds` (None: without a limit); returns whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    return event.is_set()


async def ends_before(event: asyncio.Event, call: Coroutine[Any, Any, object]) -> bool:
    """Await `call`, but cancel it when `event` is set. Returns whether it ended before that. Raises what it raises."""
    calling, waiting = asyncio.ensure_future(call), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((calling, waiting), return_when=asyncio.FIRST_COMPLETED)
        ended = calling.done()
    finally:
        calling.cancel()
        waiting.cancel()
        await asyncio.gather(calling, waiting, return_exceptions=True)
    if ended:
        calling.result()
    return ended


async def wait_while_held(take: Callable[[], T], stop: asyncio.Event, seconds: float = HELD_SECONDS) -> T:
    """Call `take` and return its result. While it raises HeldByAnother, call it again, for at most `seconds`.

    The process that holds the address or the lock may be about to end. Raises the last HeldByAnother after that time,
    and StopRequested when `stop` is set before.
    """
    deadline = Deadline(seconds)
    waiting = False
    while True:
        try:
            return take()
        except HeldByAnother as error:
            if stop.is_set():
                raise StopRequested from error
            if not deadline.remaining():
                raise
            if not waiting:
                log.warning(
                    "start_delayed seconds=%g error=%s; The service keeps trying for this time, because the other "
                    "process may be about to end.",
                    seconds,
                    error,
                )
            waiting = True
        await wait_for_event(stop, min(HELD_RETRY_SECONDS, deadline.remaining()))


def run_command(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    load: Callable[[Path, Mapping[str, str]], Config],
    serve: Callable[[Config, argparse.Namespace], Coroutine[Any, Any, None]],
) -> int:
    """Run a service as a command, with `--config`, `--check` and `--version`. Returns its exit status."""
    exit_status.add_version(parser)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the YAML configuration")
    parser.add_argument("--check", action="store_true", help="validate the configuration and exit")
    options = parser.parse_args(arguments)
    try:
        config = load(options.config, os.environ)
    except ConfigurationError as error:
        exit_status.print_error(str(error))
        return exit_status.CONFIGURATION
    if options.check:
        return exit_status.status_of(lambda: _print_ok(options.config), parser.prog, failed=exit_status.CRASH)
    setup_logging(config.logging.level, config.logging.format)
    os.umask(0o027)  # other users may not read what the services create: files 0640 at most, directories 0750
    return run(lambda: serve(config, options), f"{options.config}: ")


def _print_ok(config: Path) -> int:
    print(f"{printable(str(config))}: OK")
    return exit_status.OK


def run(main: Callable[[], Coroutine[Any, Any, None]], where: str = "") -> int:
    """Run `main` on uvloop to its end. Returns the exit status.

    An error of the project is logged in one line, any other error with its traceback. The text of a configuration error
    begins with `where`.
    """
    status = 0
    try:
        running = main()  # which imports the last modules
        imports_done()
        uvloop.run(running)
    except* ConfigurationError as errors:
        for error in _leaves(errors):
            exit_status.print_error(f"{where}{error}")
        status = exit_status.CONFIGURATION
    except* StopRequested:
        log.info("start_cancelled; A stop was requested before the service was ready.")
    except* TrackerError as errors:
        for error in _leaves(errors):
            log.critical("service_failed error=%s; The service has ended. Fix what the error names.", error)
        status = exit_status.CRASH
    except* Exception as errors:
        for error in _leaves(errors):
            log.critical(
                "service_crashed; The service has ended because of a fault in its code. Report the traceback.",
                exc_info=error,
            )
        status = exit_status.CRASH
    return status


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves
