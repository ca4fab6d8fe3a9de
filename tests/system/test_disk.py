"""Disks that are full or stand still, under load: nothing is lost for it, nothing twice, and it ends by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_aws.queues import Queue

from .disk import FileLimit, LockedLedger, SmallDisk
from .stack import FakeStack
from .wire import Load, wait_for

VISIBILITY = 10  # seconds; the shortest that storage takes
LONG_UA = "u" * 2000
OLD_LINE = (
    b"t|" + b"x" * 1_000_000 + b"|null|127.0.0.1\n"
)  # longer than the ledger's files, which the limit then spares


# The fixtures are named before `stack` in a test, so that nothing runs on a disk any more when it goes.


@pytest.fixture(params=[SmallDisk, FileLimit])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk | FileLimit]:
    made: SmallDisk | FileLimit = request.param(tmp_path)
    yield made
    made.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk | None]:
    """None where it is not permitted: the test takes the stand-in then."""
    try:
        made = SmallDisk(tmp_path)
    except pytest.skip.Exception:
        yield None
    else:
        yield made
        made.close()


@pytest.fixture
def still_disk(tmp_path: Path, small_disk: SmallDisk | None) -> SmallDisk | LockedLedger:
    return small_disk or LockedLedger(tmp_path)


@pytest.fixture
def full_disk(tmp_path: Path, small_disk: SmallDisk | None) -> SmallDisk | FileLimit:
    return small_disk or FileLimit(tmp_path)


def hidden_longer_than_once(stack: FakeStack) -> bool:
    """Whether every delivery that storage has is hidden for longer than its receipt alone hides it."""
    hidden = stack.in_queue(Queue.hidden_for)
    return bool(hidden) and min(hidden) > VISIBILITY + 1


def test_storage_waits_for_room_and_goes_on_by_itself(disk: SmallDisk | FileLimit, stack: FakeStack) -> None:
    stack.log_path = disk.path / "visits.log"
    stack.log_path.write_bytes(OLD_LINE)
    pixel = stack.start_pixel()
    storage = stack.start_storage({"sqs": {"visibility_timeout": VISIBILITY}})
    with Load(pixel.port) as load:
        load.wait_answered(100)
        stack.wait_lines(50)
        disk.fill([storage.pid])
        storage.wait_alive(lambda: not storage.is_ready(), "not ready")
        readiness = storage.readiness()
        is_full = "the disk is not full: look for a quota" if isinstance(disk, FileLimit) else "the disk is full, "
        assert is_full in readiness
        assert " bytes are free on " in readiness
        storage.wait_alive(lambda: stack.in_queue(Queue.counts)[0] > 20, "a queue that grows, for nobody receives")
        assert storage.admin("/healthz").status == 200
        assert stack.log_text().endswith("\n"), "what did not fit is cut off again"
        length = len(stack.log_text())
        if isinstance(disk, FileLimit):
            disk.fill([storage.pid], spare=0)
            storage.wait_alive(lambda: "too large" in storage.readiness(), "nothing goes in any more")
            # Once is enough of this: it takes a third of the visibility timeout.
            storage.wait_alive(lambda: hidden_longer_than_once(stack), "held deliveries hidden again")
        assert len(stack.log_text()) == length
        disk.free([storage.pid])
        storage.wait_ready()
        load.wait_answered(50)
    wait_for(lambda: load.answered <= stack.referrers().keys(), "all answered visits in the log")
    stack.wait_queue()
    assert stack.in_queue(lambda queue: queue.most_receives) == 1, "something was seen by others while it was held"
    stack.assert_exactly_once(load)
    assert stack.aws.depth(stack.dead_letters_url) == 0
    assert load.failures == 0
    assert len(storage.logged("append_paused", "cause=storage_full")) == 1, "said once, not every second"
    storage.stop()


def test_a_storage_killed_while_it_waits_for_room_loses_nothing(stack: FakeStack, tmp_path: Path) -> None:
    disk = FileLimit(tmp_path)
    stack.log_path = disk.path / "visits.log"
    stack.log_path.write_bytes(OLD_LINE)
    pixel = stack.start_pixel()
    storage = stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(100)
        stack.wait_lines(50)
        disk.fill([storage.pid])
        storage.wait_alive(lambda: not storage.is_ready(), "not ready")
        storage.wait_alive(lambda: stack.in_queue(Queue.counts)[0] > 20, "a queue that grows, for nobody receives")
    storage.kill()
    stack.start_storage()
    stack.assert_exactly_once(load)


def test_the_pixel_answers_without_room_and_records_again_by_itself(
    full_disk: SmallDisk | FileLimit, stack: FakeStack
) -> None:
    disk = full_disk
    stack.outbox = disk.path / "outbox"
    stack.sns.down()
    pixel = stack.start_pixel()
    with Load(pixel.port, agent=LONG_UA) as load:
        load.wait_answered(100)
        disk.fill(pixel.workers())
        pixel.wait_metric("tracker_pixel_visits_discarded", 20, 'reason="outbox_io"')
        load.wait_answered(100)
        assert pixel.is_ready()
        recorded = pixel.metric("tracker_pixel_visits_accepted")
        disk.free(pixel.workers())
        pixel.wait_metric("tracker_pixel_visits_accepted", recorded + 100)
    assert load.failures == 0

    def discarded() -> int:
        return int(pixel.metric("tracker_pixel_visits_discarded"))

    def counted() -> bool:
        return pixel.metric("tracker_pixel_visits_accepted") + discarded() == len(load.answered)

    pixel.wait_alive(counted, "every answer counted, as a visit or as given up")
    given_up = discarded()
    stack.sns.up()
    stack.start_storage()
    pixel.stop()
    wanted = len(load.answered) - given_up
    wait_for(lambda: len(stack.lines()) >= wanted, lambda: f"{wanted} lines, got {len(stack.lines())}")
    stack.wait_queue()
    assert len(stack.lines()) == wanted
    assert stack.referrers().keys() <= load.answered
    assert max(stack.referrers().values()) == 1
    said = pixel.logged("recording_failed")
    assert len(said) <= 2, "said once, not with every visit"
    assert " bytes are free on " in said[0]
    assert stack.segments() == []


def test_a_disk_that_stands_still_loses_nothing_and_stores_nothing_twice(
    still_disk: SmallDisk | LockedLedger, stack: FakeStack
) -> None:
    stack.log_path = still_disk.path / "visits.log"
    pixel = stack.start_pixel()
    storage = stack.start_storage({"sqs": {"visibility_timeout": VISIBILITY}})
    with Load(pixel.port) as load:
        load.wait_answered(100)
        stack.wait_lines(50)
        with still_disk.frozen():
            storage.wait_alive(lambda: stack.in_queue(Queue.counts)[0] > 20, "a queue that grows, for nobody receives")
            assert storage.admin("/healthz").status == 200
            stack.redeliver()  # as if it stood still for longer than they are hidden
        load.wait_answered(50)
    stack.assert_exactly_once(load)
    assert stack.aws.depth(stack.dead_letters_url) == 0
    assert load.failures == 0
    storage.stop()
