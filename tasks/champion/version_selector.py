"""Which versions a session goes by: the champion, the newest or one by name, and those that watch."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from storage.artifacts import ArtifactStore
from storage.schema import ArtifactError, ConfigError, Market, Source, UnreachableError, VersionRef
from tasks.champion.expiry import USUAL_EXPIRY, ExpiryRule
from tasks.champion.serving import ServedModel, load_served, served_champion


class VersionChoice(NamedTuple):
    """What decides in a market.

    Attributes:
        model: None holds no position.
        shadows: Versions that decide and fill on paper beside it.
        unknown: Why nobody knows whether another one should decide; empty where it is known.
    """

    model: ServedModel | None
    why_none: str = ""
    shadows: Sequence[ServedModel] = ()
    unknown: str = ""


ChooseVersion = Callable[[Market, ServedModel | None], VersionChoice]
"""Which version decides in a market now, given the one that did; loads nothing where that is the same."""


@dataclass(frozen=True, kw_only=True)
class VersionSelector:
    """Says what decides in a market.

    Attributes:
        version: champion, newest, or a version's name.
        shadows: How many of the newest other versions watch.
        real_money: Whether a champion decides nothing if its promotion rule asks for less than the default, or may
            be older than by default.
    """

    store: ArtifactStore
    source: Source
    version: str = "champion"
    shadows: int = 0
    real_money: bool = False
    expiry: ExpiryRule = USUAL_EXPIRY

    def at_start(self, market: Market, watching: Sequence[str] | None = None) -> VersionChoice:
        """Return what decides and what watches at a session's start; `watching` names those of one that goes on.

        Raises:
            ConfigError: The version is of another source or market.
            ArtifactError: A version that was named is unknown or damaged.
            UnreachableError: Nobody knows which version decides, since the store can't be read.
        """
        ref, why_none, seal = self._named(market)
        model, why_none = self._served(ref, why_none, seal)
        if watching is None:
            others = [other for other in self.store.versions(self.source, market.slug) if other != ref]
            beside = others[-self.shadows :] if self.shadows else []
        else:
            beside = [VersionRef(source=self.source, name=market.slug, version=name) for name in watching]
        return VersionChoice(model, why_none, [load_served(self.store, other) for other in beside])

    def refresh(self, market: Market, present: ServedModel | None) -> VersionChoice:
        """Return what decides now, given what did; only a champion is ever followed by another.

        Nothing is loaded where that is the same, nor taken away where the store can't be read.
        """
        if self.version != "champion":
            return VersionChoice(present)
        try:
            ref, why_none, seal = self._named(market)
            if ref is None or (present is not None and present.ref == ref):
                return VersionChoice(present if ref else None, why_none)
            return VersionChoice(*self._served(ref, why_none, seal))
        except UnreachableError as err:
            return VersionChoice(present, unknown=str(err))

    def _served(self, ref: VersionRef | None, why_none: str, seal: str | None) -> tuple[ServedModel | None, str]:
        """Return what decides, or why nothing does: a champion that this code can't serve holds no position."""
        try:
            model = load_served(self.store, ref, seal) if ref else None
            looser = model.recipe.asks_less() if model and self.real_money else ()
            if looser:
                return None, f"the champion was promoted by a rule that asks for less: {', '.join(looser)}"
            return model, why_none
        except UnreachableError:
            raise
        except ArtifactError as err:
            if self.version != "champion":
                raise
            return None, f"the champion can't be used ({err})"

    def _named(self, market: Market) -> tuple[VersionRef | None, str, str | None]:
        if self.version == "champion":
            if self.real_money and self.expiry.is_looser_than(USUAL_EXPIRY):
                said = f"a champion expires after {self.expiry}: real money trusts none for longer than {USUAL_EXPIRY}"
                return None, said, None
            try:
                now_ms = time.time_ns() // 1_000_000
                served = served_champion(self.store, self.source, market.slug, now_ms, self.expiry)
            except UnreachableError:
                raise
            except ArtifactError as err:
                return None, f"the champion can't be used ({err})", None
            return served.ref, served.reason, served.seal
        if self.version == "newest":
            ref = newest_version(self.store, self.source, market)
            return ref, "" if ref else f"{market} has no version", None
        ref = VersionRef.parse(self.version)
        if (ref.source, ref.name) != (self.source, market.slug):
            raise ConfigError(f"a session of {market} from {self.source} needs a version of both, was {self.version}")
        return ref, "", None


def newest_version(store: ArtifactStore, source: Source, market: Market) -> VersionRef | None:
    """Return the newest stored version of a market, champion or not; None if there is none."""
    return next(iter(store.versions(source, market.slug)[::-1]), None)
