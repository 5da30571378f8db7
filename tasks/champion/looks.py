"""What was looked at before in a market: who looks often enough finds a version that leads by luck.

Candles that are downloaded again with one bar more are another source, and no other market. So where they are a
market's own, whatever was tried on it counts, in every source. A market that is made up is one of its own: another seed
is another one. And a sandbox sends the same candles under every name, so that another name there is no other market.
Versions and champions cross no source, and no name, all the same.

A version counts by its verdict, not by its file: a run that is killed between the two may have been read. Versions of
before that was logged count by when they were made.
"""

from dataclasses import dataclass

from storage.artifacts import ArtifactStore
from storage.champion_log import ChampionEntry
from storage.results import ResultStore
from storage.schema import Source
from storage.trials import Candidate, Look, Origin, Trial, TrialLog
from tasks.champion.version_hash import version_hash
from tasks.strategy.out_of_sample import Evaluation
from tasks.strategy.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What was looked at before.

    Attributes:
        trials: Strategies on unseen bars.
        searched: How many networks a search trained.
        compared: The versions, by their hash, that were compared with the champion of the moment, in all its reigns.
    """

    trials: tuple[Trial, ...]
    searched: int
    compared: frozenset[str]

    def looks(self, hash8: str) -> int:
        """Return how many versions were compared with the champion, the one of this hash included."""
        return len(self.compared | {hash8})


def record_look(store: ArtifactStore, recipe: Recipe, evaluation: Evaluation, origin: Origin, champion: str) -> None:
    """Log that a version was compared with a champion, before its verdict can be seen; judged again, it counts once."""
    data, hash8 = evaluation.samples.dataset.ref, hash_of(recipe, evaluation)
    key = ResultStore.key("look", [hash8, champion])
    TrialLog(store.place, Look).append(
        Look(key=key, source=data.source, name=data.market.slug, origin=origin, hash8=hash8, champion=champion)
    )


def count_looks(store: ArtifactStore, recipe: Recipe, evaluation: Evaluation) -> int:
    """Return how many versions were compared with the champion of the moment, this one included."""
    data = evaluation.samples.dataset.ref
    return looked_at(store, data.source, data.market.slug).looks(hash_of(recipe, evaluation))


def hash_of(recipe: Recipe, evaluation: Evaluation) -> str:
    """Return the hash that names the version of an evaluation."""
    return version_hash(evaluation.samples.dataset.ref, recipe, evaluation.folds[-1].weights)


def looked_at(store: ArtifactStore, source: Source, name: str) -> Looked:
    """Return what was looked at in a market, from a source and from all that have the same market's candles.

    Raises:
        ArtifactError: A log, or a champion's history, of one of them is damaged.
    """
    known = sorted({(source, name)} | {one for one in store.markets() if _has_its_candles(one, source, name)})
    trials = {one: TrialLog(store.place, Trial).entries(*one) for one in known}
    searched = {one: TrialLog(store.place, Candidate).entries(*one) for one in known}
    # Entries of before the origin was logged do not say: they count.
    made_up = {one[0] for one in known if any(entry.origin == "synthetic" for entry in (*trials[one], *searched[one]))}
    alike = [one for one in known if (one[0] == source if source in made_up else one[0] not in made_up)]
    champion = store.history(source, name)[-1]
    return Looked(
        trials=tuple(trial for one in alike for trial in trials[one]),
        searched=sum(len(searched[one]) for one in alike),
        compared=frozenset(hash8 for one in alike for hash8 in _compared(store, champion, *one)),
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


def _compared(store: ArtifactStore, champion: ChampionEntry, source: Source, name: str) -> set[str]:
    """Return the hashes of a market's versions that were compared with a champion; flat reigns in any market."""
    if champion.ref and (champion.ref.source, champion.ref.name) != (source, name):
        return set()
    history = store.history(source, name)
    ends = [entry.at for entry in history[1:]] + [None]
    reigns = [(entry.at, end) for entry, end in zip(history, ends, strict=True) if entry.ref == champion.ref]
    made = {
        one.hash8
        for one in store.versions(source, name)
        if any(one.made > begin and (end is None or one.made <= end) for begin, end in reigns)
    }
    logged = TrialLog(store.place, Look).entries(source, name)
    found = made | {one.hash8 for one in logged if one.champion == champion.champion}
    return found - {champion.ref.hash8} if champion.ref else found  # beside itself it is no look
