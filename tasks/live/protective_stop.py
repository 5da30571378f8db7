"""The stop at the exchange that goes with a position: how far from its open it lies, wherever it is set."""

from decimal import ROUND_HALF_EVEN, Decimal

from tasks.champion.serving import ServedModel
from tasks.exchange.account_answers import Position
from tasks.journal.journal_rows import Decision
from tasks.live.session_config import OrderConfig
from tasks.strategy.live_tick import forecast_vol


class ProtectiveStop:
    """The stop of one market's position.

    Args:
        config: How far it lies.
        tick_size: A price is a multiple of it, USDT.

    Attributes:
        share: How far it lies by the last decision, share of the price.
    """

    def __init__(self, config: OrderConfig, tick_size: str) -> None:
        self._config, self._tick = config, Decimal(tick_size)
        self.share = config.stop_at

    def follow(self, decision: Decision, model: ServedModel | None) -> None:
        """Lie as a decision asks for: by the version that took it, whoever follows on it."""
        self.share = self._config.stop_at
        if model is not None:
            vol = forecast_vol(decision.values)
            self.share = self._config.stop_distance(vol, model.recipe.holding_bars)

    def of_new(self, price: Decimal, side: int) -> Decimal | None:
        """Return the price of the stop of what is opened at a price on a side, -1 or 1; None where it can have none."""
        return self._price(price, side, self.share)

    def of_held(self, position: Position, share: float | None) -> Decimal | None:
        """Return the same for a position that has lost its stop: as far away as it was opened, where that is known."""
        return self._price(position.entry, 1 if position.size > 0 else -1, share or self._config.stop_at)

    def impossible(self, price: Decimal) -> str:
        """Return why what is long at a price can have no stop."""
        return f"a long at {price} can have no stop: the tick is {self._tick}"

    def _price(self, price: Decimal, side: int, share: float) -> Decimal | None:
        """Return the price of a stop, a tick away at least: at the price itself the exchange would refuse it.

        None for one at 0, which to the exchange is a position without a stop.
        """
        away = max(Decimal(str(share)), self._tick / price)
        stop = (price * (1 - side * away) / self._tick).to_integral_value(ROUND_HALF_EVEN) * self._tick
        return stop if stop > 0 else None
