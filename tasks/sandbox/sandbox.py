"""A stand-in for Bybit on 127.0.0.1 that the real pybit client talks to over real HTTP.

It replays one market's candles with Bybit's rules (`venue.py`), keeps Bybit's limit of requests per address, and
follows a fault plan (`faults.py`). It is controlled from Python alone; nothing sent over HTTP can change what it holds.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

from storage.schema import Candles, Instrument, Market, PipelineError, Source
from tasks.sandbox.faults import RESET_HEADER, FaultPlan, PlannedFaults, Reply
from tasks.sandbox.replay import RangePolicy, Replay
from tasks.sandbox.venue import Venue, VirtualClock, default_instrument

IP_LIMIT = 600  # requests in a window of 5 s, as Bybit documents it
BAN_S = 600.0

_IP_WINDOW_S = 5.0
_JUST_AFTER_MS = 1_000  # how long after the last close a replay begins: any time inside the next bar would do
_START_LIMIT_S = 30.0
_RESET_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST instead of FIN


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that reached the sandbox.

    Attributes:
        params: The query as it came.
        signed: Whether it carried an API key.
    """

    method: str
    path: str
    params: dict[str, str]
    signed: bool


class AddressLimit:
    """Bybit's limit per address: so many requests in 5 s, then HTTP 403 for 10 minutes.

    It counts real load, so it goes by a timer of its own and not by the exchange's virtual clock.

    Args:
        limit: Requests in a window of 5 s.
        timer: Seconds, never going back.
    """

    def __init__(self, limit: int, timer: Callable[[], float]) -> None:
        self.limit = limit
        self._timer = timer
        self._recent: deque[float] = deque()
        self._banned_until = -1.0

    def admit(self) -> bool:
        """Count one request and return whether it is served."""
        now = self._timer()
        while self._recent and self._recent[0] <= now - _IP_WINDOW_S:
            self._recent.popleft()
        if now >= self._banned_until and len(self._recent) >= self.limit:
            self._banned_until = now + BAN_S
        if now < self._banned_until:
            return False
        self._recent.append(now)
        return True

    def headers(self, now_ms: int) -> dict[str, str]:
        """Return Bybit's rate-limit headers, in the time of the exchange's clock."""
        return {
            "X-Bapi-Limit": str(self.limit),
            "X-Bapi-Limit-Status": str(max(self.limit - len(self._recent), 0)),
            RESET_HEADER: str(now_ms + int(_IP_WINDOW_S * 1000)),
        }


class Sandbox:
    """A local Bybit for as long as the `with` block lasts.

    Args:
        candles: What is replayed, oldest first.
        market: Symbol, category and the interval of the candles; longer intervals are made from them.
        source: The label of everything that comes from here.
        funding: Funding stamps (UTC milliseconds) and rates.
        instrument: Trading rules; None for plausible ones, listed at the first candle.
        now_ms: Where the clock stands; None for just after the last candle closed.
        faults: What goes wrong.
        latency_ms: How long every answer takes.
        ip_limit: Requests in 5 s before the address is banned.
        range_policy: Which rows come when a range holds more than `limit`.
        timer: What the address limit goes by, seconds.

    Raises:
        CandleError: There are no candles, or they are not on the grid of the interval.
    """

    def __init__(
        self,
        candles: Candles,
        *,
        market: Market,
        source: Source,
        funding: Sequence[tuple[int, float]] = (),
        instrument: Instrument | None = None,
        now_ms: int | None = None,
        faults: FaultPlan | None = None,
        latency_ms: int = 0,
        ip_limit: int = IP_LIMIT,
        range_policy: RangePolicy = "newest",
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        replay = Replay(candles=candles, market=market)
        self.source = source
        self.clock = VirtualClock(replay.end_ms + _JUST_AFTER_MS if now_ms is None else now_ms)
        self._venue = Venue(
            replay, instrument or default_instrument(market, replay.first_ms), funding, self.clock, range_policy
        )
        self._latency_s = latency_ms / 1000
        self._address_limit = AddressLimit(ip_limit, timer)
        self._log: list[Request] = []
        self._port = 0
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self.follow(faults or FaultPlan())

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> tuple[Request, ...]:
        """Every request so far, in the order of arrival."""
        return tuple(self._log)

    def follow(self, plan: FaultPlan) -> None:
        """Follow another fault plan from its beginning."""
        self._faults = PlannedFaults(plan)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(_START_LIMIT_S) or self._failure is not None:
            raise PipelineError(f"the sandbox can't listen on 127.0.0.1 ({self._failure})") from self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as err:
            self._failure = err
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        # Cancelled when the client leaves, so that an answer that never comes holds nothing up; no access log.
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._port = runner.addresses[0][1]
            self._started.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path, params = request.path, dict(request.query)
        signed = "X-BAPI-API-KEY" in request.headers
        self._log.append(Request(method=request.method, path=path, params=params, signed=signed))
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        reply = self._answer(request.method, path, params)
        return await _deliver(request, reply)

    def _answer(self, method: str, path: str, params: dict[str, str]) -> Reply:
        now_ms = self.clock.now_ms()
        reply = Reply(envelope=None, now_ms=now_ms)
        if not self._address_limit.admit():
            reply.html(403, "access too frequent")
            return reply
        reply.headers |= self._address_limit.headers(now_ms)
        if method != "GET" or not self._venue.knows(path):
            reply.html(404, "not found")
            return reply
        action = self._faults.take(method, path, params)
        reply.envelope = self._venue.answer(path, action.rewrite(params) if action else params)
        if action:
            action.spoil(reply)
        return reply


async def _deliver(request: web.Request, reply: Reply) -> web.StreamResponse:
    body = reply.body()
    response = web.Response(status=reply.status, body=body, headers=reply.headers)
    wire = request.transport
    if reply.delivery == "whole" or wire is None:
        return response
    if reply.delivery == "never":
        await asyncio.Event().wait()  # until the client hangs up
    elif reply.delivery == "reset":
        wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE)
        wire.abort()
    else:
        chunked = reply.delivery == "chunk"
        promised = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        head = f"HTTP/1.1 {reply.status} OK\r\nContent-Type: application/json\r\n{promised}\r\n\r\n"
        size = f"{len(body):x}\r\n".encode() if chunked else b""
        wire.write(head.encode() + size + body[: len(body) // 2])
        wire.close()
    return response  # goes nowhere: the connection is closed
