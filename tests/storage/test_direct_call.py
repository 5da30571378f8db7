import gc
import weakref
from typing import Any

import numpy as np
import pytest

from storage.direct_call import UNFIT, Direct, answer, bound, fits, given, numbers, whole


def _scale_call(own: int, arguments: int, count: int) -> int:
    """Set out to x times a factor and a bound vector's first number; answer the factor."""
    if count != 3:
        return answer(UNFIT)
    x, out = given(arguments, 0), given(arguments, 2)
    if not fits(own, x, 3, False) or not fits(own, out, 3, True):
        return answer(UNFIT)
    is_whole, factor = whole(given(arguments, 1))
    if not is_whole:
        return 0
    numbers(out, 3)[:] = numbers(x, 3) * (factor * bound(own, 0, np.float64)[0])
    return answer(factor)


SCALE = Direct(_scale_call)


class Measured(np.ndarray):
    """An array of another type."""


def frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


def test_bound_function_reads_and_writes_the_arrays_themselves() -> None:
    factor, x, out = np.array([0.5, 9.0]), np.array([1.0, 2.0, 3.0]), np.empty(3)
    scale = SCALE.bind(factor)
    assert scale(frozen(x), 4, out) == 4
    np.testing.assert_array_equal(out, [2.0, 4.0, 6.0])
    factor[0] = 10.0
    assert scale(x, -1, out) == -1  # also what C answers where something went wrong
    np.testing.assert_array_equal(out, [-10.0, -20.0, -30.0])
    assert scale(x, 1 << 40, out) == 1 << 40


def test_functions_bound_to_different_arrays_do_not_share_them() -> None:
    x, out = np.ones(3), np.empty(3)
    one, other = SCALE.bind(np.array([1.0])), SCALE.bind(np.array([7.0]))
    one(x, 1, out)
    assert out[0] == 1.0
    other(x, 1, out)
    assert out[0] == 7.0


@pytest.mark.parametrize(
    "x",
    [
        [1.0, 2.0, 3.0],
        None,
        3,
        np.zeros(2),
        np.zeros((3, 1)),
        np.zeros(()),
        np.zeros(3, np.float32),
        np.zeros(3, np.int64),
        np.zeros(3, ">f8"),
        np.zeros(6)[::2],
        np.zeros(25, np.uint8)[1:].view(np.float64),
        np.zeros(3).view(Measured),
    ],
    ids=repr,
)
def test_argument_of_another_kind_is_unfit_and_nothing_is_written(x: Any) -> None:
    scale, out = SCALE.bind(np.ones(1)), np.full(3, 5.0)
    assert scale(x, 2, out) == UNFIT
    assert scale(np.zeros(3), 2, x) == UNFIT
    np.testing.assert_array_equal(out, [5.0, 5.0, 5.0])


def test_read_only_array_is_unfit_for_a_result_and_so_is_another_count() -> None:
    scale, x = SCALE.bind(np.ones(1)), np.zeros(3)
    assert scale(x, 2, frozen(np.zeros(3))) == UNFIT
    assert (scale(), scale(x, 2), scale(x, 2, np.empty(3), x)) == (UNFIT, UNFIT, UNFIT)


@pytest.mark.parametrize("factor", [1.5, "2", None])
def test_number_that_is_not_whole_raises_as_python_does(factor: Any) -> None:
    with pytest.raises(TypeError, match="integer"):
        SCALE.bind(np.ones(1))(np.zeros(3), factor, np.empty(3))


def test_bound_arrays_live_as_long_as_the_function() -> None:
    array = np.array([2.0])
    seen, scale, out = weakref.ref(array), SCALE.bind(array), np.empty(3)
    del array
    gc.collect()
    assert scale(np.ones(3), 1, out) == 1
    assert out[0] == 2.0
    del scale
    gc.collect()
    assert seen() is None


def test_strided_array_cannot_be_bound() -> None:
    with pytest.raises(ValueError, match=r"bound arrays must be contiguous, one of shape \(2,\) was not"):
        SCALE.bind(np.ones(4)[::2])
