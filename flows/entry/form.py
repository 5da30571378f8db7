"""A flow's parameters as the form that the Prefect UI shows: what each field means, and which values it takes.

Both are known already: a config's docstring describes its fields, and their types hold the bounds, which Pydantic reads
(`storage/bounds.py`), and a `Title` where a name alone is no plain words. So nothing is stated twice, and Prefect's
server refuses a value out of bounds when a run is created, before anything starts.

A config inside another, and what the flow marks as `Folded`, is one line that says "as usual" until somebody opens it.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue

from storage.schema import Hidden, Title

F = TypeVar("F", bound=Callable[..., Any])

AS_USUAL, CHANGED = "as usual", "changed"
"""What a folded config says, closed and open."""

_KINDS = {
    "null": "none", "integer": "number", "number": "number", "string": "text", "date-time": "date and time"
}  # fmt: skip
_PLACEHOLDER = re.compile(r"<(\w+)>")  # which a browser takes for markup, and leaves out


class Folded:
    """Marks a parameter of a flow that most people leave as it is."""


def form(function: F) -> F:
    """Describe every parameter of a flow, and every field of the configs among them; the decorator below `@flow`."""
    hints = get_type_hints(function, include_extras=True)
    for name, hint in hints.items():
        if name == "return":
            continue
        kind, marks = _parts(hint)
        extra: dict[str, Any] = {"title": _title(name, marks)}
        if _is_config(kind):
            folded = Folded in marks
            extra["default"] = None if folded else {}  # so that its fields take their own, folded ones included
            opened = BeforeValidator(functools.partial(_opened, kind))
            hint = Annotated[hint, opened, _Described(kind, folded=folded)]
        hints[name] = Annotated[hint, Field(json_schema_extra=extra)]
    function.__annotations__ = hints
    return function


class _Described:
    """Adds to the JSON schema of a config, and of those inside it, what each field means and takes.

    `folded` says whether the config stands in one line, as those inside it do.
    """

    def __init__(self, config: type, *, folded: bool) -> None:
        self._folded = folded
        self._configs = {one.__name__: one for one in _nested(config)}

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        self._describe(schema, handler, set())
        return _fold(schema) if self._folded else schema

    def _describe(self, schema: JsonSchemaValue, handler: GetJsonSchemaHandler, done: set[str]) -> None:
        for option in schema.get("anyOf", [schema]):
            resolved = handler.resolve_ref_schema(option) if "$ref" in option else option
            config = self._configs.get(resolved.get("title", ""))
            if config is None or config.__name__ in done:
                continue
            done.add(config.__name__)
            summary, fields = described_fields(config)
            hints = get_type_hints(config, include_extras=True)
            hidden = {name for name, hint in hints.items() if Hidden in _parts(hint)[1]}
            resolved |= {"title": CHANGED, "description": summary + _more(hidden)}
            for name in hidden:
                del resolved["properties"][name]
            for name, field in resolved["properties"].items():
                marks = _parts(hints[name])[1]
                field |= {"title": _title(name, marks), "description": fields.get(name, "")} | _pattern(marks)
                self._describe(field, handler, done)
                if "$ref" in field:
                    field |= _fold({"$ref": field.pop("$ref")}) | {"default": None}
                _name_options(field)


def _fold(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [{"type": "null", "title": AS_USUAL}, schema]}


def _more(hidden: Collection[str]) -> str:
    return f" By JSON or on a command line also: {', '.join(sorted(hidden))}." if hidden else ""


def _name_options(field: JsonSchemaValue) -> None:
    """Name the kinds of value between which a field lets choose."""
    options = field.get("anyOf", [])
    of_config = any("$ref" in option for option in options)
    for option in options:
        kind = option.get("format") or option.get("type")
        if kind is not None:
            option["title"] = AS_USUAL if kind == "null" and of_config else _KINDS[kind]


def _title(name: str, marks: Sequence[Any]) -> str:
    """Return what the form calls a field."""
    words = name[:1].upper() + name[1:].replace("_", " ")
    return next((str(mark) for mark in marks if isinstance(mark, Title)), words)


def _pattern(marks: Sequence[Any]) -> dict[str, str]:
    """Return what a text must look like, where its type says so."""
    return next(({"pattern": f"^{mark.pattern}$"} for mark in marks if isinstance(mark, re.Pattern)), {})


def _opened(config: type, given: Any) -> Any:
    """Return what a form gave for a config, without the configs inside it that it left as usual."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return given
    inside = {name: kind for name, hint in get_type_hints(config).items() if _is_config(kind := _parts(hint)[0])}
    return {
        name: _opened(inside[name], value) if name in inside else value
        for name, value in given.items()
        if name not in inside or value is not None
    }


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return a type and what it is annotated with."""
    return (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def described_fields(config: type) -> tuple[str, dict[str, str]]:
    """Return the first line of a config's docstring, and what it says of each attribute."""
    said = docstring_parser.parse(config.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    fields: dict[str, str] = {}
    for one in said.params:
        text = _PLACEHOLDER.sub(lambda found: found[1].upper(), " ".join((one.description or "").split()))
        fields |= dict.fromkeys(one.arg_name.split(", "), text)
    return said.short_description or "", fields


def _nested(config: type) -> Iterator[type]:
    """Yield a config and every config among its fields, at any depth."""
    yield config
    for hint in get_type_hints(config).values():
        for kind in get_args(hint) or (hint,):
            if _is_config(kind):
                yield from _nested(kind)
