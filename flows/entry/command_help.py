"""Help on the command line: one screen with what most runs need and two examples, and `--help-all` with the rest.

And what is said of a command line that can't be read.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cyclopts
from cyclopts.help import DefaultFormatter
from cyclopts.panel import CycloptsPanel

if TYPE_CHECKING:
    from cyclopts.exceptions import CycloptsError
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions
    from rich.panel import Panel

_FEW = 8  # so many options fit the first screen whatever they are
_FIRST = {
    "--symbol", "--symbols", "--category", "--interval", "--exchange", "--candles", "--funding", "--start", "--end",
    "--days", "--preset", "--labels.horizon", "--synthetic.kind", "--reason", "--mode", "--version", "--steps",
    "--seeds",
}  # fmt: skip
_COLUMN = 32  # where descriptions begin on the second screen
_OF_PYDANTIC = re.compile(r"\d+ validation errors? for \S+\n\s*|\s*\[type=.*", re.DOTALL)
_NOTHING = ("()", '""')  # a default that says no more than its absence


class _FirstScreen(DefaultFormatter):
    """Leaves out the options that few runs need, and of the others' descriptions all but the first statement."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        if panel.format != "parameter":
            return
        few = len(panel.entries) <= _FEW
        entries = [_short(entry) for entry in panel.entries if few or _FIRST & set(entry.names)]
        more = len(panel.entries) - len(entries)
        title = f"Options ({more} more: --help-all)" if more else "Options"
        super().__call__(console, options, panel.copy(title=title, entries=entries))


class _Everything(DefaultFormatter):
    """Says in a line or two of every option: its default, or what it takes, and the first statement about it."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        if panel.format != "parameter":
            return
        for entry in (_short(entry, ".;") for entry in panel.entries):
            text = f"{_usage(entry):<{_COLUMN - 2}}  {entry.description}"
            indent = " " * _COLUMN
            console.out("\n".join(textwrap.wrap(text, options.max_width, subsequent_indent=indent)), highlight=False)


def _usage(entry: HelpEntry) -> str:
    """Return how an option is written: with its default, other choices behind it, or with the type of what it takes.

    Of a switch it is the name that changes the default.
    """
    name, default = entry.names[0], str(entry.default or "")
    if entry.type is bool:
        return entry.negative_names[0] if default == "True" else name
    if entry.choices:
        return f"{name}={'|'.join(dict.fromkeys([default, *entry.choices] if default else entry.choices))}"
    return f"{name}={default}" if default else f"{name} {entry.metavar or ''}"


def _short(entry: HelpEntry, ends: str = ".;:") -> HelpEntry:
    said = " ".join(str(getattr(entry.description, "primary_renderable", entry.description) or "").split())
    first = re.split(rf"(?<=[^0-9])[{ends}] |\.$", said, maxsplit=1)[0]
    return entry.copy(description=first, default=None if entry.default in _NOTHING else entry.default)


def _error_box(error: CycloptsError) -> Panel:
    """Return what is said of an option's value: the rule alone, without Pydantic's type, input and address."""
    text = _OF_PYDANTIC.sub("", str(error))
    return CycloptsPanel(text.replace("into datetime.", "into a time such as 2025-01-31 or 2025-01-31T12:00."))


def command_app(command: Callable[..., Any], examples: Sequence[str]) -> cyclopts.App:
    """Return what parses a command line into the parameters of `command` and calls it.

    `examples` stand on the first screen, without `python -m`.
    """
    app = cyclopts.App(
        name="python -m " + examples[0].split()[0],
        version_flags=(),
        help_format="plaintext",
        help_formatter=_FirstScreen(),
        error_formatter=_error_box,
        help_epilogue="\n".join(["Examples:", *(f"  python -m {example}" for example in examples)]),
        result_action="return_value",
    )
    app.default(command)

    @app.command(name="--help-all", show=False)
    def help_all() -> None:
        app.help_formatter = _Everything()
        app.help_print([])

    return app
