from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch

from storage.schema import ConfigError, DatasetError, FloatArray, LeakError, TrainingError
from tasks.network.architecture import DSCConfig
from tasks.network.fit import Fitted, fit
from tasks.network.fit_config import FIT_PRESETS, FitConfig, fit_preset
from tasks.network.inference import predict_series
from tasks.network.series import Series
from tasks.network.training_record import Progress
from tests.network.planted_series import (
    NETWORK,
    QUICK,
    TRAIN,
    VALIDATION,
    assert_same_weights,
    planted_series,
    softmax,
    true_probabilities,
    weights_of,
)

SELF_TAUGHT = replace(QUICK, distil=0.0, keep="best")


def log_loss(p: FloatArray, labels: Any) -> float:
    return float(-np.log(p[np.arange(len(labels)), labels]).mean())


def test_fit_recovers_most_of_a_planted_edge_that_the_logistic_start_misses() -> None:
    series = planted_series(14_000)
    fitted = fit(NETWORK, series, (0, 10_000), (10_000, 11_500), replace(QUICK, epochs=12, learning_rate=1e-2))
    test = slice(11_500, 14_000)
    labels = series.labels[test]
    features = (series.features[test] - [0.0, 5.0, 1.0]) / [1.0, 20.0, 0.01]
    best = log_loss(true_probabilities(features), labels)
    prior = np.bincount(series.labels[:10_000]) / 10_000
    worst = log_loss(np.tile(prior, (len(labels), 1)), labels)
    reached = log_loss(predict_series(fitted.model, series.features, series.segment)[test], labels)
    assert (worst - reached) / (worst - best) > 0.8
    assert (worst - reached) / (worst - best) < 1.05  # more than the law itself allows would be a leak
    linear = fitted.history[0]  # step 0, on validation
    assert (worst - linear.validation_loss) / (worst - best) < 0.65


@pytest.mark.oracle
def test_fit_starts_at_the_logistic_solution_of_the_newest_bar() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is the oracle")
    series = planted_series(1_600)
    seen: list[Progress] = []
    fit(NETWORK, series, TRAIN, VALIDATION, replace(QUICK, epochs=1), seen.append)
    rows, check = slice(*TRAIN), slice(*VALIDATION)
    mean, scale = series.features[rows].mean(axis=0), series.features[rows].std(axis=0)
    z = np.clip((series.features - mean) / scale, -5, 5)
    reference = linear_model.LogisticRegression(C=1 / QUICK.start_penalty, max_iter=1_000, tol=1e-8)
    reference.fit(z[rows], series.labels[rows])
    expected = log_loss(reference.predict_proba(z[check]), series.labels[check])
    assert seen[0].step == 0
    assert seen[0].train_loss is None
    assert seen[0].validation_loss == pytest.approx(expected, abs=1e-5)  # float32 weights against float64


def test_fit_is_never_worse_on_validation_than_its_start_and_calibration_keeps_or_improves_it() -> None:
    fitted = fit(NETWORK, planted_series(1_600), TRAIN, VALIDATION, replace(SELF_TAUGHT, learning_rate=0.05))
    best = min(point.validation_loss for point in fitted.history)
    assert best == fitted.history[-1].best_loss <= fitted.history[0].validation_loss
    assert fitted.validation_loss <= best
    assert fitted.best_steps[0] in [point.step for point in fitted.history]


@pytest.mark.promise(8)
def test_same_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others() -> None:
    network = replace(NETWORK, dropout=0.3)  # dropout, noise, order and start all draw
    series, config = planted_series(1_600), replace(QUICK, learning_rate=0.01, epochs=4)
    first = weights_of(fit(network, series, TRAIN, VALIDATION, config))
    torch.rand(3)  # what others draw meanwhile must not matter
    second = weights_of(fit(network, series, TRAIN, VALIDATION, config))
    other = weights_of(fit(network, series, TRAIN, VALIDATION, replace(config, seed=8)))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


@pytest.mark.promise(8)
def test_scaler_and_temperature_travel_in_the_state() -> None:
    series = planted_series(1_600)
    fitted = fit(NETWORK, series, TRAIN, VALIDATION, QUICK)
    state = weights_of(fitted)
    rows = series.features[slice(*TRAIN)]
    np.testing.assert_allclose(state["feature_mean"].numpy(), rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(state["feature_scale"].numpy(), rows.std(axis=0), rtol=1e-6)
    assert float(state["temperature"]) == pytest.approx(fitted.temperature)
    copy = type(fitted.model)(NETWORK).eval()
    copy.load_state_dict(state)
    x = torch.from_numpy(series.features[:300]).float()
    assert torch.equal(copy.forward_series(x), fitted.model.forward_series(x))


def test_fit_leaves_the_random_state_and_the_threads_of_others_alone() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    fit(NETWORK, planted_series(1_600), TRAIN, VALIDATION, replace(QUICK, epochs=1, threads=2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_two_networks_that_are_trained_at_a_time_are_those_that_are_trained_in_turn() -> None:
    series, configs = planted_series(1_600), [replace(QUICK, epochs=2, seed=seed) for seed in (1, 2)]
    in_turn = [fit(NETWORK, series, TRAIN, VALIDATION, config) for config in configs]
    begun = Barrier(2, timeout=60)

    def beside(config: FitConfig) -> Fitted:
        begun.wait()
        return fit(NETWORK, series, TRAIN, VALIDATION, config)

    with ThreadPoolExecutor(2) as threads:
        for alone, one in zip(in_turn, threads.map(beside, configs), strict=True):
            assert_same_weights(alone, one)


def test_training_is_the_same_when_validation_and_everything_after_train_is_different() -> None:
    series, other = planted_series(1_600), planted_series(1_600, seed=2)
    features, labels = series.features.copy(), series.labels.copy()
    features[TRAIN[1] :], labels[TRAIN[1] :] = other.features[TRAIN[1] :] * 7, other.labels[TRAIN[1] :]
    changed = Series(features=features, labels=labels, segment=series.segment)
    config = replace(SELF_TAUGHT, keep="last")  # a teacher and early stopping are validation's only influences
    first, second = (fit(NETWORK, data, TRAIN, VALIDATION, config) for data in (series, changed))
    assert [point.train_loss for point in first.history] == [point.train_loss for point in second.history]
    assert [point.validation_loss for point in first.history] != [point.validation_loss for point in second.history]
    for name in ("feature_mean", "feature_scale"):
        assert torch.equal(weights_of(first)[name], weights_of(second)[name])


def test_weights_are_the_same_when_validation_changes_but_picks_the_same_step() -> None:
    series = planted_series(1_600)
    features = series.features.copy()
    features[VALIDATION[0] :] *= 1.001
    changed = Series(features=features, labels=series.labels, segment=series.segment)
    first, second = (fit(NETWORK, data, TRAIN, VALIDATION, SELF_TAUGHT) for data in (series, changed))
    assert first.best_steps == second.best_steps
    assert first.temperature != second.temperature
    state, other = weights_of(first), weights_of(second)
    assert all(torch.equal(state[name], other[name]) for name in state if name != "temperature")


def test_labels_outside_train_are_not_trained_on() -> None:
    series = planted_series(1_600)
    labels = series.labels.copy()
    labels[: TRAIN[0]] = 2 - labels[: TRAIN[0]]  # bars of context: features may be read, labels may not
    changed = Series(features=series.features, labels=labels, segment=series.segment)
    first, second = (weights_of(fit(NETWORK, data, TRAIN, VALIDATION, QUICK)) for data in (series, changed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weight_average_is_what_is_validated_and_kept() -> None:
    # Decay close to 1: whatever is learnt, the average stays at the start.
    config = replace(QUICK, learning_rate=0.1, weight_average=1 - 1e-9)
    fitted = fit(NETWORK, planted_series(1_600), TRAIN, VALIDATION, config)
    losses = [point.validation_loss for point in fitted.history]
    assert max(losses) - min(losses) < 1e-6
    assert fitted.history[-1].train_loss != pytest.approx(losses[-1], abs=1e-3)


def test_training_stops_after_patience_validations_without_a_better_loss() -> None:
    fitted = fit(
        NETWORK,
        planted_series(1_600),
        TRAIN,
        VALIDATION,
        replace(SELF_TAUGHT, epochs=50, patience=3, weight_average=0.0, learning_rate=0.5),  # too fast to get better
    )
    losses = [point.validation_loss for point in fitted.history]
    assert len(losses) - 1 - int(np.argmin(losses)) == 3
    assert fitted.history[-1].step < fitted.history[-1].steps


def test_first_of_equal_validations_is_kept_and_patience_runs_on() -> None:
    config = replace(SELF_TAUGHT, epochs=50, patience=3, learning_rate=1e-30, weight_decay=0.0, weight_average=0.0)
    fitted = fit(NETWORK, planted_series(1_600), TRAIN, VALIDATION, config)  # the silent head stays silent
    losses = [point.validation_loss for point in fitted.history]
    assert len(losses) == 4
    assert fitted.best_steps == (0,)
    assert losses == [losses[0]] * 4


def test_last_weights_are_kept_whatever_validation_says() -> None:
    late = replace(QUICK, distil=0.0, epochs=50, patience=3, weight_average=0.0, learning_rate=0.5)
    fitted = fit(NETWORK, planted_series(1_600), TRAIN, VALIDATION, late)
    last = fitted.history[-1]
    assert fitted.best_steps == (last.steps,) == (last.step,)
    assert last.validation_loss > last.best_loss
    assert fitted.learned == pytest.approx(fitted.history[0].validation_loss - last.validation_loss)
    series = planted_series(1_600)
    logits = predict_series(fitted.model, series.features, series.segment)[slice(*VALIDATION)]
    assert log_loss(logits, series.labels[slice(*VALIDATION)]) == pytest.approx(fitted.validation_loss, abs=1e-5)


def test_network_learns_what_its_teacher_says_and_not_what_the_labels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    series = planted_series(4_000)
    train, validation = (10, 3_000), (3_010, 4_000)
    scaled = (series.features - [0.0, 5.0, 1.0]) / [1.0, 20.0, 0.01]
    said = softmax(np.column_stack([2 * scaled[:, 1], 0 * scaled[:, 1], -2 * scaled[:, 1]]))  # labels say nothing of it
    monkeypatch.setattr("tasks.network.start.cross_fitted", lambda *_, **__: said)
    long = replace(QUICK, epochs=40, learning_rate=1e-2, input_noise=0.0, weight_average=0.0)
    p = {share: _taught(series, train, validation, replace(long, distil=share)) for share in (0.0, 1.0)}
    gap = {share: float(np.abs(p[share] - said[slice(*validation)]).mean()) for share in p}
    assert gap[1.0] < 0.05 < 0.2 < gap[0.0]


def _taught(series: Series, train: tuple[int, int], validation: tuple[int, int], config: FitConfig) -> FloatArray:
    """Return the probabilities of a network before its calibration, which is of the labels."""
    model = fit(NETWORK, series, train, validation, config).model
    model.temperature.fill_(1.0)
    return predict_series(model, series.features, series.segment)[slice(*validation)]


def test_a_bar_without_a_teacher_keeps_its_label(monkeypatch: pytest.MonkeyPatch) -> None:
    series = planted_series(1_600)
    silent = np.full((1_600, 3), np.nan)
    monkeypatch.setattr("tasks.network.start.cross_fitted", lambda *_, **__: silent)
    assert_same_weights(
        fit(NETWORK, series, TRAIN, VALIDATION, QUICK),
        fit(NETWORK, series, TRAIN, VALIDATION, replace(QUICK, distil=0.0)),
    )


def test_source_preset_trains_the_zero_padded_network() -> None:
    network = DSCConfig(input_features=3, hidden_channels=4, num_blocks=1, window=6, padding="zeros")
    config = replace(fit_preset("source"), epochs=1, segment_bars=256)
    fitted = fit(network, planted_series(1_600), TRAIN, VALIDATION, config)
    assert fitted.history[-1].train_loss is not None
    assert not fitted.model.training


@pytest.mark.parametrize("name", FIT_PRESETS)
def test_every_fit_preset_exists_and_an_unknown_one_is_refused(name: str) -> None:
    assert isinstance(fit_preset(name), FitConfig)
    with pytest.raises(ConfigError, match="fit preset must be one of default source, was 'slow'"):
        fit_preset("slow")


def test_source_fit_preset_is_the_source_text() -> None:
    config = fit_preset("source")
    assert (config.epochs, config.learning_rate, config.weight_decay) == (100, 1e-3, 1e-4)
    assert (config.label_smoothing, config.gradient_clip, config.patience) == (0.1, 1.0, 10)
    assert (config.keep, config.distil) == ("best", 0.0)
    assert (config.input_noise, config.weight_average, config.validations_per_epoch) == (0.0, 0.0, 1)


def test_non_finite_loss_stops_with_the_step_and_the_way_out() -> None:
    with pytest.raises(TrainingError, match=r"loss was (nan|inf) at step \d+; lower learning_rate \(was 1e\+30\)"):
        fit(NETWORK, planted_series(1_600), TRAIN, VALIDATION, replace(QUICK, learning_rate=1e30, weight_average=0.0))


def test_class_without_a_train_sample_is_refused() -> None:
    series = planted_series(1_600)
    labels = np.where(series.labels == 2, 0, series.labels)
    lacking = Series(features=series.features, labels=labels, segment=series.segment)
    message = r"train bars \[10, 1200\) hold no sample of class 2 \(samples per class: \[\d+, \d+, 0\]\)"
    with pytest.raises(DatasetError, match=message):
        fit(NETWORK, lacking, TRAIN, VALIDATION, QUICK)
    constant = Series(features=series.features, labels=np.ones_like(labels), segment=series.segment)
    with pytest.raises(DatasetError, match=r"no sample of class 0 \(samples per class: \[0, 1190, 0\]\)"):
        fit(NETWORK, constant, TRAIN, VALIDATION, QUICK)


def test_class_missing_in_validation_alone_is_no_obstacle() -> None:
    series = planted_series(1_600)
    labels = series.labels.copy()
    labels[VALIDATION[0] :] = 1
    fitted = fit(
        NETWORK, Series(features=series.features, labels=labels, segment=series.segment), TRAIN, VALIDATION, QUICK
    )
    assert 0.05 <= fitted.temperature <= 20  # the bounds of the calibration


def test_label_beyond_the_classes_is_refused() -> None:
    series = planted_series(1_600)
    with pytest.raises(DatasetError, match="labels must be below num_classes 2, was 2"):
        fit(replace(NETWORK, num_classes=2), series, TRAIN, VALIDATION, QUICK)


def test_spans_with_too_few_samples_are_refused() -> None:
    series = planted_series(1_600)
    message = r"train bars \[0, 8\) hold 3 labelled bars with 6 finite bars of context, at least the window of 4"
    with pytest.raises(DatasetError, match=message):
        fit(NETWORK, series, (0, 8), VALIDATION, QUICK)
    unknown = Series(features=series.features, labels=np.full(1_600, -1), segment=series.segment)
    with pytest.raises(DatasetError, match="hold 0 labelled bars"):
        fit(NETWORK, unknown, TRAIN, VALIDATION, QUICK)
    no_features = Series(features=np.full((1_600, 3), np.nan), labels=series.labels, segment=series.segment)
    with pytest.raises(DatasetError, match="hold 0 labelled bars"):
        fit(NETWORK, no_features, TRAIN, VALIDATION, QUICK)


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ((5, 5), VALIDATION, r"train must be a span within the series' 1600 bars, was \[5, 5\)"),
        ((-1, 50), VALIDATION, r"train must be a span .* was \[-1, 50\)"),
        (TRAIN, (1_210, 1_601), r"validation must be a span .* was \[1210, 1601\)"),
    ],
)
def test_span_outside_the_series_is_refused(train: tuple[int, int], validation: tuple[int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(NETWORK, planted_series(1_600), train, validation, QUICK)


def test_validation_that_overlaps_train_is_refused() -> None:
    with pytest.raises(LeakError, match="validation starts at bar 1199, before train stops at bar 1200"):
        fit(NETWORK, planted_series(1_600), TRAIN, (1_199, 1_600), QUICK)


def test_options_that_do_not_fit_the_network_are_refused() -> None:
    series = planted_series(1_600)
    with pytest.raises(ConfigError, match='bypass_start "logistic" needs a network with linear_bypass'):
        fit(replace(NETWORK, linear_bypass=False), series, TRAIN, VALIDATION, QUICK)
    with pytest.raises(ConfigError, match="input_features must be at most the series' 3 features, was 10"):
        fit(replace(NETWORK, input_features=10), series, TRAIN, VALIDATION, QUICK)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here CUDA is there")
def test_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="device 'cuda' needs CUDA, which torch does not find here; use \"cpu\""):
        fit(NETWORK, planted_series(1_600), TRAIN, VALIDATION, replace(QUICK, device="cuda"))


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")


@cuda
@pytest.mark.parametrize("weighted", [False, True])
def test_fit_on_cuda_ends_where_the_one_on_the_cpu_ends_with_its_model_on_the_cpu(weighted: bool) -> None:
    series = planted_series(6_000)
    if weighted:
        series = replace(series, weights=np.linspace(0.2, 1.0, 6_000))
    config = replace(QUICK, epochs=6, input_noise=0.0)  # each device draws its own noise
    here, there = (
        fit(NETWORK, series, (0, 4_000), (4_000, 6_000), replace(config, device=device)) for device in ("cpu", "cuda")
    )
    assert {tensor.device.type for tensor in weights_of(there).values()} == {"cpu"}
    assert [point.step for point in there.history] == [point.step for point in here.history]
    assert there.history[0].validation_loss == pytest.approx(here.history[0].validation_loss, abs=1e-6)
    assert there.validation_loss == pytest.approx(here.validation_loss, abs=1e-4)
    p_here, p_there = (predict_series(one.model, series.features, series.segment) for one in (here, there))
    np.testing.assert_allclose(p_there, p_here, atol=5e-3)


@cuda
def test_fit_on_cuda_learns_from_mirrors_noise_and_dropout_and_leaves_the_callers_random_state() -> None:
    series = replace(planted_series(6_000), signs=np.array([-1.0, 1.0, 1.0]))
    config = replace(QUICK, epochs=12, learning_rate=1e-2, device="cuda")
    torch.manual_seed(11)
    expected = torch.rand(3, device="cuda")
    torch.manual_seed(11)
    fitted = fit(replace(NETWORK, dropout=0.3), series, (0, 4_000), (4_000, 6_000), config)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    assert fitted.validation_loss < fitted.history[0].validation_loss - 0.002


@cuda
def test_non_finite_loss_on_cuda_stops_training() -> None:
    with pytest.raises(TrainingError, match=r"loss was (nan|inf) at step"):
        fit(NETWORK, planted_series(1_600), TRAIN, VALIDATION, replace(QUICK, learning_rate=1e30, device="cuda"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be >= 1, was 0"),
        ({"segment_bars": 0}, r"segment_bars must be in 1\.\.100000, was 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, was 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite and > 0, was nan"),
        ({"input_noise": -0.1}, "input_noise must be >= 0, was -0.1"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), was 1.0"),
        ({"weight_average": -0.5}, r"weight_average must be in \[0, 1\), was -0.5"),
        ({"distil": 1.1}, r"distil must be in 0\.\.1, was 1\.1"),
        ({"teacher_parts": 1}, "teacher_parts must be >= 2, was 1"),
        ({"keep": "first"}, "keep must be best or last, was 'first'"),
        ({"bypass_start": "ridge"}, "bypass_start must be logistic or zero, was 'ridge'"),
        ({"device": "gpu"}, "device must be cpu, cuda or cuda:<number>, was 'gpu'"),
    ],
)
def test_fit_config_that_breaks_a_rule_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FitConfig(**change)


SIGNS = np.array([-1.0, 1.0, 1.0])  # of the planted law: the edge changes its sign, the interaction does not


def test_start_is_its_own_mirror_image_when_the_law_has_one() -> None:
    series = replace(planted_series(1_600), signs=SIGNS)
    series.features[:, 0] += 0.3  # its mean is not 0, and the mirror stands at 0
    still = replace(QUICK, epochs=1, learning_rate=1e-12, mirror_margin=0.05)  # so few bars leave validation uncertain
    start = fit(NETWORK, series, TRAIN, VALIDATION, still)
    one = predict_series(start.model, series.features, series.segment)
    other = predict_series(start.model, series.features * SIGNS, series.segment)
    assert start.mirrored
    np.testing.assert_allclose(one[10:], other[10:, ::-1], rtol=0, atol=1e-5)  # float32


def test_mirror_image_is_dropped_when_validation_speaks_against_it() -> None:
    series = planted_series(1_600)
    denied = replace(series, signs=-SIGNS)  # the edge would have to stay where the classes are reversed
    without, fitted = (fit(NETWORK, one, TRAIN, VALIDATION, QUICK) for one in (series, denied))
    assert not fitted.mirrored
    assert_same_weights(without, fitted)


@pytest.mark.parametrize("signs", [np.ones(2), np.zeros(3)])
def test_signs_of_another_number_or_size_are_refused(signs: FloatArray) -> None:
    with pytest.raises(ValueError, match="signs must be 3 of -1 or 1, were"):
        replace(planted_series(20), signs=signs)


def test_fit_with_gaps_trains_on_the_unbroken_parts_alone() -> None:
    # Inserting non-finite bars between segments changes no sample, so it changes nothing.
    series = planted_series(1_600)
    segment = np.repeat([0, 1], [600, 1_000])
    plain = Series(features=series.features, labels=series.labels, segment=segment)
    gap = np.full((50, 3), np.nan)
    torn = Series(
        features=np.concatenate([series.features[:600], gap, series.features[600:]]),
        labels=np.concatenate([series.labels[:600], np.ones(50, np.int64), series.labels[600:]]),
        segment=np.repeat([0, 3, 1], [600, 50, 1_000]),
    )
    first = weights_of(fit(NETWORK, plain, TRAIN, VALIDATION, QUICK))
    second = weights_of(fit(NETWORK, torn, (10, 1_250), (1_260, 1_650), QUICK))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_series_of_unequal_columns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"features, labels and segment must have one length, were \(3, 2, 3\)"):
        Series(features=np.zeros((3, 1)), labels=np.zeros(2, np.int64), segment=np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"features must be \(T, F\), was \(3,\)"):
        Series(features=np.zeros(3), labels=np.zeros(3, np.int64), segment=np.zeros(3, np.int64))
