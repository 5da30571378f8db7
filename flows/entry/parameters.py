"""The parameters that flows share, with their titles in the form; and what a run is called by them."""

from collections.abc import Callable, Sequence
from typing import Annotated

from cyclopts import Parameter, Token
from prefect.runtime import flow_run
from pydantic import Field

from flows.entry.form import Folded
from storage.schema import SYMBOL, Market, Title
from tasks.exchange.connection import ExchangeConfig
from tasks.ingestion.bar_range import BarRange
from tasks.ingestion.quality import QualityConfig
from tasks.strategy.recipe import Recipe

_FLAT = Parameter(name="*")  # on a command line its fields stand without a prefix
OneMarket = Annotated[Market, _FLAT]
Exchange = Annotated[ExchangeConfig, _FLAT, Title("Exchange or sandbox")]
Bars = Annotated[BarRange, _FLAT, Title("Which candles")]
Quality = Annotated[QualityConfig, _FLAT, Folded, Title("When data is too bad")]
HowMade = Annotated[Recipe, _FLAT, Folded, Title("How the model is made and judged")]


def _comma_separated(_: type, tokens: Sequence[Token]) -> tuple[str, ...]:
    names = (name.strip() for token in tokens for name in token.value.split(","))
    return tuple(Market(symbol=name).symbol for name in names if name)


_Symbol = Annotated[str, Field(pattern=f"^{SYMBOL.pattern}$")]
Symbols = Annotated[
    tuple[_Symbol, ...],
    Parameter(converter=_comma_separated, n_tokens=1, negative=""),
    Title("Many markets in place of one"),
]
"""On a command line, one comma-separated text."""


def run_name(flow: str) -> Callable[[], str]:
    """Return what names a run of `flow`: by its markets, exchange and range.

    A name refuses nothing: a run that can't be named never begins, and stays pending for ever.
    """

    def name() -> str:
        given = flow_run.parameters
        market = given["market"]
        symbols = " ".join(given["symbols"]) or market.symbol
        rest = str(market).removeprefix(market.symbol)
        return f"{flow} {symbols}{rest} {given['exchange'].exchange} {given['bars'].text}"

    return name
