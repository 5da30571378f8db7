"""Many markets in place of one: how a flow takes their symbols, and what its run is then called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from cyclopts import Parameter, Token
from prefect.runtime import flow_run

from tasks.fan_out import distinct


def _comma_separated(_: type, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(name.strip() for token in tokens for name in token.value.split(",") if name.strip())


Symbols = Annotated[tuple[str, ...], Parameter(converter=_comma_separated, n_tokens=1, negative="")]
"""On a command line, one comma-separated text."""


def run_name(flow: str) -> Callable[[], str]:
    """Return what names a run of `flow`: by its markets, exchange and range."""

    def name() -> str:
        given = flow_run.parameters
        what = " ".join(str(market) for market in distinct(given["market"], given["symbols"])) or given["market"]
        return f"{flow} {what} {given['exchange'].exchange} {given['bars'].text}"

    return name
