"""Bounds in the types of a config's fields: refused beyond them, in words; kept at them."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt, Unit
from pydantic import TypeAdapter

from storage.bounds import Checked
from storage.schema import ConfigError


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


KEPT = [
    {"count": 10**400}, {"rate": 0.0999}, {"share": 0}, {"share": 1}, {"open_share": 1e-9}, {"fraction": 1},
    {"limit": 5}, {"slope": 0.0}, {"sizes": ()}, {"kind": "c"}, {"name": "x"},
]  # fmt: skip


@pytest.mark.parametrize("fields", KEPT)
def test_value_within_its_bounds_is_kept(fields):
    assert vars(Knobs(**fields)) == vars(Knobs()) | fields


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"count": 0}, "count must be >= 1, was 0"),
        ({"count": math.nan}, "count must be finite and >= 1, was nan"),
        ({"rate": 0.1}, r"rate must be in \[0, 0\.1\) of the notional, was 0\.1"),
        ({"share": 3}, r"share must be in 0\.\.1, was 3"),
        ({"open_share": 0.0}, r"open_share must be in \(0, 1\), was 0\.0"),
        ({"fraction": 0}, r"fraction must be in \(0, 1\], was 0"),
        ({"limit": 0.0}, r"limit must be > 0, or None, was 0\.0"),
        ({"limit": math.inf}, "limit must be finite and > 0, or None, was inf"),
        ({"slope": -math.inf}, "slope must be finite, was -inf"),
        ({"sizes": (2, 1)}, r"sizes must be >= 2 throughout, was \(2, 1\)"),
        ({"kind": "d"}, "kind must be a, b or c, was 'd'"),
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
