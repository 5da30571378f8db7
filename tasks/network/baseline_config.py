"""What the simple models may try; apart from them, since whoever serves a model reads its recipe and trains nothing."""

from dataclasses import dataclass
from typing import Annotated, Self

from annotated_types import Ge, Le

from storage.bounds import Checked, PositiveFloat, PositiveInt, Seed, Threads
from storage.schema import ConfigError, Title

_Penalties = tuple[PositiveFloat, ...]


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(Checked):
    """What the simple models may try; both grids have one size, so that neither searches longer than the other.

    Attributes:
        strengths: Inverse L2 penalties of the logistic regression (scikit-learn's C).
        leaves: Leaves per tree of the boosting; LightGBM takes 131,072 at most.
        boosting_rate: Shrinkage of each tree.
        most_trees: Trees at most; validation stops it earlier.
        patience: Trees without a better validation loss before it stops.
        leaf_bars: Fewest bars in a leaf: labels overlap, so fewer would be one event.
        twin: Whether the network's twin, standard convolutions for separable ones or the reverse, is trained too.
        seed: Of the boosting.
        threads: Of both; one gives the same trees and sums everywhere.
    """

    strengths: Annotated[_Penalties, Title("Penalties of the logistic regression")] = (0.0001, 0.001, 0.01, 0.1)
    leaves: Annotated[tuple[Annotated[int, Ge(2), Le(131_072)], ...], Title("Leaves of a tree")] = (2, 4, 12, 32)
    boosting_rate: PositiveFloat = 0.05
    most_trees: Annotated[PositiveInt, Title("Trees at most")] = 400
    patience: Annotated[PositiveInt, Title("Trees without gain before it stops")] = 20
    leaf_bars: Annotated[PositiveInt, Title("Bars in a leaf at least")] = 200
    twin: Annotated[bool, Title("Standard convolutions as well")] = True
    seed: Seed = 7
    threads: Threads = 1

    def weaker_than(self, other: Self) -> tuple[str, ...]:
        """Return what makes the simple models weaker than another's, with both values; a weak rival is soon beaten."""
        lacking = [
            f"baselines.{name} without {', '.join(f'{one:g}' for one in sorted(missing))}"
            for name in ("strengths", "leaves")
            if (missing := {*getattr(other, name)} - {*getattr(self, name)})
        ]
        fewer = [name for name in ("most_trees", "patience") if getattr(self, name) < getattr(other, name)]
        # Smaller or larger may be the weaker one.
        odd = [name for name in ("boosting_rate", "leaf_bars") if getattr(self, name) != getattr(other, name)]
        both = (f"baselines.{name} {getattr(self, name):g} ({getattr(other, name):g})" for name in (*fewer, *odd))
        return (*lacking, *both)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strengths or len(self.strengths) != len(self.leaves):
            raise ConfigError(
                f"strengths and leaves must be grids of one size >= 1, had {len(self.strengths)} and {len(self.leaves)}"
            )
