"""Every network that a search trained, append-only: what it was, and what it scored on bars that it had not seen.

    <url>/<source, with '-' for ':'>/<name>/searches/<key>.json

None of it has traded, so none is a trial (trials.py); but who chose from this log has looked as often as it is long.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from storage.objects import ObjectStore
from storage.schema import ArtifactError, Source, parse_source


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One network, trained on every fold.

    Attributes:
        key: Of everything that it was made from.
        source: Where the candles came from.
        name: The market's slug.
        log_loss: Calibrated, on the folds' test bars, nats.
        learned: What training took off the validation loss that it started from, before calibration, mean, nats.
        seconds: Wall time of the trainings.
        made_from: Dataset, network, training, labels, code, seed; plain JSON.
    """

    key: str
    source: Source
    name: str
    log_loss: float
    learned: float
    seconds: float
    made_from: Mapping[str, Any]

    def __post_init__(self) -> None:
        parse_source(self.source)
        if not all(map(math.isfinite, (self.log_loss, self.learned))):
            raise ArtifactError(f"candidate {self.key} must have finite losses, had {self.log_loss}, {self.learned}")


class SearchLog:
    """The log beside the versions.

    Args:
        url: A path or any fsspec URL, as of the artifact store.
    """

    def __init__(self, url: str) -> None:
        self._objects = ObjectStore(url)

    def append(self, candidate: Candidate) -> None:
        """Log a candidate; one that is logged already stays as it was first logged.

        Raises:
            ArtifactError: The store refuses.
        """
        content = json.dumps(asdict(candidate), sort_keys=True, allow_nan=False).encode()
        with suppress(FileExistsError):
            self._objects.create(f"{_folder(candidate.source, candidate.name)}/{candidate.key}.json", content)

    def count(self, source: Source, name: str) -> int:
        """Return how many candidates were tried on a market from a source."""
        return len(self._objects.names(_folder(source, name)))

    def find(self, source: Source, name: str, key: str) -> Candidate | None:
        """Return a candidate, or None where none is logged under this key.

        Raises:
            ArtifactError: The entry is damaged, or of another source or market.
        """
        folder = _folder(source, name)
        if f"{key}.json" not in self._objects.names(folder):
            return None
        try:
            candidate = Candidate(**json.loads(self._objects.read(f"{folder}/{key}.json")))
        except (ValueError, TypeError) as err:
            raise ArtifactError(f"candidate {folder}/{key} is damaged ({err!r}); delete it and search again") from err
        if (candidate.source, candidate.name, candidate.key) != (source, name, key):
            found = f"{candidate.key} of {candidate.source} {candidate.name}"
            raise ArtifactError(f"candidate {folder}/{key} must be of {source} {name}, was {found}")
        return candidate


def _folder(source: Source, name: str) -> str:
    return f"{parse_source(source).replace(':', '-')}/{name}/searches"
