"""Runs coroutine functions of rewards, many completions at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

CONCURRENCY = 64  # under way at once
Item = TypeVar("Item")
Result = TypeVar("Result")


async def limited(work: Awaitable[Result], seconds: float) -> Result:
    """Raises TimeoutError."""
    return await asyncio.wait_for(work, seconds)


def run_one(work: Awaitable[Result], seconds: float) -> Result:
    return asyncio.run(limited(work, seconds))


def run_all(
    call: Callable[[Item], Awaitable[Result]], items: Sequence[Item], reply: Callable[[int, Result], None]
) -> None:
    """Reply with the number of each item and what it gave, as they end."""

    async def all_of_them() -> None:
        turns = asyncio.Semaphore(CONCURRENCY)

        async def one(index: int, item: Item) -> None:
            async with turns:
                result = await call(item)
            reply(index, result)

        await asyncio.gather(*(one(index, item) for index, item in enumerate(items)))

    asyncio.run(all_of_them())
