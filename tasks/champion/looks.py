"""What was looked at before in a market: who looks often enough finds a version that leads by luck.

Candles that are downloaded again with one bar more are another source, and no other market. So where they are a
market's own, whatever was tried on it counts, in every source. A market that is made up is one of its own: another seed
is another one. And a sandbox sends the same candles under every name, so that another name there is no other market.
Versions and champions cross no source, and no name, all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from storage.artifacts import ArtifactStore
from storage.schema import Source, VersionRef
from storage.trials import Candidate, Trial, TrialLog


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was looked at before.

    Attributes:
        trials: Strategies on unseen bars.
        searched: How many networks a search trained.
        versions: Made while the champion of the moment reigned, in every reign that it had.
    """

    trials: tuple[Trial, ...]
    searched: int
    versions: tuple[VersionRef, ...]

    def looks(self, hash8: str) -> int:
        """Return how many versions were compared with the champion, the one of this hash included."""
        return 1 + sum(one.hash8 != hash8 for one in self.versions)


def looked_at(store: ArtifactStore, source: Source, name: str) -> Looked:
    """Return what was looked at in a market, from a source and from all that have the same market's candles.

    Args:
        store: Of versions and champions; the logs of trials and searches lie there, too.
        source: Where the candles come from.
        name: The market's slug.

    Raises:
        ArtifactError: A log, or a champion's history, of one of them is damaged.
    """
    known = sorted({(source, name)} | {one for one in store.markets() if _has_its_candles(one, source, name)})
    trials = {one: TrialLog(store.place, Trial).entries(*one) for one in known}
    searched = {one: TrialLog(store.place, Candidate).entries(*one) for one in known}
    # Entries of before the origin was logged do not say: they count.
    made_up = {one[0] for one in known if any(entry.origin == "synthetic" for entry in (*trials[one], *searched[one]))}
    alike = [one for one in known if (one[0] == source if source in made_up else one[0] not in made_up)]
    champion = store.history(source, name)[-1].ref
    return Looked(
        trials=tuple(trial for one in alike for trial in trials[one]),
        searched=sum(len(searched[one]) for one in alike),
        versions=tuple(version for one in alike for version in _made_under(store, champion, *one)),
    )


def _has_its_candles(other: tuple[Source, str], source: Source, name: str) -> bool:
    """Return whether another market has, or may have, the candles of a source's market.

    In every source it has its name. A sandbox replays one file, or makes one market up, under whatever name.
    """
    its_source, its_name = other
    if its_name == name:
        return True
    is_named_anew = its_source == source and source.startswith("sandbox:")
    return is_named_anew and its_name.rpartition("-")[2] == name.rpartition("-")[2]  # of one interval


def _made_under(store: ArtifactStore, champion: VersionRef | None, source: Source, name: str) -> list[VersionRef]:
    """Return the versions of a source that were made while a champion reigned there; flat, None, reigns anywhere."""
    history = store.history(source, name)
    ends = [entry.at for entry in history[1:]] + [None]
    reigns = [(entry.at, end) for entry, end in zip(history, ends, strict=True) if entry.ref == champion]
    return [
        one
        for one in store.versions(source, name)
        if any(one.made > begin and (end is None or one.made <= end) for begin, end in reigns)
    ]
