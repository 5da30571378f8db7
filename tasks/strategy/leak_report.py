"""The leak report of a version, as it is kept: no torch, which only those who check need."""

import json
from dataclasses import asdict, dataclass

from storage.results import ResultStore
from storage.schema import DatasetRef
from tasks.market.leaks import LeakCheck
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe

CHECKS = 11
"""How many checks there are."""


@dataclass(frozen=True, kw_only=True)
class LeakReport:
    """Every leak check of a version.

    Attributes:
        checks: In the order of the ways in: features, predictions, labels, folds; then those of the code alone.
    """

    checks: tuple[LeakCheck, ...]

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed; none if nothing leaked and the planted leak was caught."""
        return tuple(check.name for check in self.checks if not check.passed)


def leaks_key(data: DatasetRef, recipe: Recipe, fold: str) -> str:
    """Return the key of the report on a fold's model: of the model, the code, the dataset, and how that is divided."""
    made_from = {
        "fold": fold,
        "code": code_behind("tasks.strategy.leak_suite"),
        "dataset": data.id,
        "labels": [recipe.labels, recipe.costs.round_trip],
        "folds": [recipe.folds, recipe.pool, recipe.network_config.context],
    }
    return ResultStore.key("leaks", made_from)


def leaks_json(report: LeakReport) -> bytes:
    """Return the report as a version keeps it."""
    return json.dumps(asdict(report) | {"passed": not report.failed}, indent=1).encode()
