"""Versioned models on a disk or an object store, and the champion among them.

    <url>/<source, with '-' for ':'>/<name>/
        20260104T100000Z-7f3c9a2e/      one version, immutable
            weights.safetensors ...
            manifest.json               written last: a version exists once this file does
        champion/
            000001.json                 append-only: the entry of the highest number is the current champion

All guarantees rest on one primitive: a file is created completely or not at all, and only if it does not exist yet
(`storage/objects.py`). So a process killed at any point leaves either no version or a complete one, and if two
processes promote against the same champion, exactly one succeeds. The pointer to the champion is the last entry of its
history, so the two cannot disagree.

Nothing that is read here is executed: files are bytes, metadata is JSON, and only file formats that hold data are
allowed.
"""

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
"""Format of a version's files and manifest, raised with every change of them. Older formats stay readable:
`tests/golden/` keeps a home of each format."""
STORE_KEYS = ("files", "format", "name", "seal", "signature", "source", "version")
"""Keys of a manifest that the store itself writes."""
DATA_SUFFIXES = (".csv", ".html", ".json", ".md", ".onnx", ".parquet", ".png", ".safetensors", ".svg", ".txt")
"""Formats that hold data only. Pickle formats (.pkl, .pt, .joblib ...) can run code when loaded and are refused."""


@dataclass(frozen=True)
class _OwnPart:
    """The part of a manifest that the store itself reads."""

    files: dict[str, dict[Literal["sha256", "bytes"], str | int]]
    features: list[str]


_OWN_PART = TypeAdapter(_OwnPart)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A version whose files have all been verified.

    Attributes:
        manifest: The published manifest, plus source, name, version, format, files (name -> sha256 and bytes) and
            seal.
        files: File name -> content; a missing name raises ArtifactError.
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
        place: A path or any fsspec URL, see `ObjectStore`; with the key that signs versions and champion entries, if
            there is one. The logs of trials and searches are stored below it too.

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
        """Store a version; it becomes visible as a whole when its manifest is written.

        If a version of the same `hash8` is stored already and passes verification, it is returned instead. Two
        processes that publish the same hash at the same moment may both store it: two complete versions of equal
        content.

        `name` is the market's slug, `hash8` the first 8 hex digits of a hash of weights, config, dataset id, code and
        seed. The manifest holds plain JSON values, the model's inputs under "features"; `now` has a time zone.

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
                    continue  # a damaged version of the same hash is not returned but stored anew
        try:
            for file, content in {**files, MANIFEST: manifest_bytes}.items():  # the manifest stays last
                self._objects.create(f"{version_folder(ref)}/{file}", content)
        except FileExistsError as err:
            raise ArtifactError(f"version {ref} is being published by another process; run it again") from err
        return ref

    def markets(self) -> tuple[tuple[Source, str], ...]:
        """Return source and name of every market that has stored files, sorted by name."""
        found = []
        for folder in self._objects.folders():
            source = folder.replace("sandbox-", "sandbox:", 1)
            with suppress(ConfigError):  # other folders are not markets
                names = filter(PLAIN_NAME.fullmatch, self._objects.folders(folder))
                found += [(parse_source(source), name) for name in names]
        return tuple(found)

    def versions(self, source: Source, name: str) -> tuple[VersionRef, ...]:
        """Return the stored versions, oldest first, without unfinished ones."""
        stored = [
            path.split("/")[0]
            for path in self._objects.names(market_folder(source, name))
            if path.endswith(f"/{MANIFEST}")
        ]
        return tuple(VersionRef(source=source, name=name, version=v) for v in sorted(stored) if is_version(v))

    def whole_versions(self, source: Source, name: str) -> tuple[VersionRef, ...]:
        """Return the stored versions whose files have not been removed by `expire`, oldest first."""
        paths = self._objects.names(market_folder(source, name))
        holding = {path.split("/")[0] for path in paths if not path.endswith(f"/{MANIFEST}")}
        return tuple(ref for ref in self.versions(source, name) if ref.version in holding)

    def expire(self, ref: VersionRef) -> int:
        """Remove the files of a version that was never the champion, and return the number of bytes freed.

        Its manifest stays as a record that the version was tried.

        Raises:
            ArtifactError: It is or was the champion, or it or the champion's history is damaged.
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
        """Return a version's manifest, verified against its seal and its location.

        Raises:
            ArtifactError: The version is unknown, its manifest is damaged, it was moved here from elsewhere, or this
                code can't read its format.
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
        """Return one verified file of a version for display (a report, an equity curve); use `load` for models.

        Raises:
            ArtifactError: The version or the file is unknown, or its content has changed since it was published.
        """
        return self._read_verified(ref, file, self.manifest(ref))

    def location(self, ref: VersionRef, file: str) -> str:
        """Return the location of a version's file: a path on disk, else a URL."""
        return self._objects.location(f"{version_folder(ref)}/{file}")

    def load(
        self, ref: VersionRef, *, source: Source, features: Sequence[str] = FEATURES, seal: str | None = None
    ) -> Artifact:
        """Return a version with all its files for use on `source` with `features`; every hash is verified.

        The features are the names of those that the caller will give it, in order. The seal is that in its champion
        entry; None for a version that was not promoted.

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
        """Remove unfinished files of killed writers that are older than `before`, and return their names.

        Leave a margin, such as a day, as another process may be publishing. `before` has a time zone.
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
        """Return the current champion's entry; its `ref` is None while the champion is flat.

        Raises:
            ArtifactError: The entry is damaged, or its version is missing or was replaced after its promotion.
        """
        entry = self._log.entry(source, name, self._log.newest(source, name))
        if entry.ref is not None and self.manifest(entry.ref)["seal"] != entry.seal:
            raise ArtifactError(f"champion {entry.ref} was exchanged after its promotion; roll back and retrain")
        return entry

    def history(self, source: Source, name: str) -> tuple[ChampionEntry, ...]:
        """Return every entry, oldest first: entry n is at index n; entry 0 is flat."""
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
        """Make a version (None: flat) the champion, if the champion has not changed since the comparison.

        `expected` is the `sequence` of the champion with which `ref` was compared. The evidence is plain JSON and holds
        the numbers of both sides under "champion" and "challenger"; `now` has a time zone.

        Raises:
            ArtifactError: `ref` is of another source or market, the numbers of a side are missing, the version is
                damaged, or the champion has changed. The champion then stays.
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
        """Restore the previous champion; repeated calls go back step by step to flat.

        Raises:
            ArtifactError: The champion is entry 0 already; or the previous version is missing or damaged, in which case
                flat can be promoted.
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
    """Return the promotion behind `entry`: the entry itself, or for a rollback the entry that it restored."""
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
