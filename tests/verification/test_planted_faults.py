"""The three faults that make a worthless model shine, planted in a copy of the project: the build turns red for each.

`make verify` plants the others.
"""

from pathlib import Path

import pytest

from tests.verification import verify_mutations

ROOT = Path(__file__).parents[2]

PLANTED = [
    (
        "a feature reads the bar after (leaky feature)", "tasks/market/features.py",
        "        segment[bar] = number\n",
        "        segment[bar] = number\n"
        "        if bar > 0:\n            values[row - width + 3] += values[row + 3]\n",
        "tests/market/test_leaks.py::test_features_pass_every_invariance",
    ),
    (
        "no commission on the closing leg (dropped commission)", "tasks/execution/accounting.py",
        "fee = commission * abs(change) * fill_price", "fee = commission * abs(wanted) * fill_price",
        "tests/execution/test_backtest.py::test_flat_price_loses_exactly_the_costs",
    ),
    (
        "training draws from all bars (shuffled split)", "tasks/network/fit.py",
        "        learn, check = (stream_of(series, span, config.context) for span in (train, validation))\n",
        "        learn, check = (stream_of(series, span, config.context) for span in (train, validation))\n"
        "        learn = stream_of(series, (train[0], len(series.labels)), config.context)\n",
        "tests/network/test_fit.py::"
        "test_training_is_the_same_when_validation_and_everything_after_train_is_different",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def planted(plant, mutation):
    return {name: plant(mutation(name, *rest)) for name, *rest in PLANTED}


@pytest.mark.promise(6)
@pytest.mark.promise(11)
@pytest.mark.parametrize("name", [name for name, *_ in PLANTED])
def test_fault_that_flatters_turns_its_test_red(planted, ledger, name):
    ledger.enter_mutation(planted[name].result())


def test_every_fault_s_text_stands_once_where_it_is_planted():
    for name, file, text, instead, test in [*PLANTED, *verify_mutations.PLANTED, verify_mutations.CONTROL]:
        assert (ROOT / file).read_text().count(text) == 1, name
        assert text != instead, name
        for node in test.split():
            place, _, function = node.partition("::")
            assert f"def {function.partition('[')[0]}(" in (ROOT / place).read_text(), name
