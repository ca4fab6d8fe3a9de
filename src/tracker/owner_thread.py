"""A thread that owns an object: all calls on the object run in this thread, one after the other."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class OwnerThread:
    """Runs calls in the one thread of `executor`, so that they neither block the event loop nor overlap each other.

    An SQLite connection, for example, may be used in a single thread only. A call that has begun runs to its end, even
    if the task that awaits it is cancelled.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    async def call(self, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call `function` in the thread, and return its result. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, partial(function, *arguments, **options))
