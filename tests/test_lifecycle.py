"""Life of a process: waits, deadlines, stop signals and exit statuses. What ends a process is tried on a process."""

import asyncio
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from tracker.errors import HeldByAnother, StopRequested
from tracker.lifecycle import Backoff, Budget, Deadline, ends_before, wait_for_event, wait_while_held


async def test_a_call_that_ends_before_the_event_ends_by_itself() -> None:
    async def fail() -> None:
        raise ValueError("its own")

    event = asyncio.Event()
    assert await ends_before(event, asyncio.sleep(0))
    with pytest.raises(ValueError, match="its own"):
        await ends_before(event, fail())


async def test_a_call_is_cancelled_by_the_event_and_has_ended_then() -> None:
    event, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        try:
            event.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # as it takes to end a process
            ended.set()

    assert not await ends_before(event, endless())
    assert ended.is_set()


def test_backoff_doubles_up_to_its_cap_with_jitter() -> None:
    for _ in range(50):
        backoff = Backoff(first=0.2, cap=3.0)
        for bound in (0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0):
            assert bound / 2 <= backoff.next() <= bound


def test_backoff_never_waits_in_step_with_others() -> None:
    assert len({Backoff().next() for _ in range(20)}) > 1


def test_backoff_starts_over_after_a_reset() -> None:
    backoff = Backoff(first=0.1, cap=100.0)
    for _ in range(2_000):  # an outage of any length
        assert backoff.next() <= 100.0
    backoff.reset()
    assert backoff.next() <= 0.1


def test_deadline_runs_down_to_nothing_and_not_below() -> None:
    deadline = Deadline(60)
    first = deadline.remaining()
    assert 59 < first <= 60
    assert deadline.remaining() <= first
    assert Deadline(0).remaining() == 0
    assert Deadline(-5).remaining() == 0


def test_a_step_of_a_budget_may_use_the_time_that_the_steps_before_it_left() -> None:
    budget = Budget({"first": 0.25, "second": 0.5, "third": 0.25}, 100)
    assert 24 < budget.remaining("first") <= 25
    assert 74 < budget.remaining("second") <= 75
    assert 99 < budget.remaining("third") <= 100


def test_a_budget_without_time_leaves_no_time_to_any_step() -> None:
    budget = Budget({"first": 0.5, "second": 0.5}, 0)
    assert (budget.remaining("first"), budget.remaining("second")) == (0, 0)


@pytest.mark.parametrize("shares", [{"first": 0.5, "second": 0.4}, {"first": 0.5, "second": 0.6}, {}])
def test_shares_that_do_not_add_up_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a sum of 1"):
        Budget(shares, 25)


async def test_wait_for_event_says_whether_it_is_set() -> None:
    event = asyncio.Event()
    assert not await wait_for_event(event, 0.01)
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await wait_for_event(event, 30)
    assert await wait_for_event(event, 0)


def held(times: int) -> Callable[[], str]:
    """A resource that another process holds for the first `times` tries."""
    tries = iter(range(times))

    def take() -> str:
        if next(tries, None) is not None:
            raise HeldByAnother("process 7 has it")
        return "taken"

    return take


async def test_what_another_process_holds_is_waited_for() -> None:
    assert await wait_while_held(held(2), asyncio.Event(), seconds=30) == "taken"


async def test_what_another_process_does_not_let_go_in_time_is_an_error() -> None:
    with pytest.raises(HeldByAnother, match="process 7 has it"):
        await wait_while_held(held(1_000), asyncio.Event(), seconds=0.01)


async def test_a_stop_request_ends_the_wait_for_what_another_process_holds() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    with pytest.raises(StopRequested):
        await wait_while_held(held(1_000_000), stop, seconds=600)


def process(body: str) -> "subprocess.Popen[str]":
    """A process whose `main` is `body`, run by `lifecycle.run`."""
    program = "\n".join(
        (
            "import asyncio, atexit, os, signal, sys",
            "from tracker.errors import ConfigurationError, QueueFailed",
            "from tracker.lifecycle import install_stop_signals, on_hangup, run",
            "async def main():",
            textwrap.indent(textwrap.dedent(body), "    "),
            "sys.exit(run(main))",
        )
    )
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(body: str) -> tuple[int, str]:
    with process(body) as running:
        _, said = running.communicate(timeout=30)
    return running.returncode, said


def test_a_clean_end_is_0() -> None:
    assert ended("pass") == (0, "")


@pytest.mark.parametrize("group", [False, True])
def test_a_configuration_error_is_78_and_its_line(group: bool) -> None:
    error = "ConfigurationError('pixel.yaml: http.port: expected int, got str')"
    raised = f"BaseExceptionGroup('', [ExceptionGroup('', [{error}])])" if group else error
    assert ended(f"raise {raised}") == (78, "pixel.yaml: http.port: expected int, got str\n")


def test_a_configuration_error_moves_no_cursor_and_keeps_its_lines() -> None:
    assert ended(r"raise ConfigurationError('a: \x1b[2J\nb: \x9b\u202e')") == (78, "a: \\x1b[2J\nb: \\x9b\\u202e\n")


def test_a_sighup_while_the_process_ends_does_not_change_its_status() -> None:
    body = """
        on_hangup(lambda: None)
        atexit.register(os.kill, os.getpid(), signal.SIGHUP)
    """
    assert ended(body) == (0, "")


def test_another_error_of_ours_is_1_and_one_line() -> None:
    assert ended("raise QueueFailed('no queue')") == (
        1,
        "service_failed error=no queue; The service has ended. Fix what the error names.\n",
    )


def test_an_unknown_error_is_1_with_its_traceback() -> None:
    status, said = ended("raise ZeroDivisionError('unexpected')")
    assert status == 1
    assert re.match(r"service_crashed; [^\n]*\nTraceback", said)
    assert said.endswith("ZeroDivisionError: unexpected\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_for_a_stop(number: signal.Signals) -> None:
    body = """
        stop = install_stop_signals()
        print("ready", flush=True)
        await stop.requested.wait()
        print("stopping", flush=True)
    """
    with process(body) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(number)
        said, _ = running.communicate(timeout=30)
    assert (said, running.returncode) == ("stopping\n", 0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_the_process_at_once(second: signal.Signals) -> None:
    body = """
        stop = install_stop_signals()
        print("ready", flush=True)
        try:
            await stop.requested.wait()
            print("stopping", flush=True)
            await asyncio.sleep(3600)
        finally:
            print("unreached", flush=True)
    """
    with process(body) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == "stopping\n"
        running.send_signal(second)
        said, _ = running.communicate(timeout=30)
    assert (said, running.returncode) == ("", 1)
