"""Messages nobody can read: they block nobody, crash nothing and are never deleted; and some get readable."""

import json
from pathlib import Path

from tests.fake_aws.queues import Queue
from tests.launched import ROOT

from .stack import FakeStack
from .wire import Load, get, wait_for

VISIT = {"Referer": None, "UserAgent": None, "IpAddress": "192.0.2.1", "VisitedAt": "2026-01-01T00:00:00+00:00"}
SPAN = {"Type": "Visit", "Journal": "0" * 32, "Start": "0", "Visits": "1", "Encoding": "identity", "Crc32": "00000000"}

POISON: list[tuple[str, dict[str, str]]] = [
    ("no visit at all", {}),
    ("[" * 10_000, {}),
    ("{}", {}),
    (json.dumps({**VISIT, "IpAddress": "999.1.1.1"}), {}),
    (json.dumps({**VISIT, "VisitedAt": "yesterday"}), {}),
    (json.dumps(VISIT) + "\n", SPAN),  # a wrong checksum
    (json.dumps(VISIT) + "\n", {**SPAN, "Encoding": "brotli"}),
    ("%%%", {**SPAN, "Encoding": "zlib+base64url"}),
    (json.dumps(VISIT), {name: value for name, value in SPAN.items() if name != "Crc32"}),
    ("\n", {**SPAN, "Closed": "perhaps"}),
    ("x\n", {**SPAN, "Start": "9" * 19}),
]


def test_a_malformed_message_blocks_nobody_and_is_never_deleted(tmp_path: Path) -> None:
    stack = FakeStack(tmp_path, max_receives=5)
    try:
        pixel = stack.start_pixel()
        storage = stack.start_storage()
        poison = {stack.aws.send(stack.queue_url, body, **attributes): body for body, attributes in POISON}
        assert get(pixel.port, headers=[("Referer", "https://after.example/")]).is_gif
        stack.wait_lines(1)
        storage.wait_metric("tracker_storage_messages_acknowledged", 1)  # from here on only poison is in the queue

        def given_up() -> bool:
            stack.redeliver()
            return stack.aws.depth(stack.dead_letters_url) == len(poison)

        wait_for(given_up, lambda: f"all poison among the dead letters: {stack.aws.depth(stack.dead_letters_url)}")
        storage.wait_metric("tracker_storage_messages_malformed", 5 * len(poison))
        logged = [len(storage.logged(message_id)) for message_id in poison]
        assert set(logged) <= {0, 1}, storage.output  # once each, though each came five times
        assert sum(logged) == 10  # the log's own limit of like lines a minute
        dead = stack.dead_letters(Queue.bodies)
        assert sorted(dead) == sorted(poison.values()), "not as they were sent"
        assert list(stack.referrers()) == ["https://after.example/"]
        assert storage.logged("maxReceiveCount"), "five receives are too few, and it was not said"
        storage.stop()
    finally:
        stack.destroy()


def test_dead_letters_that_have_become_readable_are_stored_once_after_their_redrive(stack: FakeStack) -> None:
    """The storage is older than the pixel: what it cannot read waits for the newer one."""
    stack.sns.hold()
    pixel = stack.start_pixel()
    with Load(pixel.port) as load:
        load.wait_answered(200)
    earlier = stack.start_storage(module="tests.system.earlier_storage", env={"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"})
    stack.sns.up()
    earlier.wait_metric("tracker_storage_messages_malformed", 1)

    def all_given_up() -> bool:
        stack.redeliver()
        return stack.aws.depth(stack.queue_url) == 0

    wait_for(all_given_up, "messages that were received too often")
    assert stack.aws.depth(stack.dead_letters_url) > 0
    assert earlier.running
    earlier.stop()
    stack.start_storage()
    queue = stack.in_queue(lambda queue: queue)
    assert stack.dead_letters(lambda dead: dead.redrive_to(queue)) > 0
    stack.assert_exactly_once(load)
    assert stack.aws.depth(stack.dead_letters_url) == 0
