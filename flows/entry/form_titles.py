"""What the form calls a field, where its name alone is no plain words, and which fields it leaves out."""

from __future__ import annotations

HIDDEN = {
    "ExchangeConfig": frozenset({"url", "requests_per_s", "threads"}),
    "SyntheticMarket": frozenset({"psi", "volatility", "interval_ms", "start_ms", "phi", "sv", "tau", "beta"}),
}
"""Fields that only an expert sets, by JSON or on a command line."""

TITLES = {
    # Of a flow.
    "market": "Market",
    "symbols": "Many markets in place of one",
    "exchange": "Exchange or sandbox",
    "bars": "Which candles",
    "quality": "When data is too bad",
    "recipe": "How the model is made and judged",
    "limits": "When something needs a person",
    "rule": "What may go",
    "mode": "Signals alone, or fills on paper",
    "version": "Version",
    "shadows": "Other versions beside it",
    "steps": "Bars until it ends",
    "bar_every_s": "Seconds of a bar, on the sandbox",
    "session": "Session",
    "rules": "Deadlines, clock, how it ends",
    # Of a config.
    "Market.category": "Kind of market",
    "Market.interval": "Bar length",
    "ExchangeConfig.exchange": "Exchange",
    "ExchangeConfig.candles": "Candle file to replay",
    "ExchangeConfig.funding": "Funding file to replay",
    "ExchangeConfig.synthetic": "Made-up market",
    "ExchangeConfig.live": "Made-up market moves with real time",
    "BarRange.start": "From",
    "BarRange.end": "Until",
    "BarRange.days": "Only the last days",
    "QualityConfig.quarantine_limit": "Share of bad rows, at most",
    "QualityConfig.gap_limit": "Share of missing bars, at most",
    "QualityConfig.recheck_gaps": "Ask again for missing bars",
    "Recipe.labels": "What counts as buy, hold and sell",
    "Recipe.folds": "Blocks that are trained and tested on",
    "Recipe.fit": "Training",
    "Recipe.decision": "From forecast to position",
    "Recipe.backtest": "Capital and size",
    "Recipe.promotion": "When a model is promoted",
    "Recipe.baselines": "Simple models to beat",
    "Recipe.pool": "Markets that one network learns from",
    "Recipe.refit": "Train once more on every bar",
    "BacktestConfig.initial_capital": "Capital, USDT",
    "BacktestConfig.position_fraction": "Share of the capital in a position",
    "BacktestConfig.fixed_coins": "Coins in a position",
    "BacktestConfig.delay": "Delay of a fill, bars",
    "LabelConfig.horizon": "Bars ahead",
    "LabelConfig.k": "Threshold, in units of volatility",
    "LabelConfig.cost_floor_multiple": "Threshold, in units of costs",
    "FoldConfig.folds": "Test blocks",
    "FoldConfig.embargo": "Bars left out between blocks",
    "FoldConfig.scheme": "Bars to train on",
    "FoldConfig.weights": "How much each label counts",
    "DSCConfig.num_blocks": "Blocks",
    "DSCConfig.num_classes": "Classes",
    "DSCConfig.block": "What a block is",
    "DSCConfig.newest_step": "Newest bar by itself as well",
    "DSCConfig.linear_bypass": "Newest bar straight to the output",
    "DSCConfig.input_clip": "Inputs are cut off at",
    "DSCConfig.members": "Networks joined",
    "FitConfig.epochs": "Passes over the bars",
    "FitConfig.keep": "Weights that are kept",
    "FitConfig.distil": "Share that a teacher tells",
    "FitConfig.bypass_start": "Where training begins",
    "DecisionConfig.rule": "Rule of the position",
    "DecisionConfig.min_hold": "Bars held at least",
    "PromotionRule.min_days": "Unseen days at least",
    "PromotionRule.min_trades": "Closed trades at least",
    "PromotionRule.significance": "Largest p-value",
    "PromotionRule.cost_stress": "Profit at costs times",
    "PromotionRule.max_drawdown": "Drawdown at most, beside no position",
    "PromotionRule.drawdown_ratio": "Drawdown at most, beside the champion's",
    "PromotionRule.latency_budget_us": "Time of one bar at most, µs",
    "PromotionRule.deflated_sharpe": "Deflated Sharpe ratio at least",
    "PromotionRule.other_trials": "Strategies tried before",
    "BaselineConfig.strengths": "Penalties of the logistic regression",
    "BaselineConfig.leaves": "Leaves of a tree",
    "BaselineConfig.most_trees": "Trees at most",
    "BaselineConfig.patience": "Trees without gain before it stops",
    "BaselineConfig.leaf_bars": "Bars in a leaf at least",
    "BaselineConfig.twin": "Standard convolutions as well",
    "SyntheticMarket.kind": "Kind of signal",
    "SyntheticMarket.k": "Strength of the signal",
    "MonitorConfig.stale_bars": "Bars missing at the end, at most",
    "MonitorConfig.gap_limit": "Share of missing bars, at most",
    "MonitorConfig.expiry": "When a champion is too old",
    "MonitorConfig.live_sandbox": "Judge a made-up market like others",
    "MonitorConfig.drift_bars": "Bars compared for a change of the market",
    "MonitorConfig.skill_labels": "Labels that skill is judged by",
    "SessionConfig.capital": "Capital of all markets, USDT",
    "SessionConfig.deadline_share": "Share of a bar after which it is too late",
    "SessionConfig.confirm_grace_s": "Seconds until a missing bar is asked for",
    "SessionConfig.new_version_s": "Seconds between looks for another version",
    "SessionConfig.clock_check_s": "Seconds between looks at the clock",
    "SessionConfig.clock_limit_s": "Seconds that the clock may be off",
    "SessionConfig.at_end": "Position when it is stopped",
    "ExpiryRule.most_missed": "Retrains missed, at most",
    "PruneRule.keep_days": "Days since last use",
    "PruneRule.keep_datasets": "Datasets of a market that stay",
}


def title(name: str, config: str = "") -> str:
    """Return what the form calls a field.

    Args:
        name: The field's.
        config: Name of the class that it belongs to; none for a parameter of a flow.
    """
    if (given := TITLES.get(f"{config}.{name}" if config else name)) is not None:
        return given
    return name[:1].upper() + name[1:].replace("_", " ")
