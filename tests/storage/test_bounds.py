"""Bounds in the types of a config's fields: refused beyond them, in words; kept at them."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
from annotated_types import Ge, Gt, Le, Lt, Unit
from pydantic import TypeAdapter

from storage.bounds import Checked
from storage.schema import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner(Checked):
    """A part of a config."""

    size: int = 1


@dataclass(frozen=True, kw_only=True)
class Knobs(Checked):
    """Every kind of field."""

    count: Annotated[int, Ge(1)] = 1
    rate: Annotated[float, Ge(0), Lt(0.1), Unit("of the notional")] = 0.0
    share: Annotated[float, Le(1), Ge(0)] = 0.5
    open_share: Annotated[float, Gt(0), Lt(1)] = 0.5
    fraction: Annotated[float, Gt(0), Le(1)] = 1.0
    limit: Annotated[float, Gt(0)] | None = None
    slope: float = -1.0
    sizes: tuple[Annotated[int, Ge(2)], ...] = (2, 3)
    kind: Literal["a", "b", "c"] = "a"
    name: str | None = None
    twin: bool = False
    inner: Inner = Inner()


KEPT = [
    {"count": 10**400}, {"rate": 0.0999}, {"share": 0}, {"share": 1}, {"open_share": 1e-9}, {"fraction": 1},
    {"limit": 5}, {"slope": 0.0}, {"sizes": ()}, {"kind": "c"}, {"name": "x"},
    {"count": np.int64(3)}, {"share": np.int64(1)}, {"share": np.float32(0.5)}, {"sizes": (np.int32(2),)},
    {"twin": True}, {"inner": Inner(size=2)},
]  # fmt: skip


@pytest.mark.parametrize("fields", KEPT)
def test_value_within_its_bounds_is_kept(fields):
    assert vars(Knobs(**fields)) == vars(Knobs()) | fields


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"count": 0}, "count must be >= 1, was 0"),
        ({"count": math.nan}, "count must be a whole number >= 1, was nan"),
        ({"rate": 0.1}, r"rate must be in \[0, 0\.1\) of the notional, was 0\.1"),
        ({"share": 3}, r"share must be in 0\.\.1, was 3"),
        ({"open_share": 0.0}, r"open_share must be in \(0, 1\), was 0\.0"),
        ({"fraction": 0}, r"fraction must be in \(0, 1\], was 0"),
        ({"limit": 0.0}, r"limit must be > 0, or None, was 0\.0"),
        ({"limit": math.inf}, "limit must be finite and > 0, or None, was inf"),
        ({"slope": -math.inf}, "slope must be finite, was -inf"),
        ({"sizes": (2, 1)}, r"sizes must be >= 2 throughout, was \(2, 1\)"),
        ({"kind": "d"}, "kind must be a, b or c, was 'd'"),
        ({"count": 12.5}, r"count must be a whole number >= 1, was 12\.5"),
        ({"count": 12.0}, r"count must be a whole number >= 1, was 12\.0"),
        ({"count": True}, "count must be a whole number >= 1, was True"),
        ({"count": "12"}, "count must be a whole number >= 1, was '12'"),
        ({"count": None}, "count must be a whole number >= 1, was None"),
        ({"rate": "0"}, r"rate must be a number in \[0, 0\.1\) of the notional, was '0'"),
        ({"share": False}, r"share must be a number in 0\.\.1, was False"),
        ({"limit": "5"}, "limit must be a number > 0, or None, was '5'"),
        ({"slope": None}, "slope must be a number, was None"),
        ({"sizes": (2, "3")}, r"sizes must be a whole number >= 2 throughout, was \(2, '3'\)"),
        ({"sizes": [2, 3]}, r"sizes must be a tuple, was \[2, 3\]"),
        ({"name": 3}, "name must be text, or None, was 3"),
        ({"twin": 1}, "twin must be True or False, was 1"),
        ({"inner": {"size": 1}}, r"inner must be Inner, was \{'size': 1\}"),
    ],
)
def test_value_beyond_its_bounds_is_refused_in_words(fields, text):
    with pytest.raises(ConfigError, match=f"^{text}$"):
        Knobs(**fields)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["rate", "share", "open_share", "fraction", "limit", "slope"])
def test_number_that_is_not_finite_is_refused_by_pydantic_too(name, value):
    with pytest.raises(ValueError, match=name):
        TypeAdapter(Knobs).validate_python({name: value})
