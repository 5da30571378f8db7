"""A flow's parameters as the form that the Prefect UI shows: what each field means, and which values it takes.

Both are known already: a config's docstring describes its fields, and its constructor refuses what breaks a rule, with
the rule in words. So they are asked for, and stated nowhere twice. Prefect's server then refuses a value out of bounds
when a run is created, before anything starts.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from storage.schema import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

_FAR = 10**9 + 1  # no bounded field takes as much; odd, for the one that must be odd
_HALVINGS = 64  # of 1e9, which leaves 5e-11
_DIGITS = 9  # after the point, of a bound


def form(function: F) -> F:
    """Describe every field of the configs among a function's parameters; the decorator below `@flow`."""
    hints = get_type_hints(function, include_extras=True)
    for name, hint in hints.items():
        kind = get_args(hint)[0] if get_args(hint) and hasattr(hint, "__metadata__") else hint
        if name != "return" and dataclasses.is_dataclass(kind):
            hints[name] = Annotated[hint, _Described()]
    function.__annotations__ = hints
    return function


class _Described:
    """Adds to the JSON schema of a config, and of those inside it, what each field means and takes."""

    def __get_pydantic_core_schema__(self, source: type, handler: Callable[[type], CoreSchema]) -> CoreSchema:
        self._configs = {config.__name__: config for config in _nested(source)}
        return handler(source)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        self._describe(schema, handler, set())
        return schema

    def _describe(self, schema: JsonSchemaValue, handler: GetJsonSchemaHandler, done: set[str]) -> None:
        for option in schema.get("anyOf", [schema]):
            resolved = handler.resolve_ref_schema(option) if "$ref" in option else option
            config = self._configs.get(resolved.get("title", ""))
            if config is None or config.__name__ in done:
                continue
            done.add(config.__name__)
            summary, fields = described_fields(config)
            resolved["description"] = summary
            for name, field in resolved["properties"].items():
                field["description"] = fields.get(name, "")
                for numbers in field.get("anyOf", [field]):
                    if numbers.get("type") in ("integer", "number"):
                        numbers.update(bounds(config, name, whole=numbers["type"] == "integer"))
                self._describe(field, handler, done)


def described_fields(config: type) -> tuple[str, dict[str, str]]:
    """Return the first paragraph of a config's docstring, and what it says of each attribute."""
    text = re.sub(r"\n +", lambda indent: indent.group().replace(" " * 4, "\t"), config.__doc__ or "")
    summary, _, attributes = text.partition("\n\tAttributes:\n")
    found = re.findall(r"^\t\t([a-z_, ]+): (.*(?:\n\t\t\t.*)*)", attributes, re.M)
    fields = {name.strip(): " ".join(said.split()) for names, said in found for name in names.split(",")}
    return summary.partition("\n\n")[0].strip(), fields


@functools.cache
def bounds(config: type, name: str, *, whole: bool) -> Mapping[str, float]:
    """Return the bounds of a number, as JSON schema names them, found by asking the constructor.

    Only a refusal that names the field counts: a rule over several fields bounds none of them alone.

    Args:
        config: A dataclass whose other fields have defaults.
        name: The field.
        whole: Whether it takes whole numbers only.
    """
    good = _accepted(config, name)
    if good is None:
        return {}
    found: dict[str, float] = {}
    for far, inclusive, exclusive in ((-_FAR, "minimum", "exclusiveMinimum"), (_FAR, "maximum", "exclusiveMaximum")):
        if _refuses(config, name, far):
            limit = _edge(config, name, good, far, whole=whole)
            if limit is not None:
                found[exclusive if _refuses(config, name, limit) else inclusive] = limit
    return found


def _edge(config: type, name: str, good: float, bad: float, *, whole: bool) -> float | None:
    """Return by bisection where a rule begins to refuse; None for one that is no bound, such as "odd"."""
    for _ in range(_HALVINGS):
        middle = (good + bad) // 2 if whole else (good + bad) / 2
        if middle in (good, bad):
            break
        if _refuses(config, name, middle):
            bad = middle
        else:
            good = middle
    if whole:
        return good if _refuses(config, name, bad + (bad - good)) else None
    return round(good, _DIGITS)


def _accepted(config: type, name: str) -> float | None:
    default = getattr(config(), name)
    for value in (default, 1, 0.5):
        if isinstance(value, int | float) and not _refuses(config, name, value):
            return value
    return None


def _refuses(config: type, name: str, value: float) -> bool:
    try:
        config(**{name: value})
    except ConfigError as err:
        return str(err).startswith(f"{name} must")
    return False


def _nested(config: type) -> Iterator[type]:
    """Yield a config and every config among its fields, at any depth."""
    yield config
    for hint in get_type_hints(config).values():
        for kind in get_args(hint) or (hint,):
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                yield from _nested(kind)
