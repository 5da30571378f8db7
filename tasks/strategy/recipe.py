"""What a retrained model is made of: every choice in one object, which is also the form in the Prefect UI."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple, Self

from storage.bounds import Checked
from storage.schema import ConfigError, DatasetRef, FloatArray, Market, Title
from tasks.execution.accounting import Costs
from tasks.execution.backtest import BacktestConfig
from tasks.execution.decision import DecisionConfig, packed
from tasks.execution.fee_schedule import Schedule, charged
from tasks.market.labels import LabelConfig
from tasks.market.walk_forward import FoldConfig
from tasks.network.architecture import DSCConfig
from tasks.network.architecture import preset as network_preset
from tasks.network.baseline_config import BaselineConfig
from tasks.network.fit_config import FitConfig, fit_preset
from tasks.strategy.promotion_rule import PromotionRule
from tasks.strategy.vol_forecast_rule import VolForecastRule


class PoolMember(NamedTuple):
    """A market of a pool.

    Attributes:
        symbol: Bybit's.
        dataset: Id of its dataset; empty before there is one.
    """

    symbol: str
    dataset: str

    @classmethod
    def of(cls, named: str) -> Self:
        """Return what a recipe names SYMBOL or SYMBOL:id."""
        symbol, _, dataset = named.partition(":")
        return cls(symbol, dataset)


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """How a model is labelled, split, trained, decided upon and charged.

    Attributes:
        preset: default (chosen by measurement) or source (network, training and strategy of the text this grew from).
        labels: Horizon and thresholds of the three classes.
        folds: Walk-forward splits.
        network: The network; None takes the preset's.
        fit: The training loop; None takes the preset's.
        fees: Whose commission and slippage are charged; "venue" is the market's line of the schedule, unless `costs` is
            not as by default; a line by its name; or "own", what `costs` says.
        costs: Commission, slippage and funding of every fill.
        decision: From probabilities to a position; None takes the preset's.
        backtest: Capital and position size.
        promotion: What a challenger must show.
        risk: How far ahead volatility is forecast, and what that must show.
        baselines: What the simple models that it must beat may try.
        pool: Markets whose bars one network learns from, by symbol, of the market's category and interval; "yes" in a
            run of many: all of them; "stored": all that candles are stored of, delisted ones too. None: from the
            market's own. A version names each with its dataset, SYMBOL:id.
        refit: Train once more up to the last bar and publish that; the verdict is then the recipe's, not the weights'.
    """

    preset: Literal["default", "source"] = "default"
    labels: Annotated[LabelConfig, Title("What counts as buy, hold and sell")] = field(default_factory=LabelConfig)
    folds: Annotated[FoldConfig, Title("Blocks that are trained and tested on")] = field(default_factory=FoldConfig)
    network: DSCConfig | None = None
    fit: Annotated[FitConfig | None, Title("Training")] = None
    fees: Schedule = "venue"
    costs: Costs = field(default_factory=Costs)
    decision: Annotated[DecisionConfig | None, Title("From forecast to position")] = None
    backtest: Annotated[BacktestConfig, Title("Capital and size")] = field(default_factory=BacktestConfig)
    promotion: Annotated[PromotionRule, Title("When a model is promoted")] = field(default_factory=PromotionRule)
    risk: Annotated[VolForecastRule, Title("When the volatility forecast is trusted")] = field(
        default_factory=VolForecastRule
    )
    baselines: Annotated[BaselineConfig, Title("Simple models to beat")] = field(default_factory=BaselineConfig)
    pool: Annotated[tuple[str, ...], Title("Markets that one network learns from")] = ()
    refit: Annotated[bool, Title("Train once more on every bar")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decision_config.sizing == "volatility" and not self.network_config.risk_head:
            raise ConfigError(
                "a network must forecast volatility where it sizes by it, was risk_head=False; set it to True"
            )

    @property
    def network_config(self) -> DSCConfig:
        """The network that will be trained."""
        return self.network or network_preset(self.preset)

    @property
    def fit_config(self) -> FitConfig:
        """The training loop that will run."""
        return self.fit or fit_preset(self.preset)

    @property
    def decision_config(self) -> DecisionConfig:
        """The decision rule that will trade."""
        return self.decision or DecisionConfig(rule="argmax" if self.preset == "source" else "value")

    @property
    def holding_bars(self) -> int:
        """How long a position is meant to be held: as far as labels look, or as long as it has to be."""
        return max(self.labels.horizon, self.decision_config.min_hold)

    @property
    def second_seed(self) -> Self:
        """The same recipe with the seeds that follow those of its members; it is judged only, so nothing is refit."""
        fit = self.fit_config
        return replace(self, fit=replace(fit, seed=fit.seed + self.network_config.members), refit=False)

    @property
    def members(self) -> tuple[PoolMember, ...]:
        """The markets of the pool, with datasets or without."""
        return tuple(PoolMember.of(named) for named in self.pool)

    @property
    def pool_datasets(self) -> tuple[str, ...]:
        """Ids of the datasets that a pool's network learns from.

        Raises:
            ConfigError: A market of the pool has no dataset yet.
        """
        bare = [one.symbol for one in self.members if not one.dataset]
        if bare:
            raise ConfigError(
                f"every market of a pool must have its dataset, {', '.join(bare)} had none; `pooled_on` does"
            )
        return tuple(one.dataset for one in self.members)

    def pooled_on(self, datasets: Sequence[DatasetRef]) -> Self:
        """Return the recipe of a pool of these datasets, in whatever order they are given."""
        return replace(self, pool=tuple(sorted(f"{data.market.symbol}:{data.id}" for data in datasets)))

    @property
    def resolved(self) -> Self:
        """The same recipe with presets filled in, so that a later change of a preset does not change it."""
        return replace(self, network=self.network_config, fit=self.fit_config, decision=self.decision_config)

    def asks_less(self) -> tuple[str, ...]:
        """Return where a promotion by this recipe asks for less than by the default one; real money takes no such one.

        What a volatility forecast must show is asked of those alone that size positions by it.
        """
        usual, is_sized = Recipe(), self.decision_config.sizing == "volatility"
        slippage, assumed = self.costs.slippage, usual.costs.slippage
        return (
            *self.promotion.looser_than(usual.promotion),
            *(self.risk.looser_than(usual.risk) if is_sized else ()),
            *self.baselines.weaker_than(usual.baselines),
            *((f"costs.slippage {slippage:g} ({assumed:g})",) if slippage < assumed else ()),
        )

    def charged(self, market: Market, *, is_made_up: bool) -> Self:
        """Return the recipe with the costs that a user of the market pays, and the line of the schedule by its name.

        A market that is made up has no venue: it charges the source's costs.
        """
        name = self.fees
        if name == "venue":
            usual = replace(Costs(), funding=self.costs.funding)
            of_market: Schedule = "bybit-spot" if market.category == "spot" else "bybit-linear"
            name = (
                "own" if self.costs != usual
                else "source" if is_made_up or self.preset == "source"
                else of_market
            )  # fmt: skip
        return replace(self, fees=name, costs=charged(self.costs, name))

    def parts(self) -> dict[str, Any]:
        """Return every part of the recipe by name, presets filled in."""
        others = ("preset", "fees", "pool", "refit")
        return {name: part for name, part in vars(self.resolved).items() if name not in others}


def decision_params(recipe: Recipe, market: Market, class_means: FloatArray) -> FloatArray:
    """Return what `decide` needs of a model that the recipe made on a market: for backtest and live alike.

    On spot nobody lends the coins, so that nothing is sold short. `class_means` are (3,), in units of vol *
    sqrt(horizon).
    """
    rule = recipe.decision_config
    if market.category == "spot":
        rule = replace(rule, allow_short=False)
    return packed(rule, recipe.costs, class_means, recipe.labels.horizon, market.bars_per_year)
