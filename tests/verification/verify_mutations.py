"""`make verify`: faults that have cost others money, planted one by one in a copy; a test must go red for each.

The control plants nothing that matters: with it every test named here is green, so what goes red is the fault's doing.
"""

import pytest

FEATURES, LABELS, SAMPLES = "tasks/market/features.py", "tasks/market/labels.py", "tasks/market/walk_forward.py"
LEAKS, RECIPE = "tasks/market/leaks.py", "tasks/strategy/recipe.py"
ACCOUNTING, BARS, TRADES, BACKTEST = (
    f"tasks/execution/{name}.py" for name in ("accounting", "bars", "trades", "backtest")
)
METRICS, DECISION, SIGNIFICANCE = (f"tasks/execution/{name}.py" for name in ("metrics", "decision", "significance"))
SKILL, RECORD, COMPARISON = (f"tasks/execution/{name}.py" for name in ("skill", "track_record", "comparison"))
PROMOTION, RANDOM = "tasks/champion/promotion.py", "tasks/execution/random_positions.py"
FIT, BASELINES, CALIBRATION = (f"tasks/network/{name}.py" for name in ("fit", "baselines", "calibration"))
POOL, POOL_MEMBER, IN_POOL = "tasks/strategy/pool.py", "tasks/strategy/samples.py", "tests/strategy/test_pool.py::test_"
TEACHER, IN_TEACHER = "tasks/network/teacher.py", "tests/network/test_teacher.py::test_"

IN_BACKTEST = "tests/execution/test_backtest.py::test_"
IN_METRICS = "tests/execution/test_metrics.py::test_"
IN_SAMPLES = "tests/market/test_walk_forward.py::test_"
IN_LABELS = "tests/market/test_labels.py::test_"
IN_FIT = "tests/network/test_fit.py::test_"
IN_SIGNIFICANCE = "tests/execution/test_significance.py::test_"
ISOLATION = "tests/verification/verify_leak_report.py::test_"

# name, file, text, what is put in its place, the test that must go red
PLANTED = [
    # --- the future -------------------------------------------------------------------------------------------------
    (
        "the VWAP reads on from where the file begins", FEATURES,
        "    if day != state[_DAY]:\n", "    if math.isnan(state[_DAY]):\n",
        "tests/market/test_features.py::test_features_are_unchanged_when_history_starts_later",
    ),
    (
        "volatility decays while the market has halted", FEATURES,
        "    halted = state[_SILENT] > _SILENT_AT_MOST\n", "    halted = state[_SILENT] < 0.0\n",
        "tests/market/test_features.py::test_ordinary_bars_keep_their_scale_when_the_market_halts",
    ),
    (
        "the leak checks compare nothing", LEAKS,
        "        if not same.all():\n", "        if not same.any():\n",
        "tests/market/test_leaks.py::test_feature_that_reads_on_is_named_with_bar_values_and_cause",
    ),
    (
        "a label starts at the open of its own bar", LABELS,
        "/ open_[1 : 1 + ending][whole])", "/ open_[:ending][whole])",
        IN_LABELS + "label_is_the_return_from_the_next_open_over_the_horizon",
    ),
    (
        "overlapping labels count as independent", LABELS,
        "    uniqueness[samples] = (shares[stop] - shares[first]) / labels.horizon", "    uniqueness[samples] = 1.0",
        IN_LABELS + "uniqueness_is_about_one_over_the_horizon_when_labels_follow_each_other",
    ),
    (
        "realised variance begins with the bar's own return", LABELS,
        "total[whole + horizon] - total[whole]", "total[whole + horizon - 1] - total[whole - 1]",
        "tests/market/test_volatility.py::test_realised_variance_is_the_sum_of_the_next_squared_returns",
    ),
    (
        "windows of risk are purged by the span of a label", "tasks/strategy/vol_windows.py",
        "    seen = fold.validation.stop + label_span\n", "    seen = fold.validation.stop + horizon\n",
        "tests/strategy/test_vol_forecast.py::test_windows_that_are_learned_from_end_where_the_labels_of_validation_do",
    ),
    (
        "losses of windows that overlap count as independent", "tasks/execution/vol_skill.py",
        "reference_loss=losses[name], lag=horizon)", "reference_loss=losses[name], lag=0)",
        "tests/execution/test_vol_skill.py::test_lead_is_no_news_where_windows_overlap_as_far_as_the_horizon",
    ),
    # --- splits -----------------------------------------------------------------------------------------------------
    (
        "no purge between the parts", SAMPLES,
        "    gap = (horizon + 1 + config.embargo) * bar\n", "    gap = config.embargo * bar\n",
        IN_SAMPLES + "folds_are_these_spans_when_counted_by_hand",
    ),
    (
        "the embargo is ignored", SAMPLES,
        "    gap = (horizon + 1 + config.embargo) * bar\n", "    gap = (horizon + 1) * bar\n",
        IN_SAMPLES + "folds_are_these_spans_when_counted_by_hand",
    ),
    (
        "bars that are missing count as purged", SAMPLES,
        "start_ms, horizon + 1 + config.embargo) for cut in cuts)", "start_ms, 0) for cut in cuts)",
        IN_SAMPLES + "labels_end_before_the_next_part_when_the_bars_between_are_missing",
    ),
    (
        "a backtest may begin on bars that training saw", BACKTEST,
        "    if first_ms <= seen_ms:\n", "    if first_ms <= trained_until_ms:\n",
        IN_BACKTEST + "backtest_is_refused_when_training_saw_its_first_bar",
    ),
    # --- training ---------------------------------------------------------------------------------------------------
    (
        "the scaler is fitted on all bars", CALIBRATION,
        "scaler(series.features[slice(*train)])", "scaler(series.features)",
        ISOLATION + "fitted_arrays_do_not_move_with_later_bars",
    ),
    (
        "the temperature is fitted on the test bars", FIT,
        "        logits, labels = sample_logits(model, check)\n",
        "        logits, labels = sample_logits(\n"
        "            model, stream_of(series, (validation[1], len(series.labels)), config.context)\n        )\n",
        ISOLATION + "fitted_arrays_do_not_move_with_later_bars",
    ),
    (
        "a baseline is calibrated on the test bars", BASELINES,
        "    temperature = best_temperature(_logits(predict(check.x)), check.y)\n",
        "    temperature = best_temperature(\n"
        "        _logits(predict(table.scaled(np.arange(test.start, test.stop)))),\n"
        "        np.maximum(series.labels[test], 0),\n    )\n",
        "tests/network/test_baselines.py::test_predictions_are_unchanged_when_the_test_labels_are_exchanged",
    ),
    (
        "a teacher speaks of the bars that it was grown from", TEACHER,
        "        others = np.flatnonzero(", "        others = np.arange(len(bars)) if len(bars) else np.flatnonzero(",
        IN_TEACHER + "a_part_is_spoken_of_without_its_own_labels_and_without_those_that_reach_into_it",
    ),
    (
        "a teacher knows labels that reach into what it speaks of", TEACHER,
        "1 + series.label_span\n", "1\n",
        IN_TEACHER + "a_part_is_spoken_of_without_its_own_labels_and_without_those_that_reach_into_it",
    ),
    # --- pools ------------------------------------------------------------------------------------------------------
    (
        "a teacher's parts are cut by row: it has seen the hour in another market", TEACHER,
        "    times = series.times[bars]\n", "    times = bars\n",
        IN_TEACHER + "of_two_markets_a_part_is_spoken_of_without_its_hours_in_either",
    ),
    (
        "a pool is purged by each market's rows alone", POOL_MEMBER,
        "    cuts = cut_times(first_ms, end_ms, bar, recipe.labels.horizon, recipe.folds)\n",
        "    cuts = cut_times(first_ms, end_ms, bar, -1 - recipe.folds.embargo, recipe.folds)\n",
        IN_POOL + "every_market_is_cut_at_the_same_hours_whatever_its_age",
    ),
    (
        "what refuses an unpurged pool counts rows", POOL,
        "series.times[:stop][labelled[:stop]], series.times[stop:][labelled[stop:]]",
        "np.flatnonzero(labelled[:stop]), stop + series.label_span + 1 + np.flatnonzero(labelled[stop:])",
        IN_POOL + "markets_that_are_cut_each_by_its_own_share_are_refused",
    ),
    (
        "unequal histories are cut each by its own share", POOL_MEMBER,
        "for one in recipe.pool_datasets]\n    if (held",
        "for one in (dataset.ref.id,)]\n    if (held",
        IN_POOL + "every_market_is_cut_at_the_same_hours_whatever_its_age",
    ),
    (
        "a pool's scaler is fitted on hours of its markets' tests", POOL,
        "scaling=_scaling(learn)",
        "scaling=_scaling(_runs(members, recipe, [(fold, fold.test) for fold in folds]))",
        IN_POOL + "hours_of_the_test_are_read_in_no_market_by_what_the_network_is_made_from",
    ),
    (
        "a pool's weights follow what its markets did in their tests", POOL,
        "    joined = _joined([*learn, *check])\n",
        "    joined = _joined([*learn, *check])\n"
        "    later = _runs(members, recipe, [(fold, fold.test) for fold in folds])\n"
        "    joined = replace(joined, weights=np.full(len(joined.labels), later[0].vol[-1]))\n",
        IN_POOL + "hours_of_the_test_are_read_in_no_market_by_what_the_network_is_made_from",
    ),
    (
        "a pool's network stops early by hours of its markets' tests", POOL,
        "[(fold, fold.validation) for fold in folds]",
        "[(fold, replace(fold.validation, stop=fold.test.stop)) for fold in folds]",
        IN_POOL + "hours_of_the_test_are_read_in_no_market_by_what_the_network_is_made_from",
    ),
    (
        "a pool learns from markets alone that are traded still", POOL,
        "        if len(span):\n", "        if len(span) and len(fold.test):\n",
        IN_POOL + "market_that_was_delisted_teaches_as_long_as_it_traded",
    ),
    (
        "a poisoned market teaches the others", POOL,
        "    if len(old) < FEWEST:\n", "    if len(old) < 1_000_000:\n",
        IN_POOL + "market_that_is_unlike_the_others_teaches_nobody",
    ),
    (
        "a market may teach whatever harm it does", "tasks/network/likeness.py",
        "(self._returning, self._harm, self._strangeness)", "(self._returning, self._strangeness)",
        "tests/network/test_likeness.py::test_market_that_is_forecast_by_what_means_nothing_elsewhere_does_not_teach",
    ),
    (
        "prints that return at once teach the others", "tasks/network/likeness.py",
        "(self._returning, self._harm, self._strangeness)", "(self._harm, self._strangeness)",
        IN_POOL + "market_of_prints_that_return_at_once_teaches_nobody",
    ),
    (
        "rivals learn the risk of a market's test hours in other markets", "tasks/strategy/risk_rivals.py",
        "        bars = bars_to_learn_from(one.fold(fold.index), recipe.labels.horizon + 1, horizon)\n",
        "        bars = np.arange(len(one.dataset.vol))\n",
        "tests/strategy/test_held_out_volatility.py::test_rivals_read_no_hour_of_the_test_in_any_market",
    ),
    (
        "a limit in forecast volatility loosens the fixed one", "tasks/execution/limits.py",
        "        return min(self.daily_loss, self.daily_vols * risk)\n", "        return self.daily_vols * risk\n",
        "tests/execution/test_limits.py::test_limit_in_forecast_volatility_is_never_looser_than_the_fixed_one",
    ),
    (
        "a market is asked of a network that saw it", "tasks/strategy/leave_one_out.py",
        "for member in recipe.pool if member not in left_out)", "for member in recipe.pool)",
        "tests/strategy/test_leave_one_out.py::"
        "test_network_that_a_market_is_asked_of_saw_neither_it_nor_the_hours_of_its_test",
    ),
    (
        "markets of one hour count as independent", "tasks/strategy/leave_one_out.py",
        "        overlap=horizon * len(each),\n", "        overlap=horizon,\n",
        "tests/strategy/test_leave_one_out.py::test_what_happens_to_three_markets_at_once_is_counted_once",
    ),
    (
        "a pool of all that is stored is of those that lasted", "tasks/ingestion/dataset.py",
        "if row.source == source and row.bars]",
        "if row.source == source and row.last_ms == max(one.last_ms or 0 for one in store.coverage())]",
        "tests/ingestion/test_stored_markets.py::"
        "test_market_that_was_delisted_a_year_ago_is_among_those_that_are_stored",
    ),
    # --- accounting -------------------------------------------------------------------------------------------------
    (
        "no commission on the opening leg", ACCOUNTING,
        "fee = commission * abs(change) * fill_price", "fee = commission * abs(quantity) * fill_price",
        IN_BACKTEST + "flat_price_loses_exactly_the_costs",
    ),
    (
        "a flip pays for one side alone", ACCOUNTING,
        "fee = commission * abs(change) * fill_price",
        "fee = commission * max(abs(quantity), abs(wanted)) * fill_price",
        IN_BACKTEST + "flip_costs_what_closing_and_opening_at_one_price_cost",
    ),
    (
        "slippage is in the trader's favour", ACCOUNTING,
        "price * (1.0 + slippage) if change > 0.0", "price * (1.0 + slippage) if change < 0.0",
        IN_BACKTEST + "table_of_a_long_flipped_to_a_short_is_booked_fill_by_fill",
    ),
    (
        "funding has the wrong sign", ACCOUNTING,
        "    paid = quantity * price * funding_rate * rules[8]\n",
        "    paid = -quantity * price * funding_rate * rules[8]\n",
        IN_BACKTEST + "funding_is_paid_at_its_stamp_by_the_position_held_until_then",
    ),
    (
        "a late funding stamp is due a bar later", BARS,
        "    minute = stamp_ms // MINUTE_MS * MINUTE_MS\n", "    minute = stamp_ms\n",
        IN_BACKTEST + "long_that_is_closed_at_a_funding_stamp_pays_it_when_the_stamp_comes_late",
    ),
    (
        "a short is marked as if it were a long", ACCOUNTING,
        "        value = cash + quantity * close[t]\n", "        value = cash + abs(quantity) * close[t]\n",
        IN_BACKTEST + "short_earns_exactly_what_the_long_loses_before_costs",
    ),
    (
        "a short's profit has the wrong sign in the ledger", TRADES,
        "gross=side * coins * (exit_mark - entry_open)", "gross=coins * (exit_mark - entry_open)",
        IN_BACKTEST + "trades_add_up_to_what_the_account_gained",
    ),
    (
        "an order is filled at the close that decided it", ACCOUNTING,
        "cash, quantity, side, wanted, open_[t], rate, part",
        "cash, quantity, side, wanted, close[t - 1] if t > 0 else open_[t], rate, part",
        IN_BACKTEST + "target_is_filled_at_the_next_open",
    ),
    (
        "an order is filled before it was decided", ACCOUNTING,
        "target[t - 1 - delay] if run > delay else 0", "target[t - delay] if run >= delay else 0",
        IN_BACKTEST + "target_is_filled_at_the_next_open",
    ),
    (
        "the last position is never closed", ACCOUNTING,
        "(value <= 0.0 or t == bars - 1)", "(value <= 0.0)",
        IN_BACKTEST + "last_position_is_closed_at_the_last_close_and_pays_for_it",
    ),
    (
        "spot may be sold short", RECIPE,
        '    if market.category == "spot":\n', '    if market.category == "":\n',
        "tests/strategy/test_recipe.py::test_decision_of_a_recipe_sells_short_except_on_spot",
    ),
    (
        "the gate asks for one leg's costs", DECISION,
        "        value = mu * target - cost * abs(target - position) - cost * abs(target)\n",
        "        value = mu * target - cost * abs(target - position)\n",
        "tests/execution/test_decision.py::test_value_rule_moves_when_the_move_pays_its_costs",
    ),
    # --- metrics ----------------------------------------------------------------------------------------------------
    (
        "a year has 252 days", METRICS, "DAYS_PER_YEAR = 365\n", "DAYS_PER_YEAR = 252\n",
        IN_METRICS + "summary_equals_pandas_when_derived_again",
    ),
    (
        "the Sortino ratio divides by the losing bars alone", METRICS,
        "np.mean(np.minimum(returns, 0.0) ** 2)", "np.mean(returns[returns < 0.0] ** 2)",
        IN_METRICS + "sortino_divides_by_the_losses_of_all_periods",
    ),
    (
        "the drawdown forgets the start", METRICS,
        "np.max(1.0 - equity / np.maximum.accumulate(equity))",
        "np.max(1.0 - equity[1:] / np.maximum.accumulate(equity[1:]))",
        IN_METRICS + "drawdown_counts_from_the_start_and_lasts_until_the_high_is_back",
    ),
    # --- luck -------------------------------------------------------------------------------------------------------
    (
        "the deflated Sharpe ratio forgets how many were tried", RECORD,
        "deflated=deflated_sharpe(daily, trials, variance)", "deflated=deflated_sharpe(daily, 1, variance)",
        "tests/execution/test_track_record.py::"
        "test_best_of_fifty_worthless_strategies_looks_good_alone_and_not_among_its_kind",
    ),
    (
        "the bootstrap draws single bars", SIGNIFICANCE,
        "_resample(running, 1.0 / mean_block,", "_resample(running, 1.0,",
        IN_SIGNIFICANCE + "bootstrap_variance_equals_the_closed_form",
    ),
    (
        "the duel's blocks are one bar long", COMPARISON,
        "    block = max(horizon, bars_per_year / DAYS_PER_YEAR, *held)\n", "    block = 1.0\n",
        "tests/execution/test_comparison.py::test_blocks_of_a_duel_outlast_label_day_and_position",
    ),
    (
        "losses of overlapping labels count as independent", SIGNIFICANCE,
        "    for k in range(1, min(lag, bars - 1) + 1):\n", "    for k in range(1, 1):\n",
        IN_SIGNIFICANCE + "diebold_mariano_keeps_its_size_only_with_the_lag_of_the_overlap",
    ),
    (
        "a hold counts as a side that was forecast", SKILL,
        "    return np.where(classes == HOLD, 0.0, losses)", "    return log_losses(probabilities, classes)",
        "tests/execution/test_skill.py::test_direction_is_the_same_however_well_holds_are_forecast",
    ),
    (
        "a prior that the market left behind is all that a side must beat", SKILL,
        "    return (COIN, coin) if coin.sum() < prior.sum() else", "    return (COIN, coin) if False else",
        "tests/champion/test_promotion.py::"
        "test_lead_in_direction_over_a_prior_that_the_market_left_behind_is_none",
    ),
    (
        "resamples without the only trade are left out", SIGNIFICANCE,
        "    low, high = np.quantile(ratios, ((", "    low, high = np.quantile(ratios[varied], ((",
        IN_SIGNIFICANCE + "sharpe_interval_of_a_single_trade_counts_resamples_without_it_as_nothing",
    ),
    (
        "other costs are charged to the same positions", COMPARISON,
        "        redecided_by_fee=tuple(run(name, other, decided=decide(other))",
        "        redecided_by_fee=tuple(run(name, other, decided=decided)",
        "tests/execution/test_comparison.py::"
        "test_sweep_decides_again_at_each_cost_beside_the_same_positions_dearer_or_cheaper",
    ),
    (
        "one seed that earns is enough", PROMOTION,
        "    return checked(name, second.total_return > 0, found, wanted)\n",
        "    return checked(name, True, found, wanted)\n",
        "tests/champion/test_promotion.py::"
        "test_second_seed_that_loses_keeps_the_champion_whatever_the_first_earned",
    ),
    (
        "random positions trade less than the model", RANDOM,
        "        lengths[places] = lengths[rng.permutation(places)]\n", "        lengths[places[:-1]] += 1\n",
        "tests/execution/test_comparison_rows.py::test_random_timing_keeps_exposure_and_turnover",
    ),
    (
        "the hundredth look at a champion is as good as the first", PROMOTION,
        "alpha = rule.alpha(evidence.looks)", "alpha = rule.significance",
        "tests/champion/test_promotion.py::test_lead_over_a_champion_must_be_rarer_with_every_look_at_it",
    ),
    (
        "near copies narrow the spread of luck", RECORD,
        ", 1.0 / max(len(daily) - 1, 1))", ", 0.0)",
        "tests/execution/test_track_record.py::"
        "test_crowd_that_is_no_other_strategy_does_not_make_the_winner_look_rare",
    ),
    (
        "the mirror image of a baseline's label is the label itself", BASELINES,
        "np.concatenate([y, self._num_classes - 1 - y])", "np.concatenate([y, y])",
        "tests/network/test_baselines.py::"
        "test_mirror_images_are_tried_at_every_point_and_taken_only_where_the_law_has_them",
    ),
    (
        "the leak report does not look at what training was given", "tasks/market/leaks.py",
        "moved := _first_difference(stored, made,", "moved := _first_difference(made, made,",
        "tests/market/test_leaks.py::test_inputs_that_are_not_what_the_candles_give_are_named",
    ),
    (
        "a funding rate that nobody stored was not due", "tasks/strategy/funding_record.py",
        "due=inside + missing", "due=inside",
        "tests/strategy/test_funding_record.py::test_every_settlement_without_a_stored_rate_is_missing",
    ),
    (
        "the same candles under another name were never looked at", "tasks/champion/looks.py",
        'its_source == source and source.startswith("sandbox:")', "False",
        "tests/champion/test_looks.py::"
        "test_candles_of_a_sandbox_under_another_name_forget_neither_trial_nor_look",
    ),
    (
        "real money takes a version that beat one tree", RECIPE,
        "            *self.baselines.weaker_than(usual.baselines),\n", "",
        "tests/strategy/test_recipe.py::test_recipe_says_wherever_its_promotion_asks_for_less_than_the_default",
    ),
    (
        "leak tests that were not run pass", PROMOTION,
        "            evidence.leaks == (),\n", "            not evidence.leaks,\n",
        "tests/champion/test_promotion.py::test_one_bad_number_fails_its_condition_alone",
    ),
]  # fmt: skip
CONTROL = (
    "nothing", LABELS, '"""The labels.', '"""The label.',
    " ".join(dict.fromkeys(test for *_, test in PLANTED)),
)  # fmt: skip


@pytest.fixture(scope="module")
def planted(plant, mutation):
    """Every copy's promise, by name; they are judged as many at a time as there are processors."""
    return {fault.name: plant(fault) for fault in (mutation(*one) for one in (CONTROL, *PLANTED))}


@pytest.mark.parametrize("name", [name for name, *_ in PLANTED])
def test_fault_turns_its_test_red(planted, ledger, name):
    ledger.enter_mutation(planted[name].result())


def test_copy_without_a_fault_is_green(planted):
    control = planted["nothing"].result()
    assert control.failed == ()
    assert " passed" in control.output
