"""What one market holds: it has its stop at the exchange, and of a halted market it is closed in the end."""

import math
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

from storage.schema import Banned, ClockError, PipelineError, StoreError, TemporaryError
from storage.settings import pasteable
from tasks.exchange.boot_clock import boottime_s
from tasks.execution.orders import ZERO
from tasks.live.halting import Closing
from tasks.live.order_desk import OrderDesk
from tasks.live.protective_stop import ProtectiveStop

_TELL_AGAIN_S = 3_600.0  # of what only a person can close


class HeldPosition:
    """The position of one market, by what the exchange says.

    Args:
        desk: Its orders.
        stop: Where its stop lies.
        least: Coins of an order, at least: less is flat.
        alert: Tells somebody, one line each.
    """

    def __init__(self, desk: OrderDesk, stop: ProtectiveStop, least: Decimal, alert: Callable[[str], object]) -> None:
        self._desk, self._stop, self._least, self._alert = desk, stop, least, alert
        self._closing: Closing | None = None
        self._doubt_is_told = self._still_open_is_told = False
        self._told_s = -math.inf  # when somebody was told that it can't be closed from here

    @property
    def is_open(self) -> bool:
        """Whether anything is held at the exchange, or may come to be."""
        there = self._desk.there if self._desk.trouble else ZERO
        if there is None:
            return True
        size = max(abs(self._desk.held), abs(there))
        return size >= self._least or bool(self._desk.unsettled) or self._desk.is_busy

    def keep_stop(self, at_ms: int) -> str:
        """Set the stop again of what is held without one, and return why it gets none; empty where all is well.

        `at_ms` is of the last bar, for a note.
        """
        without_stop, self._desk.without_stop = self._desk.without_stop, None
        self._doubt_is_told &= self._desk.bare_s > 0.0
        if without_stop is None:
            return ""
        said = f"{without_stop.size} had no stop at the exchange"
        try:
            if not without_stop.entry:
                raise TemporaryError("nobody says at what it was opened")
            stop = self._stop.of_held(without_stop, self._desk.stop_share)
            if stop is None:
                return f"{said}, and can have none: {self._stop.impossible(without_stop.entry)}"
            if self._desk.trading.set_stop(self._desk.market, stop):
                self._desk.note(at_ms, "bare", f"{said}; it is set again, at {stop}")
                self._alert(f"{said}; it is set again, at {stop}")
        except (TemporaryError, ClockError) as err:  # it is compared again soon
            if self._desk.bare_s > self._desk.timing.unknown_s:
                return f"{said}, and got none for {self._desk.timing.unknown_s:g} s ({err})"
            if not self._doubt_is_told:
                self._alert(f"{said}, and whether it has one now is not known ({err}); that is asked again")
            self._doubt_is_told = True
        except StoreError:
            raise
        except PipelineError as err:
            return f"{said}, and gets none at {stop} ({err})"
        return ""

    def wind_down(self, is_due: bool, at_ms: int) -> bool:
        """Go on with what a halted market still holds: it waits behind its stop, and is then closed.

        It is closed by what the exchange says is held, as `flows.halt` does it.

        Args:
            is_due: Whether it has waited long enough.
            at_ms: As of `keep_stop`.

        Returns:
            Whether there is more to do.
        """
        self._desk.give_up()
        self._desk.work()
        if (self._closing is not None or is_due) and not self._desk.refuses_to_tell:
            self._desk.compare_soon()
        self._desk.reconcile()
        if self._desk.refuses_to_tell:
            self._tell_that_nobody_can()
            return True
        is_due |= self._closing is None and bool(self.keep_stop(at_ms))  # it waits behind its stop alone
        if self._closing is None and not (self.is_open and is_due):
            return self.is_open
        if self._closing is None:
            if not self._still_open_is_told:
                self._alert("what is held is closed: something has been unknown for too long")
            self._closing = Closing(self._desk.trading, self._desk.market, on_note=self._alert)
        if not self._closing.is_done:
            with suppress(Banned):  # it goes on when that has ended
                self._closing.work()
            return True
        still_open, self._closing = self._closing.still_open, None
        if still_open and not self._still_open_is_told:
            self._still_open_is_told = True
            self._alert(f"STILL OPEN {still_open}")
        return bool(still_open) and self.is_open  # it is tried again: what was in the way may be over soon

    def _tell_that_nobody_can(self) -> None:
        """Tell somebody, at once and every hour, of what is held behind its stop and can't be closed from here.

        The session stays: a key may be admitted again, and one that has ended tells nobody.
        """
        if boottime_s() - self._told_s < _TELL_AGAIN_S:
            return
        self._told_s = boottime_s()
        self._alert(
            f"STILL OPEN: {self._desk.held} by the journal, and nobody here can see or close it "
            f"({self._desk.refuses_to_tell}); close it on the exchange's site, or with a key that works: "
            f"{pasteable('flows.halt')}; it is asked for again every {self._desk.timing.reconcile_s:g} s"
        )
