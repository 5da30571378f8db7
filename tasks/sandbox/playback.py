"""Moves the exchange's clock: bar by bar, as fast as clients can follow, or in real time."""

import asyncio
from collections.abc import Callable, Collection

from tasks.sandbox.clock import VirtualClock
from tasks.sandbox.hub import Hub
from tasks.sandbox.listing import Listing
from tasks.sandbox.tape import TICKS

_LOOK_EVERY_S = 0.05  # longest delay of the exchange's events


async def play(
    listings: Collection[Listing], clock: VirtualClock, hub: Hub, bars: int | None, bar_every_s: float
) -> int:
    """Close bars, of the shortest interval among the markets, until there are no more, and return how many.

    The clock stops at each trade and at each end of a bar, and continues when its real time has come: a bar takes
    `bar_every_s` real seconds at least. At the end of a bar it also waits until every subscriber has received
    everything. It stops at the last candle.
    """
    loop = asyncio.get_running_loop()
    shortest = min((listing.market for listing in listings), key=lambda market: market.interval_ms)
    end_ms = max(listing.replay.end_ms for listing in listings)
    closed, due = 0, loop.time()
    while closed != bars and (close_ms := shortest.floor(clock.now_ms()) + shortest.interval_ms) <= end_ms:
        due = max(due, loop.time())
        while clock.now_ms() < close_ms:
            due += bar_every_s / TICKS
            await asyncio.sleep(due - loop.time())
            upcoming = min(listing.replay.next_event_ms(clock.now_ms()) for listing in listings)
            clock.move_to(min(upcoming, close_ms))
            await hub.come_back()
        await hub.settle()
        closed += 1
    return closed


async def keep_time(listings: Collection[Listing], clock: VirtualClock, wall_clock_ms: Callable[[], int]) -> None:
    """Keep the clock equal to the wall clock until the last candle has closed; it never goes back."""
    end_ms = max(listing.replay.end_ms for listing in listings)
    while clock.now_ms() < end_ms:
        clock.move_to(min(wall_clock_ms(), end_ms))
        await asyncio.sleep(_LOOK_EVERY_S)
