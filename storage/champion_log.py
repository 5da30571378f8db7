"""The champion history of a market: append-only numbered entries, of which the highest is the current champion."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import StrictInt, TypeAdapter

from storage.authorship import Place
from storage.objects import ObjectStore
from storage.schema import ArtifactError, Source, VersionRef, one_line
from storage.sealed import require_shape, sealed, unsealed
from storage.version_names import is_stamp, is_version, market_folder

_ENTRY = re.compile(r"([0-9]{6})\.json")


@dataclass(frozen=True)
class _EntryDocument:
    """The stored form of a champion entry."""

    sequence: StrictInt
    version: str | None
    at: str
    reason: str
    evidence: dict[str, Any]
    restores: StrictInt | None
    manifest_seal: str | None


_ENTRY_DOCUMENT = TypeAdapter(_EntryDocument)


@dataclass(frozen=True, kw_only=True)
class ChampionEntry:
    """One entry of the champion history.

    Attributes:
        sequence: 0, 1, 2 ... without holes; 0 is `flat`, the champion before any promotion.
        ref: The champion from this entry on; None is `flat`: no position at any time.
        at: Time of the entry, UTC, ISO 8601; empty for entry 0.
        reason: Reason, one line.
        evidence: Numbers of both sides ("champion" and "challenger") for a promotion; empty for a rollback.
        restores: For a rollback, the sequence of the promotion that it restores; else None.
        seal: The manifest's seal at its promotion, which detects a version that was replaced later. None for flat.
    """

    sequence: int
    ref: VersionRef | None
    at: str
    reason: str
    evidence: Mapping[str, Any]
    restores: int | None = None
    seal: str | None = None

    @property
    def champion(self) -> str:
        """Version of the champion, or "flat"."""
        return self.ref.version if self.ref else "flat"


class ChampionLog:
    """Reads and appends entries; `ArtifactStore` checks their content."""

    def __init__(self, objects: ObjectStore, place: Place) -> None:
        self._objects, self._place = objects, place

    def append(self, source: Source, name: str, entry: ChampionEntry) -> ChampionEntry:
        """Write an entry if it is the next one, and return it as read back.

        Raises:
            ArtifactError: The champion has changed meanwhile; nothing was written.
        """
        document = {
            "sequence": entry.sequence,
            "version": entry.ref.version if entry.ref else None,
            "at": entry.at,
            "reason": entry.reason,
            "evidence": entry.evidence,
            "restores": entry.restores,
            "manifest_seal": entry.seal,
            "nonce": secrets.token_hex(8),  # makes the bytes of each promoter unique, so the loser of a race fails
        }
        content = sealed(document, market_folder(source, name), self._place)
        found = self.newest(source, name)
        if found == entry.sequence - 1:
            try:
                self._objects.create(f"{market_folder(source, name)}/champion/{entry.sequence:06d}.json", content)
                return self.entry(source, name, entry.sequence)
            except FileExistsError:
                found = self.newest(source, name)
        raise ArtifactError(
            f"champion of {source}/{name} changed: expected sequence {entry.sequence - 1}, found {found}; "
            "compare with the one now in force"
        )

    def newest(self, source: Source, name: str) -> int:
        """Return the number of the newest entry; 0 if there was no promotion.

        Raises:
            ArtifactError: An entry is missing.
        """
        entries = [_ENTRY.fullmatch(path) for path in self._objects.names(f"{market_folder(source, name)}/champion")]
        numbers = [int(entry[1]) for entry in entries if entry]  # sorted, as the listing is
        holes = sorted(set(range(1, len(numbers) + 1)) - set(numbers))
        if holes:
            raise ArtifactError(f"champion history of {source}/{name} has lost entry {holes[0]}; restore the file")
        return len(numbers)

    def entry(self, source: Source, name: str, sequence: int) -> ChampionEntry:
        """Return one entry.

        Raises:
            ArtifactError: It is damaged, or belongs to another number or market.
        """
        if sequence == 0:
            return ChampionEntry(sequence=0, ref=None, at="", reason="flat is the first champion", evidence={})
        what, market = f"champion entry {sequence} of {source}/{name}", market_folder(source, name)
        content = self._objects.read(f"{market}/champion/{sequence:06d}.json")
        document = unsealed(content, what, market, self._place)
        require_shape(_ENTRY_DOCUMENT, document, what)
        version, restores = document["version"], document["restores"]
        if document["sequence"] != sequence or not (restores is None or 0 <= restores < sequence):
            raise ArtifactError(f"{what} is another one, moved from elsewhere; roll back or retrain")
        if not is_stamp(document["at"]) or not (version is None or is_version(version)):
            raise ArtifactError(f"{what} names no time or no version; roll back or retrain")
        return ChampionEntry(
            sequence=sequence,
            ref=None if version is None else VersionRef(source=source, name=name, version=version),
            at=document["at"],
            reason=one_line(document["reason"]),
            evidence=document["evidence"],
            restores=restores,
            seal=document["manifest_seal"],
        )
