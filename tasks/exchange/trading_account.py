"""A trading account on Bybit over REST: queries are repeated on failure, orders are never repeated.

Only USDT perpetuals in one-way mode. Queries go through `RestClient` and its retries. Orders use a separate client that
sends one request and returns what the answer proves: the order was accepted, it was refused, or neither is known.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any, Self, TypeVar

from storage.api_keys import ApiKey
from storage.schema import DAY_MS, AuthError, Banned, ClockError, Instrument, Market, Rejected, TemporaryError
from tasks.exchange.account_answers import KeyFacts, Position, read_key_facts, read_number, read_positions, read_rows
from tasks.exchange.bans import BAN_S, Ban
from tasks.exchange.pacing import CircuitBreaker, Pace, RetryPolicy
from tasks.exchange.private_events import ExecutionNews, OrderNews, read_execution, read_order
from tasks.exchange.reference import find_instrument, read_time
from tasks.exchange.rest_client import RestClient
from tasks.exchange.transport import HOST_NAMES, RECV_WINDOW_MS, Answer, Exchange, ask, new_client, refused
from tasks.execution.orders import Acked, Lost, Order, Refused

T = TypeVar("T")

ORDERS_PER_S = 5.0
"""Orders per second, half of Bybit's limit for one account."""

_QUESTION = RetryPolicy(attempts=3, budget_s=6.0, first_wait_s=0.25, max_wait_s=2.0, bans=0)
_TURN_S = 3.0  # after which a session's question is repeated no more: less than a time-out, and it is asked again soon
_MAY_HAVE_LANDED = frozenset({10014, 110072, 110079})  # a duplicate request, or link id; the order is being processed
_WEEK_MS = 7 * DAY_MS  # longest range of one query of executions
_MOST_PAGES = 1_000  # of 100 executions, in one week
_MOST_BARREN = 3  # pages in a row that tell of nothing new
_KEPT_MS = 730 * DAY_MS  # for which Bybit keeps executions; on demo for a week
_HTTP = 1_000  # lower retCodes are named after statuses of HTTP: what was on the way may have landed
_UNCHANGED = frozenset({110043, 110025, 34040})


@dataclass(frozen=True, kw_only=True)
class Protection:
    """Slippage limit and stop-loss of a market order.

    Attributes:
        slippage_percent: Largest distance of a fill from the price at the order's arrival, percent; 0.01 to 10.
        stop: Price of an emergency stop-loss that is attached to the position; None for none.
    """

    slippage_percent: Decimal = Decimal("0.5")
    stop: Decimal | None = None


class TradingAccount:
    """Client of one account, for one thread, open as long as the `with` block lasts.

    Args:
        key: API key of the account.
        url: Address of the sandbox; None for Bybit.
        timeout_s: Longest wait for a connection and for the next bytes of an answer.
        recv_window_ms: The exchange refuses an order that arrives later than this after it was signed.
        ban_s: Pause of all requests after HTTP 403, seconds; Bybit requires 10 minutes.
        ban: The shared ban of this address; None for one that is not shared.
    """

    def __init__(
        self,
        exchange: Exchange,
        key: ApiKey,
        *,
        url: str | None = None,
        timeout_s: tuple[float, float] = (3.05, 5.0),
        recv_window_ms: int = RECV_WINDOW_MS,
        ban_s: float = BAN_S,
        ban: Ban | None = None,
    ) -> None:
        self.exchange, self.recv_window_ms, self.ban_s = exchange, recv_window_ms, ban_s
        self.ban = ban or Ban()  # shared by orders and queries
        self._retry = replace(_QUESTION, ban_wait_s=ban_s)
        self._questions = RestClient(
            exchange=exchange,
            url=url,
            requests_per_s=20.0,
            burst=10,
            retry=self._retry,
            timeout_s=timeout_s,
            key=key,
            ban=self.ban,
        )
        self._orders = new_client(exchange, url, timeout_s, key, recv_window_ms)
        self._pace = Pace(ORDERS_PER_S, int(ORDERS_PER_S), time.monotonic)
        self._asking: CircuitBreaker | None = None
        self._setting: CircuitBreaker | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        self._questions.close()
        self._questions.disconnect()
        self._orders.client.close()

    def take_turns(self) -> None:
        """Let markets ask one after the other from now on while nobody answers; orders are sent all the same.

        So the thread of a session that runs does not wait for each of its markets.
        """
        # Two, so that what is held can be seen though nothing can be set, and set though nobody tells.
        self._asking, self._setting = CircuitBreaker(time.monotonic), CircuitBreaker(time.monotonic)
        self._retry = replace(self._retry, budget_s=_TURN_S)

    # --- orders: one request each, never repeated ---------------------------------------------------------------------

    def place(
        self, market: Market, order: Order, protection: Protection, unless: Callable[[], str] = lambda: ""
    ) -> Acked | Refused | Lost:
        """Send an order that is stored as SUBMITTING, and return what the answer proves.

        Args:
            market: Its market.
            order: The order.
            protection: Slippage limit and stop-loss; the stop is left out of an order that only reduces.
            unless: Called just before sending; returns the reason why the order must not be sent any more, or "".
        """
        leg = order.leg
        params: dict[str, Any] = {
            "category": market.category,
            "symbol": market.symbol,
            "side": leg.side,
            "orderType": "Market",
            "qty": format(leg.quantity, "f"),
            "reduceOnly": leg.reduces,
            "positionIdx": 0,
            "orderLinkId": order.link_id,
            "slippageToleranceType": "Percent",
            "slippageTolerance": format(protection.slippage_percent, "f"),
        }
        if protection.stop is not None and not leg.reduces:
            params |= _stop_at(protection.stop)
        try:
            self._take_turn()
        except Banned as err:
            return Refused(str(err))  # nothing has left this machine
        if why := unless():  # recv_window counts from here on
            return Refused(f"{why} before it was sent; nothing has left this machine")
        try:
            answer = self._send_now("place_order", params)
        except Rejected as err:
            proven = err.code >= _HTTP and err.code not in _MAY_HAVE_LANDED
            return Refused(str(err)) if proven else Lost(str(err))
        except AuthError as err:
            return Refused(str(err), is_final=True)
        except ClockError as err:  # signed too long ago: the next one may arrive in time
            return Refused(str(err))
        except TemporaryError as err:
            return Lost(str(err))
        return Acked(str(answer.result.get("orderId") or ""))

    def cancel_all(self, market: Market, *, stops: bool = False) -> None:
        """Cancel every open order of a market; with `stops` also the stop-loss orders of a position.

        Raises:
            PipelineError: The exchange refused, or it is unknown whether the orders are cancelled.
        """
        kinds = {} if stops else {"orderFilter": "Order"}
        self._send("cancel_all_orders", {"category": market.category, "symbol": market.symbol} | kinds)

    def instrument(self, market: Market) -> Instrument:
        """Return the trading rules of a market.

        Raises:
            Rejected: There is no such market.
        """
        return find_instrument(self._questions, market)

    def set_leverage(self, market: Market, leverage: Decimal = Decimal(1)) -> None:
        """Set the leverage of a market; no error if it is set already."""
        text = format(leverage, "f")
        params = {
            "category": market.category, "symbol": market.symbol, "buyLeverage": text, "sellLeverage": text,
        }  # fmt: skip
        try:
            self._send("set_leverage", params)
        except Rejected as err:
            if err.code not in _UNCHANGED:
                raise refused(err, self.exchange, f"a leverage of {text} for {market.symbol}") from err

    def set_stop(self, market: Market, stop: Decimal) -> bool:
        """Set the stop-loss of a position; return False if the same stop was set already.

        Raises:
            Rejected: There is no position, or the price is beyond the stop already.
            TemporaryError: It is unknown whether the stop is set.
        """
        params = {"category": market.category, "symbol": market.symbol, "positionIdx": 0}
        try:
            self._send("set_trading_stop", params | _stop_at(stop))
        except Rejected as err:
            if err.code not in _UNCHANGED:
                raise
            return False
        return True

    def _send(self, method: str, params: Mapping[str, Any]) -> Answer:
        def send() -> Answer:
            self._take_turn()
            return self._send_now(method, params)

        return self._setting.ask((method, params["symbol"]), send) if self._setting else send()

    def _take_turn(self) -> None:
        self.ban.check(HOST_NAMES[self.exchange])
        self._pace.wait(self._closed.wait)

    def _send_now(self, method: str, params: Mapping[str, Any]) -> Answer:
        try:
            return ask(self._orders, method, params)
        except Banned:
            self.ban.begin(self.ban_s)
            raise

    # --- questions ----------------------------------------------------------------------------------------------------

    def look_up(self, market: Market, link_id: str) -> list[OrderNews | ExecutionNews]:
        """Return the state of one order, then its executions; empty if the exchange has no record of it.

        Open orders, order history and executions are all queried: in the first seconds an order may be in only one of
        them.
        """
        named = {"category": market.category, "symbol": market.symbol, "orderLinkId": link_id}
        told = self._rows(f"order {link_id}", "get_open_orders", named, read_order)
        told = told or self._rows(f"order {link_id}", "get_order_history", named, read_order)
        found: list[OrderNews | ExecutionNews] = [*told, *self._executions(named)]
        return [one for one in found if one.link_id == link_id]

    def executions(self, market: Market, since_ms: int) -> tuple[list[ExecutionNews], int]:
        """Return the executions since `since_ms`, oldest first, each once; and the time up to which they are complete.

        Both times are UTC milliseconds. Bybit returns the seven days after a given start, so the range is queried week
        by week. Executions that Bybit has deleted are missing without notice: on demo all that are older than a week.

        Raises:
            Rejected: There are more than 100,000 in one week.
        """
        named = {"category": market.category, "symbol": market.symbol}
        now_ms = self._ask("the time", "get_server_time", {}, read_time)
        first_ms = max(since_ms, now_ms - _KEPT_MS)
        weeks = range(first_ms, max(now_ms, first_ms + 1), _WEEK_MS)
        told = (self._executions(named | {"startTime": start_ms}) for start_ms in weeks)
        found = {one.fill.exec_id: one for week in told for one in week}
        return sorted(found.values(), key=lambda one: one.time_ms), now_ms

    def _executions(self, named: dict[str, Any]) -> list[ExecutionNews]:
        def page(answer: Answer) -> tuple[dict[str, ExecutionNews], str]:
            rows = {one.fill.exec_id: one for one in read_rows(answer, read_execution, named["symbol"])}
            return rows, str(answer.result.get("nextPageCursor") or "")

        found, cursor, known, barren = dict[str, ExecutionNews](), dict[str, str](), set[str](), 0
        for _ in range(_MOST_PAGES):
            params = named | {"limit": 100} | cursor
            rows, after = self._ask(f"executions of {named['symbol']}", "get_executions", params, page)
            # What is booked meanwhile may move a page's worth of known rows to the next one.
            barren = barren + 1 if rows.keys() <= found.keys() else 0
            found |= rows
            if not after or (barren and after in known) or barren == _MOST_BARREN:
                return list(found.values())
            known.add(after)
            cursor = {"cursor": after}
        raise Rejected(f"{named['symbol']} has more than {len(found):,} executions in a week", 0)

    def open_orders(self, market: Market) -> list[OrderNews]:
        """Return the open orders of a market."""
        params = {"category": market.category, "symbol": market.symbol, "openOnly": 0, "limit": 50}
        return self._rows(f"open orders of {market.symbol}", "get_open_orders", params, read_order)

    def position(self, market: Market) -> Position:
        """Return the account's position in a market.

        Raises:
            Rejected: The account is in hedge mode.
            TemporaryError: Nobody can tell: an answer without a row or a size says nothing, above all not that it is
                flat.
        """
        params = {"category": market.category, "symbol": market.symbol}
        read = partial(read_positions, symbol=market.symbol)
        rows = self._ask(f"the position in {market.symbol}", "get_positions", params, read)
        if len(rows) > 1 or any(index for index, _ in rows):
            raise Rejected(f"the account is in hedge mode for {market.symbol}; switch it to one-way mode", 0)
        return rows[0][1]

    def available(self) -> Decimal | None:
        """Return the balance available for new positions, Bybit's totalAvailableBalance; None if not reported."""
        read = partial(read_number, name="totalAvailableBalance")
        return self._ask("the wallet", "get_wallet_balance", {"accountType": "UNIFIED"}, read)

    def taker_fee(self, market: Market) -> Decimal | None:
        """Return the taker fee, share of notional; None if the venue does not report it, as on demo."""
        params = {"category": market.category, "symbol": market.symbol}
        read = partial(read_number, name="takerFeeRate", symbol=market.symbol)
        try:
            return self._ask("the fee", "get_fee_rates", params, read)
        except Rejected:
            return None

    def key_facts(self) -> KeyFacts:
        """Return the permissions and the account of the key.

        Raises:
            TemporaryError: The answer does not say what the key may do.
        """
        return self._ask("the key's permissions", "get_api_key_information", {}, read_key_facts)

    def margin_mode(self) -> str:
        """Return Bybit's marginMode; REGULAR_MARGIN means cross margin, and empty that it is not told."""
        return self._ask("the account", "get_account_info", {}, lambda told: str(told.result.get("marginMode") or ""))

    def _rows(
        self, what: str, method: str, params: Mapping[str, Any], read: Callable[[Mapping[str, Any], int], T]
    ) -> list[T]:
        return self._ask(what, method, params, partial(read_rows, read=read, symbol=params.get("symbol")))

    def _ask(self, what: str, method: str, params: Mapping[str, Any], read: Callable[[Answer], T]) -> T:
        ask = partial(self._questions.ask, what, method, params, read)
        if self._asking is None:
            return ask()
        # What is asked to see whether anybody answers again is asked once.
        self._questions.retry = replace(self._retry, attempts=1) if self._asking.why else self._retry
        return self._asking.ask((method, params.get("symbol")), ask)


def _stop_at(price: Decimal) -> dict[str, str]:
    return {"stopLoss": format(price, "f"), "slTriggerBy": "MarkPrice", "tpslMode": "Full"}
