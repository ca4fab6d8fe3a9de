"""Calls on what one thread owns: all of them run in that thread, one after the other."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tracker.owner_thread import OwnerThread


async def test_all_calls_run_in_one_thread_that_is_not_the_event_loops() -> None:
    with ThreadPoolExecutor(1) as executor:
        thread = OwnerThread(executor)
        threads = await asyncio.gather(*(thread.call(threading.get_ident) for _ in range(3)))
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


async def test_a_call_takes_named_arguments_and_raises_what_the_function_raises() -> None:
    with ThreadPoolExecutor(1) as executor:
        thread = OwnerThread(executor)
        assert await thread.call(int, "11", base=2) == 3
        with pytest.raises(ValueError, match="invalid literal"):
            await thread.call(int, "eleven")
