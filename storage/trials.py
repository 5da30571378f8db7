"""Logs of everything that was tried, from which the deflated Sharpe ratio takes the number and spread of the trials.

    <url>/<source, with '-' for ':'>/<name>/trials/<key>.json       strategies that were evaluated on held-out bars
                                            searches/<key>.json     networks that a search trained
                                            looks/<key>.json        versions that were compared with a champion

Each entry is one file, created atomically: entries are added but never changed. Repeating the same work gives the same
key and adds no entry; another seed, threshold, feature, dataset or version of the code is a new entry. A network of a
search has not traded, so it is not a trial; but a strategy that was chosen from a search log counts as many tests as
the log has entries.
"""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

from storage.authorship import Place, Where
from storage.bounds import Checked, Day
from storage.foreign import parse_json
from storage.objects import ObjectStore
from storage.schema import ArtifactError, ConfigError, Source, content_hash, one_line, parse_source
from storage.sealed import shape_of
from storage.version_names import market_folder

Origin = Literal["exchange", "replayed", "synthetic"]
"""Origin of the candles: Bybit itself, or a sandbox that replays a recording or generates a market."""

_KEY = re.compile(r"[a-z]+-[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class Tried(Checked):
    """One entry of a log.

    Attributes:
        key: Hash of all its inputs.
        name: The market's slug.
        origin: Origin of the candles. A replayed file with one more bar is another source but the same market, so
            sources can be matched by it. None in entries of older versions.
    """

    folder: ClassVar[str]

    key: str
    source: Source
    name: str
    origin: Origin | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_source(self.source)
        if not _KEY.fullmatch(self.key):
            raise ConfigError(f"key must be a word, a dash and 16 hex digits, was {self.key!r}")


@dataclass(frozen=True, kw_only=True)
class Trial(Tried):
    """One strategy on held-out bars.

    Attributes:
        first_day: First held-out UTC day, days since 1970.
        daily_returns: Net, one for each UTC day.
        sharpe_per_day: Their mean divided by their standard deviation; 0 for a trial that never traded.
        made_from: What was tried, with data, code and seed; plain JSON.
    """

    folder: ClassVar[str] = "trials"

    dataset: str
    first_day: Day
    daily_returns: tuple[float, ...]
    sharpe_per_day: float
    made_from: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Candidate(Tried):
    """One network of a search, trained on every fold.

    Attributes:
        log_loss: Calibrated, on the folds' test bars, nats.
        learned: Decrease of the validation loss by training, before calibration, mean over trainings, nats.
        seconds: Wall time of the trainings.
        made_from: What was tried, with data, code and seed; plain JSON.
    """

    folder: ClassVar[str] = "searches"

    log_loss: float
    learned: float
    seconds: float
    made_from: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Look(Tried):
    """One version that was compared with a champion: logged by its verdict, whether it was published then or not.

    Attributes:
        hash8: Of the version.
        champion: Version of the champion, or "flat".
    """

    folder: ClassVar[str] = "looks"

    hash8: str
    champion: str


Entry = TypeVar("Entry", bound=Tried)


class TrialLog(Generic[Entry]):
    """The log of trials, of search candidates or of looks of every market, stored beside its versions.

    Reading raises ArtifactError for an entry that is damaged, of another source or market, or wrongly signed.
    """

    def __init__(self, place: Where, kind: type[Entry]) -> None:
        self._place = Place.of(place)
        self._objects = ObjectStore(self._place.url)
        self._kind = kind

    def append(self, entry: Entry) -> None:
        """Add an entry; an entry of the same key that exists already stays unchanged."""
        path, document = self._path(entry.source, entry.name, entry.key), asdict(entry)
        signed = self._place.signature(_hash(path, document))
        content = json.dumps({**document, **({"signature": signed} if signed else {})}, sort_keys=True, allow_nan=False)
        with suppress(FileExistsError):
            self._objects.create(path, content.encode())

    def count(self, source: Source, name: str) -> int:
        """Return the number of entries of a market."""
        return len(self._objects.names(self._folder(source, name)))

    def entries(self, source: Source, name: str) -> tuple[Entry, ...]:
        """Return every entry of a market, sorted by key."""
        folder = self._folder(source, name)
        return tuple(self._read(f"{folder}/{file}") for file in self._objects.names(folder))

    def find(self, source: Source, name: str, key: str) -> Entry | None:
        """Return the entry of a key, or None if there is none."""
        path = self._path(source, name, key)
        return self._read(path) if self._objects.exists(path) else None

    def _read(self, path: str) -> Entry:
        try:
            document = parse_json(self._objects.read(path))
            signed = document.pop("signature", "") if isinstance(document, dict) else ""
            entry = shape_of(self._kind).validate_python(document)
        except ValueError as err:
            raise ArtifactError(f"{path} is damaged ({one_line(err)}); restore it from a backup, or delete it") from err
        if not self._place.is_ours(signed, _hash(path, document)):
            raise ArtifactError(
                f"{path} was not written with this DSC_ARTIFACT_KEY; set the key that wrote it, or move it away"
            )
        if self._path(entry.source, entry.name, entry.key) != path:
            raise ArtifactError(f"{path} must be its own, was {entry.key} of {entry.source} {one_line(entry.name)}")
        return entry

    def _path(self, source: Source, name: str, key: str) -> str:
        return f"{self._folder(source, name)}/{key}.json"

    def _folder(self, source: Source, name: str) -> str:
        return f"{market_folder(source, name)}/{self._kind.folder}"


def _hash(path: str, document: Mapping[str, Any]) -> str:
    """Return the hash of an entry's path and content."""
    return content_hash([path.encode(), json.dumps(document, sort_keys=True).encode()])


def sharpe_per_strategy(trials: Iterable[Trial]) -> list[float]:
    """Return the newest Sharpe ratio per day of each strategy; a retrain on newer bars is the same strategy again."""
    newest: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.first_day + len(trial.daily_returns)):
        newest[json.dumps(trial.made_from, sort_keys=True)] = trial
    return [trial.sharpe_per_day for trial in newest.values()]
