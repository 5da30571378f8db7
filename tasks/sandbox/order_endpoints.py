"""Bybit's endpoints of orders, positions and accounts. No HTTP here: a request is a path and parameters.

Parameters are text, as in a query, including a body's true and false. Lists are newest first, in pages with a cursor.
Documented at https://bybit-exchange.github.io/docs/v5/order/create-order and the pages next to it, and at
.../docs/v5/position and .../docs/v5/account.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from storage.foreign import parse_json
from storage.schema import DAY_MS
from tasks.sandbox.desk import Desk
from tasks.sandbox.faults import CREATE_PATH, OrderTwist
from tasks.sandbox.listing import Fields
from tasks.sandbox.order_record import VenueOrder
from tasks.sandbox.order_rules import leverage_of, number
from tasks.sandbox.signatures import Door, Signed
from tasks.sandbox.venue import BAD_PARAMETER, Params, Refusal, Result, envelope, integer, row_limit
from tasks.sandbox.venue_account import MAKER_FEE, VenueAccount

_WEEK_MS = 7 * DAY_MS
_NUMBERS = ("positionIdx", "triggerDirection")  # in a body; every other number is text there


@dataclass(frozen=True)
class _Endpoint:
    ask: Callable[[VenueAccount, Params], Result]
    limit: int  # requests of a key in a second


class Trading:
    """The endpoints that need an API key. `told_ms` returns the time that the exchange reports."""

    def __init__(self, desk: Desk, door: Door, told_ms: Callable[[], int]) -> None:
        self._desk, self._door, self._told_ms = desk, door, told_ms
        self._endpoints = {
            ("POST", CREATE_PATH): _Endpoint(self._create, 10),
            ("POST", "/v5/order/cancel"): _Endpoint(self._cancel, 10),
            ("POST", "/v5/order/cancel-all"): _Endpoint(self._cancel_all, 10),
            ("POST", "/v5/position/set-leverage"): _Endpoint(self._set_leverage, 10),
            ("POST", "/v5/position/trading-stop"): _Endpoint(self._trading_stop, 10),
            ("GET", "/v5/order/realtime"): _Endpoint(self._realtime, 50),
            ("GET", "/v5/order/history"): _Endpoint(self._history, 50),
            ("GET", "/v5/execution/list"): _Endpoint(self._executions, 50),
            ("GET", "/v5/position/list"): _Endpoint(self._positions, 50),
            ("GET", "/v5/account/wallet-balance"): _Endpoint(self._wallet, 50),
            ("GET", "/v5/account/info"): _Endpoint(self._info, 50),
            ("GET", "/v5/account/fee-rate"): _Endpoint(self._fee_rate, 5),
            ("GET", "/v5/user/query-api"): _Endpoint(self._query_api, 10),
        }

    def knows(self, method: str, path: str) -> bool:
        """Return whether the endpoint exists; there are none without accounts."""
        return bool(self._desk.accounts) and (method, path) in self._endpoints

    def answer(
        self, method: str, path: str, params: Params, signed: Signed, twist: OrderTwist | None = None
    ) -> tuple[Result, dict[str, str]]:
        """Return the envelope that answers a request, and its rate-limit headers.

        The path is one of an existing endpoint; a twist is a fault in the handling of the order that the request
        places.
        """
        headers: dict[str, str] = {}

        def ask() -> Result:
            key = self._door.identify(signed)
            endpoint = self._endpoints[method, path]
            served, limits = self._door.count(key, path, endpoint.limit, self._told_ms())
            headers.update(limits)
            if not served:
                raise Refusal(10006, "Too many visits. Exceeded the API Rate Limit.")
            if method == "POST":
                self._door.check_permission(key)
            with self._desk.caught_up():
                answer = partial(self._create, twist=twist) if path == CREATE_PATH else endpoint.ask
                return answer(self._desk.accounts[key], params)

        return envelope(self._told_ms(), ask), headers

    def _create(self, account: VenueAccount, params: Params, twist: OrderTwist | None = None) -> Result:
        return _named(self._desk.create(account, params, twist))

    def _cancel(self, account: VenueAccount, params: Params) -> Result:
        return _named(self._desk.cancel(account, params))

    def _cancel_all(self, account: VenueAccount, params: Params) -> Result:
        orders = self._some(account.open_orders, params)
        for order in orders:
            self._desk.cancel(account, {"category": "linear", "symbol": order.symbol, "orderId": order.order_id})
        return {"list": [_named(order) for order in orders], "success": "1"}

    def _set_leverage(self, account: VenueAccount, params: Params) -> Result:
        position, leverage = account.position(self._desk.listing(params).market.symbol), leverage_of(params)
        if leverage == position.leverage:
            raise Refusal(110043, "leverage not modified")
        before, position.leverage = position.leverage, leverage
        if account.wallet + account.unrealised < account.initial_margin:
            position.leverage = before
            raise Refusal(110007, "ab not enough for new leverage")
        self._desk.tell(account, [self._desk.market.position_said(account, position)])
        return {}

    def _trading_stop(self, account: VenueAccount, params: Params) -> Result:
        if asked := [name for name in ("takeProfit", "trailingStop") if params.get(name, "0") not in ("", "0")]:
            raise Refusal(BAD_PARAMETER, f"the sandbox does not serve {asked[0]}")
        trigger_by = params.get("slTriggerBy") or "LastPrice"
        self._desk.set_stop(account, self._desk.listing(params), number(params, "stopLoss"), trigger_by)
        return {}

    def _realtime(self, account: VenueAccount, params: Params) -> Result:
        found = self._some(account.orders.values(), params)
        if not (params.get("orderId") or params.get("orderLinkId")):
            open_only = integer(params, "openOnly") or 0
            found = [order for order in found if order.is_open == (open_only == 0)]
        rows = [(order.seq, order.row()) for order in found if not order.hidden_from("realtime")]
        return _page(rows, params, default=20, most=50)

    def _history(self, account: VenueAccount, params: Params) -> Result:
        since_ms, until_ms = self._window(params)
        found = self._some(account.orders.values(), params, needs_market=False)
        found = [order for order in found if not order.is_open and since_ms <= order.created_ms <= until_ms]
        rows = [(order.seq, order.row()) for order in found if not order.hidden_from("history")]
        return _page(rows, params, default=20, most=50)

    def _executions(self, account: VenueAccount, params: Params) -> Result:
        since_ms, until_ms = self._window(params)
        symbol, kind = params.get("symbol"), params.get("execType")
        order_id, link_id = params.get("orderId"), params.get("orderLinkId")
        found = [
            one
            for one in account.executions
            if since_ms <= one.time_ms <= until_ms
            and symbol in (None, one.symbol)
            and kind in (None, one.exec_type)
            and (one.order_id == order_id if order_id else link_id in (None, one.link_id))
        ]
        made = {one.order_id: one.order for one in found if one.order}
        hidden = {order_id for order_id, order in made.items() if order.hidden_from("executions")}
        rows = [(one.seq, one.row()) for one in found if one.order_id not in hidden]
        return _page(rows, params, default=50, most=100)

    def _positions(self, account: VenueAccount, params: Params) -> Result:
        symbol, coin = params.get("symbol"), params.get("settleCoin")
        if symbol:
            self._desk.listing(params)
        elif not coin or params.get("category") != "linear":
            raise Refusal(BAD_PARAMETER, "symbol or settleCoin of linear must be given")
        rows = [
            row
            for row in self._desk.position_rows(account)
            if (row["symbol"] == symbol if symbol else row["size"] != "0" and row["symbol"].endswith(coin))
        ]
        return _page(list(enumerate(rows, 1)), params, default=20, most=200)

    def _wallet(self, account: VenueAccount, params: Params) -> Result:
        if params.get("accountType") != "UNIFIED":
            raise Refusal(BAD_PARAMETER, "accountType only support UNIFIED.")
        return {"list": [account.wallet_row()]}

    def _info(self, account: VenueAccount, params: Params) -> Result:
        spec = account.spec
        return {"unifiedMarginStatus": spec.unified_margin_status, "marginMode": spec.margin_mode}

    def _fee_rate(self, account: VenueAccount, params: Params) -> Result:
        if not account.spec.tells_fees:
            raise Refusal(BAD_PARAMETER, "Request parameter error.")
        symbol = self._desk.listing(params).market.symbol
        return {"list": [{"symbol": symbol, "takerFeeRate": account.spec.taker_fee, "makerFeeRate": MAKER_FEE}]}

    def _query_api(self, account: VenueAccount, params: Params) -> Result:
        spec = account.spec
        withdraw = ["Withdraw"] if spec.may_withdraw else []
        return {
            "apiKey": spec.key,
            "secret": "",
            "readOnly": 0 if spec.may_trade else 1,
            "permissions": {
                "ContractTrade": ["Order", "Position"] if spec.may_trade else [],
                "Wallet": ["AccountTransfer", *withdraw],
            },
            "unified": 0,
            "uta": 1 if spec.unified_margin_status > 1 else 0,
            "userID": spec.user_id,
        }

    def _some(self, orders: Iterable[VenueOrder], params: Params, *, needs_market: bool = True) -> list[VenueOrder]:
        """Return the orders that the parameters select by id, symbol or coin."""
        if params.get("category") != "linear":
            raise Refusal(BAD_PARAMETER, "the sandbox takes orders of linear markets alone")
        symbol, base, settle = (params.get(name) for name in ("symbol", "baseCoin", "settleCoin"))
        if needs_market and not (symbol or base or settle):
            raise Refusal(BAD_PARAMETER, "symbol, baseCoin or settleCoin must be given")
        order_id, link_id, kind = params.get("orderId"), params.get("orderLinkId"), params.get("orderFilter")
        return [
            order
            for order in orders
            if symbol in (None, order.symbol)
            and order.symbol.startswith(base or "")
            and order.symbol.endswith(settle or "")
            and kind in (None, "Order" if order.trigger is None else "StopOrder")
            and (order.order_id == order_id if order_id else link_id in (None, order.link_id))
        ]

    def _window(self, params: Params) -> tuple[int, int]:
        """Return the requested time range, at most 7 days; by default the last 7 days."""
        since_ms, until_ms = integer(params, "startTime"), integer(params, "endTime")
        if since_ms is None:
            until_ms = self._desk.market.now_ms if until_ms is None else until_ms
            since_ms = until_ms - _WEEK_MS
        elif until_ms is None:
            until_ms = since_ms + _WEEK_MS
        if not 0 <= until_ms - since_ms <= _WEEK_MS:
            raise Refusal(BAD_PARAMETER, "startTime and endTime must be 7 days apart at most")
        return since_ms, until_ms


def body_params(body: bytes) -> dict[str, str]:
    """Return a JSON body as text parameters; empty if it is not an object, and without numbers given for strings."""
    try:
        given: Any = parse_json(body)
    except ValueError:
        given = {}
    if not isinstance(given, dict):
        return {}
    return {name: _body_text(name, value) for name, value in given.items()}


def _body_text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"not a string: {value}" if is_number and name not in _NUMBERS else json.dumps(value)


def _named(order: VenueOrder) -> Result:
    return {"orderId": order.order_id, "orderLinkId": order.link_id}


def _page(rows: list[tuple[int, Fields]], params: Params, default: int, most: int) -> Result:
    """Return the newest rows before the cursor, and the cursor of the next page, which the client sends back."""
    limit, cursor = row_limit(params, default, most), params.get("cursor", "")
    before = None
    if cursor:
        head, _, tail = cursor.partition(":")
        if head != "before" or not tail.isdecimal():
            raise Refusal(BAD_PARAMETER, "cursor is invalid")
        before = int(tail)
    left = [(seq, row) for seq, row in sorted(rows, key=lambda one: -one[0]) if before is None or seq < before]
    more = quote(f"before:{left[limit - 1][0]}") if len(left) > limit else ""
    return {"category": "linear", "nextPageCursor": more, "list": [row for _, row in left[:limit]]}
