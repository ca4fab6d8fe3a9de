"""A local broker for the session; what a test changes, it makes under names of its own."""

from collections.abc import Iterator

import pytest

from tests.local.conftest import Broker
from tests.ports import free_port


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    pytest.importorskip("moto", reason="the local broker is moto")
    with Broker(free_port()) as running:
        yield running
