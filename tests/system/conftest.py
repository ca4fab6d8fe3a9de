"""One broker for the session; for each test a topic, a queue and services of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .stack import Broker, Stack


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    process = Broker(tmp_path_factory.mktemp("broker"))
    try:
        process.wait_ready()
        yield process
    finally:
        process.destroy()


@pytest.fixture
def make_stack(broker: Broker, tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    stacks: list[Stack] = []

    def make(*, raw: bool = True) -> Stack:
        stacks.append(Stack(tmp_path, broker.port, raw=raw))
        return stacks[-1]

    yield make
    for stack in stacks:
        stack.destroy()


@pytest.fixture
def stack(make_stack: Callable[..., Stack]) -> Stack:
    return make_stack()
