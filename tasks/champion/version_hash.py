"""What names a version: the hash of everything that it was made from."""

from storage.results import canonical_json
from storage.schema import DatasetRef, content_hash
from tasks.strategy.provenance import code_behind
from tasks.strategy.recipe import Recipe


def version_hash(data: DatasetRef, recipe: Recipe, weights: bytes) -> str:
    """Return the 8 hex digits that name a version, of everything that it was made from and of no clock or path."""
    document = canonical_json({"recipe": recipe.resolved, "dataset": data.id, "code": version_code()})
    return content_hash([weights, document])[:8]


def version_code() -> str:
    """Return the hash of the code behind a version: of its weights, evaluation, baselines and leak report."""
    steps = "fold_training", "backtest_record", "baseline_comparison", "leak_suite"
    return code_behind(*(f"tasks.strategy.{step}" for step in steps))
