"""Rules that an order must satisfy to be accepted. Only for linear markets in one-way mode.

Documented at https://bybit-exchange.github.io/docs/v5/order/create-order and .../docs/v5/error. The sandbox refuses
requests whose handling is not documented, so that a client does not come to depend on undocumented behaviour.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, cast

from tasks.sandbox.listing import Listing
from tasks.sandbox.order_record import ZERO, VenueOrder, money
from tasks.sandbox.tape import Side
from tasks.sandbox.venue import BAD_PARAMETER, MAX_LEVERAGE, MAX_LIMIT_QTY, Params, Refusal
from tasks.sandbox.venue_account import VenueAccount

_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")
_LINK_ID = re.compile(r"[A-Za-z0-9_-]{1,36}")
_FORCES = ("GTC", "IOC")
_NOT_SERVED = ("takeProfit", "triggerPrice", "orderFilter", "smpType", "orderIv", "tpOrderType", "slLimitPrice", "mmp")
# Largest distance of an order's worst price from the mark price, share of it. A limit price beyond it is silently moved
# to its edge, as Bybit does by default.
_PRICE_BAND = Decimal("0.05")
_SLIPPAGE = Decimal("0.01"), Decimal(10)  # percent


@dataclass(frozen=True, kw_only=True)
class VenueQuote:
    """The market when an order arrives: best bid and ask, last price; the mark price equals the last price."""

    bid: Decimal
    ask: Decimal
    last: Decimal

    def touch(self, side: Side) -> Decimal:
        """Return the best price that a taker of a side gets."""
        return self.ask if side == "Buy" else self.bid


def number(params: Params, name: str) -> Decimal:
    """Return a decimal parameter; Bybit accepts neither exponent nor sign."""
    given = params.get(name, "")
    if not _NUMBER.fullmatch(given):
        raise Refusal(BAD_PARAMETER, f"params error: {name} invalid")
    return Decimal(given)


def flag(params: Params, name: str) -> bool:
    """Return a boolean parameter; False if it is absent."""
    given = params.get(name, "false")
    if given not in ("true", "false"):
        raise Refusal(BAD_PARAMETER, f"params error: {name} invalid")
    return given == "true"


def leverage_of(params: Params) -> Decimal:
    """Return the requested leverage, which must be the same for both sides in one-way mode."""
    buy, sell = number(params, "buyLeverage"), number(params, "sellLeverage")
    if buy != sell:
        raise Refusal(BAD_PARAMETER, "buy leverage not equal sell leverage")
    if not 1 <= buy <= Decimal(MAX_LEVERAGE):
        raise Refusal(BAD_PARAMETER, "leverage invalid")
    return buy


def new_order(
    params: Params,
    account: VenueAccount,
    listing: Listing,
    quote: VenueQuote,
    born: Mapping[str, Any],
) -> VenueOrder:
    """Return the order that a request's body describes; `born` is the order's id, sequence number and times.

    Raises:
        Refusal: The exchange does not accept it.
    """
    side, kind, force = _kind(params, listing)
    link_id = _link_id(params, account)
    if params.get("positionIdx", "0") != "0":
        raise Refusal(BAD_PARAMETER, "position idx not match position mode")
    reduce_only, position = flag(params, "reduceOnly"), account.position(listing.market.symbol)
    stop_loss = number(params, "stopLoss") if params.get("stopLoss", "0") not in ("", "0") else None
    if reduce_only and stop_loss is not None:
        raise Refusal(BAD_PARAMETER, "reduceOnly order can not set TP/SL")
    qty = _quantity(params, listing, kind)
    price = _price(params, listing, quote, side, kind)
    if reduce_only:
        closable = position.closable(side)
        if not closable:
            raise Refusal(110017, "current position is zero, cannot fix reduce-only order qty")
        qty = min(qty, closable)
    elif qty * (price if kind == "Limit" else quote.last) < Decimal(listing.rules.min_notional):
        raise Refusal(110094, f"Order does not meet minimum order value {listing.rules.min_notional}USDT")
    if stop_loss is not None:
        check_stop(stop_loss, listing, quote, long=side == "Buy")
    order = VenueOrder(
        link_id=link_id,
        symbol=position.symbol,
        side=side,
        order_type=kind,
        time_in_force=force,
        qty=qty,
        price=price,
        reduce_only=reduce_only,
        stop_loss=stop_loss,
        trigger_by=params.get("slTriggerBy") or "LastPrice",
        slippage=(params.get("slippageToleranceType", "UNKNOWN"), params.get("slippageTolerance", "0")),
        last_price=quote.last,
        **born,
    )
    if not reduce_only:
        _check_margin(order, account, quote)
    return order


def worst_price(side: Side, listing: Listing, quote: VenueQuote) -> Decimal:
    """Return the edge of the price band, beyond which no order trades."""
    tick, sign = Decimal(listing.rules.tick_size), 1 if side == "Buy" else -1
    ticks = quote.last * (1 + sign * _PRICE_BAND) / tick
    return ticks.to_integral_value(ROUND_FLOOR if side == "Buy" else ROUND_CEILING) * tick


def check_tick(price: Decimal, listing: Listing) -> None:
    """Refuse a price between two ticks."""
    if not price or price % Decimal(listing.rules.tick_size):
        raise Refusal(BAD_PARAMETER, "Price invalid")


def check_stop(stop_loss: Decimal, listing: Listing, quote: VenueQuote, *, long: bool) -> None:
    """Refuse a stop that would trigger at once."""
    check_tick(stop_loss, listing)
    if long and stop_loss >= quote.last:
        raise Refusal(BAD_PARAMETER, f"StopLoss:{stop_loss} set for Buy position should lower than base_price")
    if not long and stop_loss <= quote.last:
        raise Refusal(BAD_PARAMETER, f"StopLoss:{stop_loss} set for Sell position should greater than base_price")


def _kind(params: Params, listing: Listing) -> tuple[Side, str, str]:
    side, kind = params.get("side"), params.get("orderType")
    if side not in ("Buy", "Sell"):
        raise Refusal(BAD_PARAMETER, "Side invalid")
    if kind not in ("Market", "Limit"):
        raise Refusal(BAD_PARAMETER, "OrderType invalid")
    force = params.get("timeInForce") or "GTC"
    if force not in _FORCES:
        raise Refusal(BAD_PARAMETER, "timeInForce invalid")
    if asked := [name for name in _NOT_SERVED if params.get(name) not in (None, "")]:
        raise Refusal(BAD_PARAMETER, f"the sandbox does not serve {asked[0]}")
    if params.get("tpslMode") not in (None, "", "Full"):
        raise Refusal(BAD_PARAMETER, "the sandbox serves stops of whole positions alone")
    if params.get("slTriggerBy") not in (None, "", "LastPrice", "MarkPrice"):  # in a replay mark equals last price
        raise Refusal(BAD_PARAMETER, "slTriggerBy invalid")
    if listing.rules.status != "Trading":
        raise Refusal(110074, "contract not live")
    return cast(Side, side), kind, "IOC" if kind == "Market" else force


def _link_id(params: Params, account: VenueAccount) -> str:
    link_id = params.get("orderLinkId", "")
    if link_id and not _LINK_ID.fullmatch(link_id):
        raise Refusal(BAD_PARAMETER, "orderLinkId must have 36 characters at most, of A-Z a-z 0-9 - _")
    if account.find(link_id=link_id):
        raise Refusal(110072, "OrderLinkedID is duplicate")
    return link_id


def _quantity(params: Params, listing: Listing, kind: str) -> Decimal:
    qty = number(params, "qty")
    if qty < Decimal(listing.rules.min_qty) or qty % Decimal(listing.rules.qty_step):
        raise Refusal(BAD_PARAMETER, "Qty invalid")
    if qty > Decimal(listing.rules.max_market_qty if kind == "Market" else MAX_LIMIT_QTY):
        raise Refusal(BAD_PARAMETER, "The number of contracts exceeds maximum limit allowed: too large")
    return qty


def _price(params: Params, listing: Listing, quote: VenueQuote, side: Side, kind: str) -> Decimal:
    """Return the worst price of the order."""
    tick, sign = Decimal(listing.rules.tick_size), 1 if side == "Buy" else -1
    edge = worst_price(side, listing, quote)
    if kind == "Limit":
        price = number(params, "price")
        check_tick(price, listing)
    else:
        price = quote.touch(side) + sign * _slippage(params, quote.touch(side), tick)
    return min(price, edge) if sign > 0 else max(price, edge)


def _slippage(params: Params, touch: Decimal, tick: Decimal) -> Decimal:
    """Return the largest distance from the best price at which a market order may trade, USDT."""
    given = params.get("slippageToleranceType")
    if given is None:
        return touch  # as far as the band
    tolerance = number(params, "slippageTolerance")
    if given != "Percent" or not _SLIPPAGE[0] <= tolerance <= _SLIPPAGE[1]:
        raise Refusal(BAD_PARAMETER, "slippageTolerance invalid")
    return touch * tolerance / 100 // tick * tick


def _check_margin(order: VenueOrder, account: VenueAccount, quote: VenueQuote) -> None:
    position = account.position(order.symbol)
    opening = max(order.qty - position.closable(order.side), ZERO)
    price = order.price if order.order_type == "Limit" else quote.touch(order.side)
    cost = opening * price * (1 / position.leverage + Decimal(account.spec.taker_fee))
    if money(cost) > account.available:
        raise Refusal(110007, "ab not enough for new order")
