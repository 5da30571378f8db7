"""What each input is worth to the model: its loss when the input's values change places."""

from storage.schema import FEATURES
from tasks.execution.importance import Importance, permutation_importance
from tasks.market.labels import UNKNOWN
from tasks.network.architecture import macs_per_bar, macs_per_window
from tasks.network.folding import load_weights
from tasks.strategy.out_of_sample import Evaluation
from tasks.strategy.recipe import Recipe

_IMPORTANCE_BARS = 8_192  # the newest unseen ones: enough labels for a thousandth of a nat

_IMPORTANCE_MACS = 1e11  # a few seconds; a large network gets fewer bars

_PERMUTATIONS = 5


def measure_importance(recipe: Recipe, evaluation: Evaluation) -> tuple[Importance, ...]:
    """Return what each input is worth to the newest walk-forward fold's model, on its newest unseen bars."""
    from tasks.network.dsc import load_model  # with torch, as the next
    from tasks.network.inference import predict_series

    samples, config = evaluation.samples, recipe.network_config
    test = samples.folds[-1].test
    model = load_model(config, load_weights(evaluation.folds[len(samples.folds) - 1].weights))
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(FEATURES[: config.input_features]):
        wave = name.partition("_")[0]
        groups.setdefault(f"hour of the {wave}" if wave in ("day", "week") else name, []).append(place)
    macs = macs_per_bar(config) if config.padding == "history" else macs_per_window(config)
    afforded = int(_IMPORTANCE_MACS / (_PERMUTATIONS * len(groups) * macs))
    first = max(test.start, test.stop - min(_IMPORTANCE_BARS, afforded))
    rows = slice(max(first - config.context + 1, 0), test.stop)  # what the first of them looks back on, too
    classes = samples.labels.classes[rows].copy()
    classes[: first - rows.start] = UNKNOWN
    return permutation_importance(
        lambda features: predict_series(model, features, samples.dataset.segment[rows]),
        samples.dataset.features[rows, : config.input_features],
        classes,
        groups,
        block=config.context,
        repeats=_PERMUTATIONS,
        seed=0,  # of which blocks change places
    )
