"""Versioned models on a disk or an object store, and the champion among them.

    <url>/<source, with '-' for ':'>/<name>/
        20260104T100000Z-7f3c9a2e/      one version, immutable
            weights.safetensors ...
            manifest.json               written last: a version exists once this file does
        champion/
            000001.json                 append-only: the highest number is in force

One primitive carries the promises: a file is made whole, or not at all, and only where none was (`storage/objects.py`).
So a process killed at any point leaves no version or a complete one, and of two promoters that saw the same champion
exactly one gets the next number. Pointer and history are one thing and cannot disagree.

Nothing here executes what it reads: files are bytes, metadata is JSON, and file names are limited to formats that hold
data only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import TypeAdapter

from storage.authorship import Place, Where
from storage.champion_log import ChampionEntry, ChampionLog
from storage.objects import ObjectStore
from storage.schema import (
    FEATURES,
    ArtifactError,
    ConfigError,
    Source,
    UnreachableError,
    VersionRef,
    one_line,
    parse_source,
)
from storage.sealed import Document, require_shape, sealed, unsealed
from storage.version_names import PLAIN_NAME, is_version, market_folder, time_stamp, version_folder

MANIFEST = "manifest.json"
FORMAT = 3
"""Of a version's files and manifest: raised when what is written changes. What was written before stays readable, for
which `tests/golden/` keeps a home of every format."""
STORE_KEYS = ("files", "format", "name", "seal", "signature", "source", "version")
"""What the store itself puts into a manifest."""
DATA_SUFFIXES = (".csv", ".html", ".json", ".md", ".onnx", ".parquet", ".png", ".safetensors", ".svg", ".txt")
"""Formats that hold data only. Pickle and its kin (.pkl, .pt, .joblib ...) run code when loaded, so they stay out."""


@dataclass(frozen=True)
class _OwnPart:
    """What the store reads of a manifest."""

    files: dict[str, dict[Literal["sha256", "bytes"], str | int]]
    features: list[str]


_OWN_PART = TypeAdapter(_OwnPart)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A version whose every byte has been verified.

    Attributes:
        ref: Its name.
        manifest: What was published with it, plus source, name, version, format, files (name -> sha256 and bytes) and
            seal.
        files: File name -> content; one that it has not is an ArtifactError.
    """

    ref: VersionRef
    manifest: Document
    files: Mapping[str, bytes]


class _Files(dict[str, bytes]):
    def __missing__(self, file: str) -> bytes:
        raise ArtifactError(f"a version must have {file}, this one has {', '.join(sorted(self))}; roll back or retrain")


class ArtifactStore:
    """Publish, load, promote and roll back model versions.

    Args:
        place: A path or any fsspec URL, see `ObjectStore`; with the key that versions and champions are signed with, if
            there is one. The logs of trials and searches lie below it, too.

    Raises:
        ArtifactError: The URL's protocol is unknown, or the package that serves it is not installed.
    """

    def __init__(self, place: Where) -> None:
        self.place = Place.of(place)
        self._objects = ObjectStore(self.place.url, refusal=UnreachableError)
        self._log = ChampionLog(self._objects, self.place)

    def publish(
        self,
        source: Source,
        name: str,
        hash8: str,
        files: Mapping[str, bytes],
        manifest: Mapping[str, Any],
        now: datetime,
    ) -> VersionRef:
        """Store a version; it becomes visible at once and whole, when its manifest appears.

        The same `hash8` again returns the version that is there, as long as that one still verifies. Two processes that
        publish one hash at the same moment may both store it: two complete versions of equal content.

        Args:
            source: Where its candles came from.
            name: The market's slug.
            hash8: 8 hex digits over weights, config, dataset id, code and seed.
            files: File name -> content.
            manifest: Plain JSON values; must name the model's inputs under "features".
            now: Time of publication, aware.

        Raises:
            ArtifactError: A name or the manifest breaks a rule, or the store refuses. No version is visible then.
        """
        if not re.fullmatch(r"[0-9a-f]{8}", hash8):
            raise ArtifactError(f"hash8 must be 8 lower-case hex digits, was {hash8!r}")
        if not files:
            raise ArtifactError("a version must hold at least one file, was given none")
        for file in files:
            _check_file_name(file)
        _check_manifest(manifest)
        ref = VersionRef(source=source, name=name, version=f"{time_stamp(now)}-{hash8}")
        placed = {"source": source, "name": name, "version": ref.version, "format": FORMAT}
        fingerprints = {file: _fingerprint(content) for file, content in files.items()}
        manifest_bytes = sealed({**manifest, **placed, "files": fingerprints}, market_folder(source, name), self.place)

        for twin in self.versions(source, name):
            if twin.version.endswith(f"-{hash8}"):
                try:
                    return self._verified(twin).ref
                except UnreachableError:
                    raise
                except ArtifactError:
                    continue  # a damaged twin is stored anew, not returned
        try:
            for file, content in {**files, MANIFEST: manifest_bytes}.items():  # the manifest stays last
                self._objects.create(f"{version_folder(ref)}/{file}", content)
        except FileExistsError as err:
            raise ArtifactError(f"version {ref} is being published by another process; run it again") from err
        return ref

    def markets(self) -> tuple[tuple[Source, str], ...]:
        """Return source and name of every market of which something is stored, in the order of their names."""
        found = []
        for folder in self._objects.folders():
            source = folder.replace("sandbox-", "sandbox:", 1)
            with suppress(ConfigError):  # what else lies there is no market's
                names = filter(PLAIN_NAME.fullmatch, self._objects.folders(folder))
                found += [(parse_source(source), name) for name in names]
        return tuple(found)

    def versions(self, source: Source, name: str) -> tuple[VersionRef, ...]:
        """Return the stored versions, oldest first; half-written ones are not among them."""
        stored = [
            path.split("/")[0]
            for path in self._objects.names(market_folder(source, name))
            if path.endswith(f"/{MANIFEST}")
        ]
        return tuple(VersionRef(source=source, name=name, version=v) for v in sorted(stored) if is_version(v))

    def whole_versions(self, source: Source, name: str) -> tuple[VersionRef, ...]:
        """Return the stored versions that have not expired, oldest first."""
        paths = self._objects.names(market_folder(source, name))
        holding = {path.split("/")[0] for path in paths if not path.endswith(f"/{MANIFEST}")}
        return tuple(ref for ref in self.versions(source, name) if ref.version in holding)

    def expire(self, ref: VersionRef) -> int:
        """Remove the files of a version that was never the champion, and return how many bytes they took.

        Its manifest stays: it was tried, and counts as one that was.

        Raises:
            ArtifactError: It was the champion, or it or the champion's history is damaged.
        """
        if any(entry.ref == ref for entry in self.history(ref.source, ref.name)):
            raise ArtifactError(f"version {ref} must stay: it is or was the champion")
        freed = 0
        for file, published in self.manifest(ref)["files"].items():
            path = f"{version_folder(ref)}/{file}"
            if self._objects.exists(path):
                self._objects.remove(path)
                freed += int(published["bytes"])
        return freed

    def manifest(self, ref: VersionRef) -> Document:
        """Return a version's manifest, verified against its own seal and its place.

        Raises:
            ArtifactError: The version is unknown, its manifest is damaged, it was moved here from elsewhere, or its
                format is not the one that this code reads.
        """
        try:
            content = self._objects.read(f"{version_folder(ref)}/{MANIFEST}")
        except FileNotFoundError:
            stored = [known.version for known in self.versions(ref.source, ref.name)]
            newest = ", ".join(stored[-3:]) or "none"
            raise ArtifactError(f"version {ref} is unknown; {len(stored)} stored, newest: {newest}") from None
        document = unsealed(content, f"manifest of {ref}", market_folder(ref.source, ref.name), self.place)
        for key, here in (("source", ref.source), ("name", ref.name), ("version", ref.version)):
            if document.get(key) != here:
                found = document.get(key)
                raise ArtifactError(
                    f"manifest of {ref} must say {key} {here!r}, was {str(found)[:60]!r}: moved from elsewhere"
                )
        _check_format(ref, document.get("format"))
        require_shape(_OWN_PART, document, f"manifest of {ref}")
        for file in document["files"]:
            _check_file_name(file)
        return document

    def read(self, ref: VersionRef, file: str) -> bytes:
        """Return one verified file of a version, to show it (a report, an equity curve); models go through `load`.

        Raises:
            ArtifactError: The version or the file is unknown, or its bytes are not the published ones.
        """
        return self._read_verified(ref, file, self.manifest(ref))

    def location(self, ref: VersionRef, file: str) -> str:
        """Return where a file of a version lies: a path on disk, a URL elsewhere."""
        return self._objects.location(f"{version_folder(ref)}/{file}")

    def load(
        self, ref: VersionRef, *, source: Source, features: Sequence[str] = FEATURES, seal: str | None = None
    ) -> Artifact:
        """Return a whole version for use on `source` with `features`, after every hash has been verified.

        Args:
            ref: Its name.
            source: Where it is to be used.
            features: What it is given.
            seal: The one that the champion's entry names; None for a version that nobody has promoted.

        Raises:
            ArtifactError: It is unknown, damaged, of another source or with another seal, or expects other features.
        """
        if ref.source != source:
            raise ArtifactError(f"version {ref} is of source {ref.source}, and is refused on {source}; retrain there")
        artifact = self._verified(ref)
        if seal is not None and artifact.manifest["seal"] != seal:
            raise ArtifactError(f"champion {ref} was exchanged after its promotion; roll back and retrain")
        expected = artifact.manifest["features"]
        if list(features) != expected:
            difference = {"missing": set(expected) - set(features), "unknown": set(features) - set(expected)}
            parts = [f"{what}: {', '.join(map(repr, sorted(names)))}" for what, names in difference.items() if names]
            found = f"{len(features)} ({'; '.join(parts) or 'in another order'})"
            raise ArtifactError(f"version {ref} expects {len(expected)} features, was given {one_line(found, 400)}")
        return artifact

    def prune_unfinished(self, source: Source, name: str, before: datetime) -> tuple[str, ...]:
        """Remove what killed writers left behind, and return the names of what went.

        Args:
            source: Where the candles came from.
            name: The market's slug.
            before: Only what is older goes, aware. Leave a margin, such as a day: a publish may be under way.
        """
        market = market_folder(source, name)
        complete = {ref.version for ref in self.versions(source, name)}
        gone = list(self._objects.prune_unfinished(market, before))
        for path in self._objects.names(market):
            version = path.split("/")[0]
            if is_version(version) and version not in complete and version[:16] < time_stamp(before):
                self._objects.remove(f"{market}/{path}")
                gone.append(path)
        return tuple(gone)

    def champion(self, source: Source, name: str) -> ChampionEntry:
        """Return the entry in force; its `ref` is None while the champion is flat.

        Raises:
            ArtifactError: The entry is damaged, or the version it names is gone or was exchanged after its promotion.
        """
        entry = self._log.entry(source, name, self._log.newest(source, name))
        if entry.ref is not None and self.manifest(entry.ref)["seal"] != entry.seal:
            raise ArtifactError(f"champion {entry.ref} was exchanged after its promotion; roll back and retrain")
        return entry

    def history(self, source: Source, name: str) -> tuple[ChampionEntry, ...]:
        """Return every entry, oldest first: entry n stands at index n, and flat at 0."""
        return tuple(self._log.entry(source, name, number) for number in range(self._log.newest(source, name) + 1))

    def promote(
        self,
        source: Source,
        name: str,
        ref: VersionRef | None,
        evidence: Mapping[str, Any],
        *,
        expected: int,
        now: datetime,
    ) -> ChampionEntry:
        """Put a version (None: flat) in force, if the champion is still the one that it was compared with.

        Args:
            source: Where the candles came from.
            name: The market's slug.
            ref: The challenger, or None for flat.
            evidence: Plain JSON; holds the numbers of both sides under "champion" and "challenger".
            expected: `sequence` of the champion that the evidence was measured against.
            now: Time of promotion, aware.

        Raises:
            ArtifactError: Another source or market, a side without numbers, a damaged version, or a champion that
                changed since. The champion is then as it was.
        """
        if ref is not None and (ref.source, ref.name) != (source, name):
            raise ArtifactError(f"version {ref} must not be promoted on {source}/{name}; retrain there")
        missing = [side for side in ("champion", "challenger") if not evidence.get(side)]
        if missing:
            raise ArtifactError(f"evidence must hold the numbers of both sides, was without {' and '.join(missing)}")
        entry = ChampionEntry(
            sequence=expected + 1,
            ref=ref,
            at=time_stamp(now),
            reason="promoted" if ref is not None else "went back to flat",
            evidence=evidence,
            seal=self._seal(ref),
        )
        return self._log.append(source, name, entry)

    def rollback(self, source: Source, name: str, reason: str, now: datetime) -> ChampionEntry:
        """Put the champion before the present one in force again; repeated, it goes back step by step to flat.

        Raises:
            ArtifactError: The champion is flat, the first one; or the version to go back to is gone or damaged, and
                then flat can be promoted.
        """
        history = self.history(source, name)
        present = _promotion(history, history[-1])
        if present.sequence == 0:
            raise ArtifactError(f"nothing to roll back for {source}/{name}: the champion is flat, the first one")
        target = _promotion(history, history[present.sequence - 1])
        if self._seal(target.ref) != target.seal:
            raise ArtifactError(f"version {target.ref} was exchanged after its promotion; promote flat instead")
        entry = ChampionEntry(
            sequence=history[-1].sequence + 1,
            ref=target.ref,
            at=time_stamp(now),
            reason=reason,
            evidence={},
            restores=target.sequence,
            seal=target.seal,
        )
        return self._log.append(source, name, entry)

    def _seal(self, ref: VersionRef | None) -> str | None:
        return None if ref is None else str(self._verified(ref).manifest["seal"])

    def _verified(self, ref: VersionRef) -> Artifact:
        manifest = self.manifest(ref)
        files = _Files({file: self._read_verified(ref, file, manifest) for file in manifest["files"]})
        return Artifact(ref=ref, manifest=manifest, files=files)

    def _read_verified(self, ref: VersionRef, file: str, manifest: Document) -> bytes:
        published = manifest["files"].get(file)
        if published is None:
            raise ArtifactError(
                f"version {ref} has no file {file[:60]!r}; it holds {', '.join(sorted(manifest['files']))}"
            )
        try:
            content = self._objects.read(f"{version_folder(ref)}/{file}")
        except FileNotFoundError:
            raise ArtifactError(
                f"version {ref} has lost its file {file!r}, or expired (flows.prune); roll back or retrain"
            ) from None
        if _fingerprint(content) != published:
            raise ArtifactError(
                f"{file} of version {ref} does not match its sha256: damaged or tampered with; roll back or retrain"
            )
        return content


def _promotion(history: Sequence[ChampionEntry], entry: ChampionEntry) -> ChampionEntry:
    """Return the promotion that `entry` has in force: itself, or the one that a rollback restored."""
    return entry if entry.restores is None else history[entry.restores]


def _check_file_name(file: str) -> None:
    if not PLAIN_NAME.fullmatch(file) or file == MANIFEST:
        raise ArtifactError(f"file name must be plain and not {MANIFEST}, was {file[:60]!r}")
    if not file.endswith(DATA_SUFFIXES):
        raise ArtifactError(f"file must hold data only ({' '.join(DATA_SUFFIXES)}), was {file[:60]!r}")


def _check_format(ref: VersionRef, found: Any) -> None:
    if found not in range(1, FORMAT + 1):
        newer = isinstance(found, int) and found > FORMAT
        way_out = "update this program" if newer else "retrain"
        raise ArtifactError(
            f"version {ref} has format {one_line(repr(found), 60)}, this program reads 1 to {FORMAT}; {way_out}"
        )


def _check_manifest(manifest: Mapping[str, Any]) -> None:
    clash = sorted(set(manifest).intersection(STORE_KEYS))
    if clash:
        raise ArtifactError(f"manifest must leave {', '.join(STORE_KEYS)} to the store, was given {', '.join(clash)}")
    features = manifest.get("features")
    if not isinstance(features, list | tuple) or not all(isinstance(feature, str) for feature in features):
        raise ArtifactError(f"manifest must name the model's inputs under 'features', was {features!r}")


def _fingerprint(content: bytes) -> Document:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
