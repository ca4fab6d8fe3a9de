"""For each test a topic, a queue and services of its own: on a fake of its own, where faults are to be had, or on the
session's one moto broker, which is what `make run` starts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .processes import Broker
from .stack import FakeStack, Stack


@pytest.fixture
def make_stack(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Makes stacks on moto."""
    stacks: list[Stack] = []

    def make(*, raw: bool = True) -> Stack:
        stacks.append(Stack(tmp_path, broker.port, raw=raw))
        return stacks[-1]

    yield make
    for stack in stacks:
        stack.destroy()


@pytest.fixture
def fake_stack(tmp_path: Path) -> Iterator[FakeStack]:
    made = FakeStack(tmp_path)
    yield made
    made.destroy()


@pytest.fixture
def stack(fake_stack: FakeStack) -> FakeStack:
    return fake_stack
