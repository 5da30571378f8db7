"""The exchange's order desk: accepts orders, and matches them after a delay or when the market moves.

An order is acknowledged first and matched a little later, in real time. Before the clock is moved, all waiting orders
are matched at the prices of the time at which they came. When the clock passes a trade, resting limit orders are filled
completely, as makers, if the trade is strictly through their price, and a stop triggers if the trade is at its price or
beyond. When it passes a funding stamp, open positions pay. The mark price is the last price. No position is liquidated.

Any thread may use it, one at a time: `with desk.caught_up():`.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal

from storage.schema import ConfigError
from tasks.sandbox.clock import VirtualClock
from tasks.sandbox.faults import OrderTwist
from tasks.sandbox.listing import Fields, Listing
from tasks.sandbox.matching import USUAL, Matching, Said, twisted
from tasks.sandbox.order_record import VenueOrder
from tasks.sandbox.order_rules import check_stop, new_order
from tasks.sandbox.private_stream import PrivatePush
from tasks.sandbox.replay import decimal_text
from tasks.sandbox.tape import TapeTick
from tasks.sandbox.venue import BAD_PARAMETER, Params, Refusal
from tasks.sandbox.venue_account import MAKER_FEE, AccountSpec, VenueAccount, VenuePosition


class Desk:
    """Orders and accounts of the linear markets.

    `hear` must be called after each move of the clock. An order is matched `ack_to_fill_ms` real milliseconds after its
    acknowledgement, or at 0 before that is sent, and in any case before the clock is moved. `later` calls a function
    after a number of real seconds.

    Raises:
        ConfigError: Two accounts have the same key.
    """

    def __init__(
        self,
        listings: Mapping[tuple[str, str], Listing],
        clock: VirtualClock,
        specs: Sequence[AccountSpec],
        ack_to_fill_ms: float,
        wire: PrivatePush,
        later: Callable[[float, Callable[[], object]], object],
    ) -> None:
        linear = {symbol: listing for (category, symbol), listing in listings.items() if category == "linear"}
        self.market = Matching(linear, clock.now_ms())
        self.wire = wire
        self.accounts = {
            spec.key: VenueAccount(spec=spec, wallet=Decimal(spec.capital), hedge=spec.hedge, marks=self.market.marks)
            for spec in specs
        }
        if len(self.accounts) != len(specs):
            raise ConfigError("each account must have a key of its own, one key is there twice")
        self._clock, self._later, self._ack_to_fill_ms = clock, later, ack_to_fill_ms
        self._lock = threading.RLock()
        self._waiting: dict[str, tuple[VenueAccount, VenueOrder, OrderTwist]] = {}
        self._outdated: dict[str, tuple[int, list[Fields]]] = {}
        for listing in linear.values():
            self.market.mark(listing)

    @contextmanager
    def caught_up(self) -> Iterator[None]:
        """Hold the desk's lock while the block runs, after processing all events up to the clock's time."""
        with self._lock:
            self.hear()
            yield

    def hear(self) -> None:
        """Process all events up to the clock's time."""
        with self._lock:
            now_ms = self._clock.now_ms()
            if not self.accounts or now_ms <= self.market.now_ms:
                return
            for order_id in [name for name, (_, _, twist) in self._waiting.items() if not twist.late_s]:
                self._enter(order_id)
            for time_ms, listing, event in self._events(now_ms):
                self.market.now_ms = time_ms
                self.market.mark(listing)
                for account in self.accounts.values():
                    if isinstance(event, TapeTick):
                        self._meet(account, listing, event)
                    else:
                        self._fund(account, listing, event)
            self.market.now_ms = now_ms

    def snapshot(self, key: str) -> VenueAccount:
        """Return a copy of an account as it is now."""
        with self.caught_up():
            return copy.deepcopy(self.accounts[key])

    def listing(self, params: Params) -> Listing:
        """Return the market that the parameters name.

        Raises:
            Refusal: There is no such market.
        """
        if params.get("category") != "linear":
            raise Refusal(BAD_PARAMETER, "the sandbox takes orders of linear markets alone")
        if (listing := self.market.listings.get(params.get("symbol", ""))) is None:
            raise Refusal(BAD_PARAMETER, f"params error: symbol invalid {params.get('symbol', '')}")
        return listing

    def create(
        self, account: VenueAccount, params: Params, twist: OrderTwist | None = None, *, by_hand: bool = False
    ) -> VenueOrder:
        """Accept an order, which is matched later; an order by hand is matched at once, in hedge mode too.

        Raises:
            Refusal: It breaks a rule.
        """
        listing, twist = self.listing(params), twist or USUAL
        if account.hedge and not by_hand:
            raise Refusal(BAD_PARAMETER, "position idx not match position mode")
        order = new_order(params, account, listing, self.market.quote(listing), self.market.born())
        order.unseen = dict(twist.unseen)
        account.add(order)
        self._waiting[order.order_id] = account, order, twist
        if twist.stream_down:
            self.wire.cut()
        delay_s = self._ack_to_fill_ms / 1000 + twist.late_s
        if by_hand or not delay_s:
            self._enter(order.order_id)
        else:
            self._later(delay_s, lambda: self._enter(order.order_id))
        return order

    def cancel(self, account: VenueAccount, params: Params) -> VenueOrder:
        """Cancel an open order.

        Raises:
            Refusal: There is no open order of that id.
        """
        listing = self.listing(params)
        order = account.find(params.get("orderId", ""), params.get("orderLinkId", ""))
        if order is None or not order.is_open or order.symbol != listing.market.symbol:
            raise Refusal(110001, "order not exists or too late to cancel")
        self.tell(account, self.market.end(account, order, cancel_type="CancelByUser"))
        return order

    def set_stop(self, account: VenueAccount, listing: Listing, stop_loss: Decimal, trigger_by: str) -> None:
        """Set or move the stop-loss of an open position; 0 removes it.

        Raises:
            Refusal: There is no position, nothing changes, or the stop would trigger at once.
        """
        position = account.position(listing.market.symbol)
        if not position.size:
            raise Refusal(BAD_PARAMETER, "can not set tp/sl/ts for zero position")
        if stop_loss == ((position.stop and position.stop.trigger) or 0):
            raise Refusal(34040, "not modified")
        if stop_loss:
            check_stop(stop_loss, listing, self.market.quote(listing), long=position.size > 0)
            said = self.market.place_stop(account, position, stop_loss, trigger_by)
        else:
            stop = position.stop
            said = self.market.end(account, stop, status="Deactivated", cancel_type="CancelByUser") if stop else []
        self.tell(account, [*said, self.market.position_said(account, position)])

    def position_rows(self, account: VenueAccount) -> list[Fields]:
        """Return the position rows of every market as a read shows them; they may lag."""
        polls, rows = self._outdated.get(account.spec.key, (0, []))
        if polls:
            self._outdated[account.spec.key] = polls - 1, rows
            return rows
        return self._position_rows(account)

    def tell(self, account: VenueAccount, said: Said) -> None:
        """Send messages to the clients of an account."""
        for topic, row in said:
            self.wire.tell(account.spec.key, topic, row)

    def _position_rows(self, account: VenueAccount) -> list[Fields]:
        positions = [account.position(symbol) for symbol in self.market.listings]
        rows = [self.market.position_row(account, position) for position in positions]
        if account.hedge:  # the other side of each position is shown too, as flat
            others = [VenuePosition(symbol=position.symbol, leverage=position.leverage) for position in positions]
            flat = [self.market.position_row(account, other) for other in others]
            rows += [row | {"positionIdx": 3 - held["positionIdx"]} for row, held in zip(flat, rows, strict=True)]
        return rows

    def _enter(self, order_id: str) -> None:
        """Match a waiting order, unless that has happened already."""
        with self._lock:
            if order_id not in self._waiting:
                return
            account, order, twist = self._waiting.pop(order_id)
            if polls := twist.unseen.get("positions", 0):
                self._outdated[account.spec.key] = polls, self._position_rows(account)
            if order.is_open:
                self.tell(account, twisted(self.market.match(account, order, twist), twist))
            if twist.stream_down:
                self.wire.restore()
            if twist.then:
                twist.then(self, account.spec.key)

    def _events(self, until_ms: int) -> list[tuple[int, Listing, TapeTick | float]]:
        """Return trades and funding rates up to and including `until_ms`, oldest first; funding before a trade."""
        since_ms = self.market.now_ms
        found: list[tuple[int, Listing, TapeTick | float]] = []
        for listing in self.market.listings.values():
            first_ms = max(since_ms + 1, listing.replay.first_ms)
            found += [(ms, listing, rate) for ms, rate in listing.funding if first_ms <= ms <= until_ms]
            found += [(tick.time_ms, listing, tick) for tick in listing.replay.ticks(since_ms, until_ms)]
        return sorted(found, key=lambda one: (one[0], isinstance(one[2], TapeTick)))

    def _meet(self, account: VenueAccount, listing: Listing, tick: TapeTick) -> None:
        """Match a trade of the market with resting orders and the stop."""
        price, symbol = Decimal(decimal_text(tick.price)), listing.market.symbol
        for order in [one for one in account.open_orders if one.symbol == symbol]:
            if not order.is_open or order.order_id in self._waiting:
                continue
            if order.trigger is not None:
                if order.sign * price >= order.sign * order.trigger:
                    self.tell(account, self.market.trigger(account, order))
            elif order.sign * price < order.sign * order.price:
                self._fill_resting(account, order)

    def _fill_resting(self, account: VenueAccount, order: VenueOrder) -> None:
        closable = account.position(order.symbol).closable(order.side)
        if order.reduce_only and not closable:
            self.tell(account, self.market.end(account, order, cancel_type="CancelByReduceOnly"))
            return
        if order.reduce_only:
            order.qty = order.filled + min(order.leaves, closable)
        said = self.market.trade(account, order, order.price, order.leaves, Decimal(MAKER_FEE), is_maker=True)
        self.tell(account, said + self.market.after(account, order))

    def _fund(self, account: VenueAccount, listing: Listing, rate: float) -> None:
        position = account.positions.get(listing.market.symbol)
        if position and position.size:
            self.tell(account, self.market.fund(account, position, Decimal(decimal_text(rate))))
