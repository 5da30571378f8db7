"""Every trial whose unseen bars were looked at: how many there were, and how far their results lie apart, are facts.

    <url>/<source, with '-' for ':'>/<name>/trials/<key>.json

One file a trial, made whole and only where none was: the log grows and never changes. The same work asked for again has
the same key and is the same trial; another seed, threshold, feature, dataset or line of code is another one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from storage.objects import ObjectStore
from storage.schema import ArtifactError, Source, parse_source

_KEY = re.compile(r"[a-z]+-[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One strategy on unseen bars.

    Attributes:
        key: Of everything that it was made from.
        source: Where the candles came from.
        name: The market's slug.
        dataset: Id of the dataset.
        first_day: First unseen UTC day, days since 1970.
        daily_returns: Net, one a UTC day.
        sharpe_per_day: Mean over standard deviation of them; 0 for a trial that never moved.
        made_from: What was tried: network, training, labels, thresholds, seed; plain JSON.
    """

    key: str
    source: Source
    name: str
    dataset: str
    first_day: int
    daily_returns: tuple[float, ...]
    sharpe_per_day: float
    made_from: Mapping[str, Any]

    def __post_init__(self) -> None:
        parse_source(self.source)
        if not _KEY.fullmatch(self.key):
            raise ArtifactError(f"a trial's key must be a word, a dash and 16 hex digits, was {self.key!r}")
        if not all(map(math.isfinite, (*self.daily_returns, self.sharpe_per_day))):
            raise ArtifactError(f"trial {self.key} must have finite returns and Sharpe ratio, has others")


class TrialLog:
    """The log beside the versions.

    Args:
        url: A path or any fsspec URL, as of the artifact store.
    """

    def __init__(self, url: str) -> None:
        self._objects = ObjectStore(url)

    def append(self, trial: Trial) -> None:
        """Log a trial; one that is logged already stays as it was first logged.

        Raises:
            ArtifactError: The store refuses.
        """
        content = json.dumps(asdict(trial), sort_keys=True, allow_nan=False).encode()
        with suppress(FileExistsError):
            self._objects.create(f"{_folder(trial.source, trial.name)}/{trial.key}.json", content)

    def trials(self, source: Source, name: str) -> tuple[Trial, ...]:
        """Return every trial of a market from a source, in the order of their keys.

        Raises:
            ArtifactError: An entry is damaged, or of another source or market.
        """
        folder = _folder(source, name)
        return tuple(self._read(folder, file, source, name) for file in self._objects.names(folder))

    def _read(self, folder: str, file: str, source: Source, name: str) -> Trial:
        try:
            document = json.loads(self._objects.read(f"{folder}/{file}"))
            trial = Trial(**document | {"daily_returns": tuple(document["daily_returns"])})
        except (ValueError, TypeError, KeyError) as err:
            raise ArtifactError(f"trial {folder}/{file} is damaged ({err!r}); restore it from a backup") from err
        if (trial.source, trial.name, f"{trial.key}.json") != (source, name, file):
            raise ArtifactError(
                f"trial {folder}/{file} must be of {source} {name}, was {trial.key} of {trial.source} {trial.name}"
            )
        return trial


def sharpe_per_strategy(trials: Iterable[Trial]) -> list[float]:
    """Return the Sharpe ratio per day of each strategy once: a retrain on newer bars measures the same one again."""
    newest: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.first_day + len(trial.daily_returns)):
        newest[json.dumps(trial.made_from, sort_keys=True)] = trial
    return [trial.sharpe_per_day for trial in newest.values()]


def _folder(source: Source, name: str) -> str:
    return f"{parse_source(source).replace(':', '-')}/{name}/trials"
