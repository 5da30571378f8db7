"""A simulated Bybit on 127.0.0.1 for real clients, over real HTTP and real WebSockets.

It replays the candles of one or more markets by Bybit's rules (`venue.py`, `push.py`), keeps trading accounts
(`order_endpoints.py`, `desk.py`, `private_stream.py`), applies Bybit's rate limits, and follows a fault plan
(`faults.py`). It is controlled from Python only: requests can change nothing but the sender's own account.

There are two times. Data time is the exchange's clock (`Sandbox.clock`): it stands still until it is moved;
`Sandbox.play` closes the next bars one after the other, thousands in a few seconds, and `Sandbox.keep_time` ties it to
this machine's clock. The contents of answers and messages are of data time. Sockets, pings, limits and delays run in
real time.
"""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Self

from aiohttp import web

from storage.schema import ConfigError, PipelineError, Source
from tasks.sandbox.address_limit import IP_LIMIT, SOCKET_LIMIT, SOCKET_WINDOW_S, AddressLimit, ClientLimits
from tasks.sandbox.clock import VirtualClock
from tasks.sandbox.desk import Desk
from tasks.sandbox.faults import Action, FaultPlan, PlannedFaults, Reply
from tasks.sandbox.hub import STREAM_CATEGORIES, STREAM_PATH, Hub
from tasks.sandbox.listing import Listing
from tasks.sandbox.order_endpoints import Trading, body_params
from tasks.sandbox.playback import keep_time, play
from tasks.sandbox.private_stream import PRIVATE_PATH, PRIVATE_TOPICS, PrivatePush
from tasks.sandbox.replay import RangePolicy
from tasks.sandbox.signatures import KEY_HEADER, Door, Signed
from tasks.sandbox.sockets import PushTiming
from tasks.sandbox.stream_faults import FollowedPlan, StreamPlan
from tasks.sandbox.venue import Venue
from tasks.sandbox.venue_account import AccountSpec, VenueAccount

_JUST_AFTER_MS = 1_000  # how long after the last close a replay begins: any time inside the next bar would do
_START_LIMIT_S = 30.0
_NO_ACTION = Action("nothing goes wrong")
_RESET_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST instead of FIN


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that reached the sandbox.

    Attributes:
        params: The query, or the body as text; without key and signature.
        time_ms: Time of arrival, UTC milliseconds of the exchange's clock.
        signed: Whether it had an API key.
        known: Whether the endpoint exists; others are answered with HTTP 404.
    """

    method: str
    path: str
    params: dict[str, str]
    time_ms: int
    signed: bool
    known: bool


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Sandbox:
    """A local Bybit for as long as the `with` block lasts.

    Args:
        now_ms: Initial time of the clock, UTC milliseconds; None for just after the first market's last candle closed.
        ip_limit: Requests in 5 s before a client is banned.
        range_policy: Which rows are returned if a range has more than `limit`.
        stream: Delays of the stream; None for the defaults.
        timer: Monotonic clock of the rate limits, seconds.
        accounts: Trading accounts; without any there are neither endpoints nor a stream of accounts.
        ack_to_fill_ms: Real milliseconds from an order's acknowledgement to its matching.
        wall_clock_ms: Clock that the timestamps of signatures are compared with, UTC milliseconds.

    Raises:
        ConfigError: A market or a key is given twice.
    """

    def __init__(
        self,
        listings: Sequence[Listing],
        *,
        source: Source,
        now_ms: int | None = None,
        faults: FaultPlan = (),
        latency_ms: int = 0,
        ip_limit: int = IP_LIMIT,
        range_policy: RangePolicy = "newest",
        stream: PushTiming | None = None,
        stream_faults: StreamPlan | None = None,
        timer: Callable[[], float] = time.monotonic,
        accounts: Sequence[AccountSpec] = (),
        ack_to_fill_ms: float = 5.0,
        wall_clock_ms: Callable[[], int] = _wall_clock_ms,
    ) -> None:
        self.listings = {listing.key: listing for listing in listings}
        if len(self.listings) != len(listings):
            raise ConfigError("each market of a sandbox must be there once, one category and symbol is there twice")
        self.source = source
        self.clock = VirtualClock(listings[0].replay.end_ms + _JUST_AFTER_MS if now_ms is None else now_ms)
        self._venue = Venue(self.listings, self.clock, range_policy)
        self._timing = stream or PushTiming()
        door = Door(accounts, wall_clock_ms, timer)
        self.private_stream = PrivatePush(door, self._timing, self.clock.told_ms)
        self.desk = Desk(self.listings, self.clock, accounts, ack_to_fill_ms, self.private_stream, self._later)
        self._trading = Trading(self.desk, door, self.clock.told_ms)
        self._hub: Hub | None = None
        self._socket_limits = ClientLimits(lambda: AddressLimit(SOCKET_LIMIT, timer, SOCKET_WINDOW_S))
        self._latency_s = latency_ms / 1000
        self._limits = ClientLimits(lambda: AddressLimit(ip_limit, timer))
        self._log: list[Request] = []
        self._port = 0
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self.follow(faults)
        self.follow_stream(stream_faults or StreamPlan())

    @property
    def url(self) -> str:
        """Address of its REST API."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> tuple[Request, ...]:
        """Every request so far, in the order of arrival."""
        return tuple(self._log)

    def follow(self, plan: FaultPlan) -> None:
        """Follow another fault plan from its beginning."""
        self._faults = PlannedFaults(plan)

    def follow_stream(self, plan: StreamPlan) -> None:
        """Follow another fault plan of the stream from its beginning: its bar 0 is the one that is forming now."""
        shortest = min((listing.market for listing in self.listings.values()), key=lambda market: market.interval_ms)
        self._stream_plan = FollowedPlan(plan, shortest.floor(self.clock.now_ms()), shortest.interval_ms)
        self.clock.jump(self._stream_plan.clock_jumps())
        if self._hub is not None:
            self._hub.feed.plan = self._stream_plan

    @property
    def stream_url(self) -> str:
        """Address of its stream, to which a client appends /v5/public/<category>."""
        return f"ws://127.0.0.1:{self._port}"

    def account(self, key: str) -> VenueAccount:
        """Return a copy of an account as it is now."""
        return self.desk.snapshot(key)

    def play(self, bars: int | None = None, *, bar_every_s: float = 0.005) -> Future[int]:
        """Close the next bars one after the other, in data time; returns at once.

        A bar is one of the shortest interval among the markets, and takes `bar_every_s` real seconds at least. The
        clock waits until every subscriber of the stream has received everything, so that none falls behind by more than
        a bar; it stops at the end of the replay.

        Returns:
            A future of the number of bars closed; cancel it to stop the clock.
        """
        loop, hub = self._open()
        playing = play(self.listings.values(), self.clock, hub, bars, bar_every_s)
        return asyncio.run_coroutine_threadsafe(playing, loop)

    def keep_time(self, wall_clock_ms: Callable[[], int] = _wall_clock_ms) -> Future[None]:
        """Keep data time equal to real time from now on, for clients that use their own clock; returns at once.

        Data time never goes back to the clock's.

        Returns:
            A future that is done when the last candle has closed; cancel it to stop the clock.
        """
        loop, _ = self._open()
        keeping = keep_time(self.listings.values(), self.clock, wall_clock_ms)
        return asyncio.run_coroutine_threadsafe(keeping, loop)

    def wait_for_subscribers(self, *topics: str, timeout_s: float = 30.0) -> None:
        """Wait until each of these topics has a subscriber, on the public or the private stream.

        Raises:
            TimeoutError: A topic has no subscriber in time.
        """
        loop, hub = self._open()
        private = PRIVATE_TOPICS.intersection(topics)

        async def subscribed() -> None:
            await self.private_stream.subscribed(private)
            await hub.subscribed(set(topics) - private)

        waiting = asyncio.run_coroutine_threadsafe(subscribed(), loop)
        try:
            waiting.result(timeout_s)
        finally:
            waiting.cancel()

    def _open(self) -> tuple[asyncio.AbstractEventLoop, Hub]:
        if self._loop is None or self._hub is None:
            raise ConfigError("a sandbox must be open before its clock can play; enter its `with` block first")
        return self._loop, self._hub

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(_START_LIMIT_S) or self._failure is not None:
            raise PipelineError(f"the sandbox can't listen on 127.0.0.1 ({self._failure})") from self._failure
        return self

    def __exit__(self, *exc: object) -> None:
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
        hub = self._hub = Hub(self.listings, self.clock, self._timing, self._stream_plan)
        self.private_stream.open()
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
            with self.clock.heard_by(self.desk.hear), self.clock.heard_by(hub.hear):
                await self._stop.wait()
        finally:
            await runner.cleanup()

    def _later(self, delay_s: float, action: Callable[[], object]) -> None:
        loop, _ = self._open()
        loop.call_soon_threadsafe(loop.call_later, delay_s, action)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path, params = request.path, dict(request.query)
        stream: Hub | PrivatePush | None = None
        if path.removeprefix(STREAM_PATH) in STREAM_CATEGORIES:
            stream = self._hub
        elif path == PRIVATE_PATH and self.desk.accounts:
            stream = self.private_stream
        if stream:
            if not self._socket_limits.of(request.headers).admit():
                return web.Response(status=403, text="access too frequent")
            return await stream.serve(request)
        payload = request.raw_path.partition("?")[2].encode()
        if request.method == "POST":
            payload = await request.read()
            params = body_params(payload)
        asked = Request(
            method=request.method,
            path=path,
            params=params,
            time_ms=self.clock.now_ms(),
            signed=KEY_HEADER in request.headers,
            known=self._trading.knows(request.method, path) or (request.method == "GET" and self._venue.knows(path)),
        )
        self._log.append(asked)
        # What has been sent arrives, also when the client has left.
        signed = Signed(headers=request.headers, payload=payload)
        reply = await asyncio.shield(asyncio.ensure_future(self._answer(asked, signed)))
        return await _deliver(request, reply)

    async def _answer(self, asked: Request, signed: Signed) -> Reply:
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        reply = Reply(envelope=None, now_ms=self.clock.now_ms())
        limit = self._limits.of(signed.headers)
        if not limit.admit():
            reply.html(403, "access too frequent")
            return reply
        reply.headers |= limit.headers(reply.now_ms)
        if not asked.known:
            reply.html(404, "not found")
            return reply
        action = self._faults.take(asked.method, asked.path, asked.params) or _NO_ACTION
        if action.hold_s:
            await asyncio.sleep(action.hold_s)
        if not action.unseen:
            params = action.rewrite(asked.params)
            if self._trading.knows(asked.method, asked.path):
                reply.envelope, limits = self._trading.answer(asked.method, asked.path, params, signed, action.twist)
                reply.headers |= limits
            else:
                reply.envelope = self._venue.answer(asked.path, params)
        action.spoil(reply)
        return reply


async def _deliver(request: web.Request, reply: Reply) -> web.StreamResponse:
    body = reply.body()
    response = web.Response(status=reply.status, body=body, headers=reply.headers)
    wire = request.transport
    if reply.delay_s:
        await asyncio.sleep(reply.delay_s)
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
