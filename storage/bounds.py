"""Bounds in a config field's type, such as `Annotated[float, Ge(0), Lt(1)]`, and a base class that checks them.

Pydantic reads the same types, so Prefect's form shows the bounds and its server refuses invalid values before a run
begins. `Checked` checks them wherever else a config is made, with error messages of this project.
"""

import functools
import math
import operator
from collections.abc import Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, Unit

from storage.schema import DAY_MS, END_OF_TIME_MS, ConfigError

PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
HalfOpen = Annotated[float, Ge(0), Lt(1)]
ProperShare = Annotated[float, Gt(0), Lt(1)]
Threads = Annotated[int, Ge(1), Le(256)]
Moment = Annotated[int, Ge(0), Le(END_OF_TIME_MS)]
"""UTC milliseconds within the calendar."""
Day = Annotated[int, Ge(0), Le(END_OF_TIME_MS // DAY_MS)]
"""UTC days since 1970, within the calendar."""
Seed = Annotated[int, Ge(0), Lt(2**31)]
"""Seed that every random number generator in use accepts."""

_KINDS: dict[type, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (bool, "True or False"),
    str: (str, "text"),
}
"""Accepted classes of each type, NumPy's numbers included, and the type's name in messages."""
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class Checked:
    """Base of a dataclass that checks the types of its fields and their bounds: Ge, Gt, Le, Lt and Literal.

    Numbers must be finite, even without bounds; a float field accepts an integer; a number field refuses True and
    False. A type may be `<type> | None` or `tuple[<type>, ...]`; a `Unit` appears in the error message. Rules over
    several fields belong in the class's own `__post_init__`, which calls this one first.

    Raises:
        ConfigError: A value breaks a rule.
    """

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]  # a class is hashable
            value = getattr(self, name)
            if rule := _broken(hint, value):
                raise ConfigError(f"{name} must be {rule}, was {value!r}")


@functools.cache
def _hints(config: type) -> dict[str, Any]:
    return get_type_hints(config, include_extras=True)


def _broken(hint: Any, value: Any) -> str:
    """Return the rule of the type that the value breaks, in words; empty if it breaks none."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType) and NoneType in parts:
        rule = "" if value is None else _broken(next(part for part in parts if part is not NoneType), value)
        return rule and f"{rule}, or None"
    if kind is tuple:
        if not isinstance(value, tuple):
            return "a tuple"
        return next((f"{rule} throughout" for one in value if (rule := _broken(parts[0], one))), "")
    if kind is Literal:
        return "" if value in parts else " or ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    plain, marks = (parts[0], parts[1:]) if kind is Annotated else (hint, ())
    if get_origin(plain) is not None and plain is not hint:
        return _broken(plain, value)
    if not isinstance(plain, type):  # such as a mapping, which is not checked
        return ""
    of_kind, said = _KINDS.get(plain, (plain, plain.__name__))
    fits = isinstance(value, of_kind) and isinstance(value, bool) == (plain is bool)
    if plain not in (int, float):
        return "" if fits else said
    bounds = {name: getattr(mark, name) for mark in marks if (name := type(mark).__name__.lower()) in _SIGNS}
    finite = fits and abs(value) < math.inf  # math.isfinite would overflow on an integer of 400 digits
    if finite and all(getattr(operator, name)(value, bound) for name, bound in bounds.items()):
        return ""
    unit = next((f" {mark.unit}" for mark in marks if isinstance(mark, Unit)), "")
    limits = _range(bounds) + unit
    if not fits:
        return f"{said} {limits}".rstrip()
    return " and ".join(filter(None, ("" if finite else "finite", limits)))


def _range(bounds: Mapping[str, float]) -> str:
    """Return bounds as text: >= 1, < 1, in 0..1, or in [0, 1) where an end is excluded."""
    if len(bounds) < 2:
        return "".join(f"{_SIGNS[name]} {bound}" for name, bound in bounds.items())
    (low, least), (high, most) = sorted(bounds.items())
    if (low, high) == ("ge", "le"):
        return f"in {least}..{most}"
    return f"in {'[' if low == 'ge' else '('}{least}, {most}{']' if high == 'le' else ')'}"
