"""What a version says of itself: what it was made from, how it decides, how it was judged. Its numbers lie beside it.

`storage/artifacts.py` seals the document and checks what any store must; here it becomes one frozen object, so that
nobody who serves, watches or compares a version reads a dictionary by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from storage.artifacts import STORE_KEYS, ArtifactStore
from storage.bounds import Moment
from storage.foreign import OTHERWISE, parse_json, refusing
from storage.schema import CLASSES, ArtifactError, FloatArray, Market, VersionRef, one_line
from storage.sealed import Document
from storage.trials import Origin
from tasks.champion.promotion import Check, Judgement
from tasks.execution.comparison_rows import ComparisonRow
from tasks.market.walk_forward import TrainingEnd
from tasks.strategy.recipe import Recipe
from tasks.strategy.vol_forecast_rule import VolForecastRule


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A version in a few numbers, all on its unseen bars.

    Attributes:
        lines: The model, the best baseline, buy and hold.
        sharpe_low, sharpe_high: 95 % interval of the model's Sharpe ratio; None where there is none.
        edge_bp: Mean of what a move earned on the side that the model named, before costs, basis points; None without
            a move.
        warnings: What to know before believing any of it, one line each.
    """

    days: float
    lines: tuple[ComparisonRow, ...]
    sharpe_low: float | None
    sharpe_high: float | None
    edge_bp: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What stands in `manifest.json` beside what the store itself puts there.

    Attributes:
        features: The model's inputs, in their order.
        origin_detail: The replayed file, or the synthetic market's law and seed; empty for an exchange.
        dataset: Id of the bars that it was made from.
        recipe: How, presets filled in.
        code: Hash of the code behind its numbers.
        libraries: Version of Python and of each library that shaped them.
        trained_until_ms: Open time of the last bar that it was fitted on, its validation's, UTC milliseconds.
        label_span_ms: How far that bar's label looks ahead.
        class_means: (3,) what each class earned in training, in units of vol * sqrt(horizon).
        risk: The verdict on what it forecasts of volatility, condition by condition.
    """

    # Of every part, too: a number is a finite number, and what is not known is refused.
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    features: tuple[str, ...]
    market: Market
    origin: Origin
    origin_detail: str
    dataset: str
    recipe: Recipe
    code: str
    libraries: Mapping[str, str]
    trained_until_ms: Moment
    label_span_ms: Moment
    class_means: tuple[float, float, float]
    judgement: Judgement
    risk: tuple[Check, ...]
    summary: Summary

    @property
    def training_end(self) -> TrainingEnd:
        """Up to where the published weights know the market."""
        return {"trained_until_ms": self.trained_until_ms, "label_span_ms": self.label_span_ms}

    def document(self) -> Document:
        """Return it as plain JSON, to be published."""
        document: Document = _MANIFEST.dump_python(self, mode="json")
        return document

    @classmethod
    def of(cls, document: Mapping[str, Any], ref: VersionRef) -> Manifest:
        """Return what `document` wrote, as the store gives it back.

        What is missing is not filled in: a default of today is not what went without saying on another day, which is
        known of each earlier format.

        Raises:
            ArtifactError: A part is missing, unknown, of another type, or not finite.
        """
        own = {name: part for name, part in document.items() if name not in STORE_KEYS}
        if document.get("format") in (1, 2):
            own = _said_in_format_2(_said_in_format_1(own) if document["format"] == 1 else own)
        try:
            manifest = _MANIFEST.validate_json(json.dumps(own))
            wrong = next(_missing(own, manifest.document()), "")
        except ValidationError as err:
            first = err.errors()[0]
            wrong = one_line(f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}")
        if wrong:
            raise ArtifactError(f"manifest of {ref} does not fit this program ({wrong}); roll back or retrain")
        return manifest


def _said_in_format_1(said: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of format 1 with what went without saying then.

    Folds were cut by shares, a market learned by itself, costs were charged as they stood, and no volatility was
    forecast.
    """
    recipe = said.get("recipe")
    parts: dict[str, dict[str, Any]] = {"folds": {"cut": "shares"}, "network": {"risk_head": False}}
    if not (isinstance(recipe, dict) and all(isinstance(recipe.get(part), dict) for part in parts)):
        return said
    unforeseen = Check(name="risk is foreseen", passed=False, found="no: made before it was", wanted="a forecast")
    filled = {name: {**unsaid, **recipe[name]} for name, unsaid in parts.items()}
    recipe = {"fees": "own", "risk": asdict(VolForecastRule()), "pool": [], **recipe, **filled}
    return {"risk": [asdict(unforeseen)], **said, "recipe": recipe}


def _said_in_format_2(said: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest of format 2 with what went without saying then: every position was of one size."""
    recipe = said.get("recipe")
    if not (isinstance(recipe, dict) and isinstance(recipe.get("decision"), dict)):
        return said
    sized = {"sizing": "fixed", "target_vol": 0.5, **recipe["decision"]}
    return {**said, "recipe": {**recipe, "decision": sized}}


def read_manifest(store: ArtifactStore, ref: VersionRef) -> Manifest:
    """Return a version's verified manifest.

    Raises:
        ArtifactError: The version is unknown, or its manifest is damaged or does not fit this program.
    """
    return Manifest.of(store.manifest(ref), ref)


def training_shares(store: ArtifactStore, ref: VersionRef) -> FloatArray:
    """Return what share each class had in the training of a version's newest fold, (3,).

    Raises:
        ArtifactError: The version is unknown or damaged, or its folds.json is not as it is written.
    """
    with refusing(f"folds.json of version {ref} is not as it is written", *OTHERWISE):
        shares: FloatArray = np.array(parse_json(store.read(ref, "folds.json"))[-1]["prior"], np.float64)
        if shares.shape != (len(CLASSES),) or not (shares >= 0).all():
            raise ValueError(f"the shares must be {len(CLASSES)}, were {shares.shape}")
        return shares


def _missing(said: Any, whole: Any, name: str = "") -> Iterator[str]:
    if isinstance(whole, dict):
        for key, part in whole.items():
            place = f"{name}.{key}" if name else key
            yield from _missing(said[key], part, place) if key in said else iter((f"{place}: Field required",))
    elif isinstance(whole, list):
        for place, part in enumerate(whole):
            yield from _missing(said[place], part, f"{name}.{place}")


_MANIFEST = TypeAdapter(Manifest)
