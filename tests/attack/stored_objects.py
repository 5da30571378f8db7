"""Kinds of hostile input that lie in a store: manifests, entries, weights, archives and tables."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Generator
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifacts import MANIFEST
from storage.authorship import Place
from storage.foreign import Archive, read_arrays
from storage.recent import read_recent, write_recent
from storage.schema import ArtifactError, PipelineError
from storage.sealed import sealed
from storage.snapshots import load_dataset
from storage.tables import read_columns
from storage.trials import Trial, TrialLog
from tasks.champion.expiry import ExpiryRule
from tasks.champion.manifest import read_manifest, training_shares
from tasks.champion.serving import load_served, served_champion
from tasks.network.dsc import load_model
from tasks.network.engine import Engine
from tasks.network.folding import load_weights
from tasks.reporting.version_facts import VersionFacts
from tasks.sandbox.candle_files import base_interval, read_candle_file, read_funding_file
from tasks.strategy.baseline_folds import BaselineFold
from tasks.strategy.folds import FoldResult
from tests.attack.classes import Attempt, each, require_plain
from tests.attack.lab import EVIDENCE, NETWORK, NOW, NOW_MS, SOURCE, Lab, candles, resealed_result
from tests.attack.mutations import Random, damaged, mutated


def manifests(lab: Lab, rng: Random) -> Generator[Attempt]:
    """A version's manifest with other parts, sealed anew: whoever writes to a shared place can seal too."""
    ref, models = lab.champion, lab.models
    path = lab.market_folder / ref.version / MANIFEST
    whole = path.read_bytes()
    document = json.loads(whole)
    del document["seal"]
    for place in count():
        changed = mutated(document, rng)
        content = damaged(whole, rng) if place % 5 == 0 else _resealed(changed, whole)

        def attempt(content: bytes = content) -> None:
            path.write_bytes(content)
            try:
                each(
                    lambda: read_manifest(models, ref),
                    lambda: load_served(models, ref).params,
                    lambda: load_served(models, ref).tick(),
                    lambda: training_shares(models, ref),
                    lambda: served_champion(models, SOURCE, lab.market.slug, NOW_MS, ExpiryRule()),
                    lambda: models.read(ref, "report.html"),
                )
            finally:
                path.write_bytes(whole)

        yield attempt


def champion_entries(lab: Lab, rng: Random) -> Generator[Attempt]:
    """An entry of the champion's history with other parts, sealed anew."""
    ref, models, slug = lab.champion, lab.models, lab.market.slug
    path = lab.market_folder / "champion" / "000001.json"
    whole = path.read_bytes()
    document = json.loads(whole)
    del document["seal"]
    for place in count():
        content = damaged(whole, rng) if place % 5 == 0 else _resealed(mutated(document, rng), whole)

        def attempt(content: bytes = content) -> None:
            path.write_bytes(content)
            try:
                each(
                    lambda: models.champion(SOURCE, slug),
                    lambda: models.history(SOURCE, slug),
                    lambda: served_champion(models, SOURCE, slug, NOW_MS, ExpiryRule()),
                    lambda: models.promote(SOURCE, slug, ref, EVIDENCE, expected=2, now=NOW),
                )
            finally:
                path.write_bytes(whole)
                (path.parent / "000002.json").unlink(missing_ok=True)

        yield attempt


def _resealed(document: object, whole: bytes) -> bytes:
    try:
        return sealed(document, "", Place(url=""))  # type: ignore[arg-type]
    except (ArtifactError, TypeError, ValueError, RecursionError):  # nothing that could be sealed
        return json.dumps(document).encode(errors="surrogatepass") if not isinstance(document, dict) else whole[:-40]


def version_files(lab: Lab, rng: Random) -> Generator[Attempt]:
    """A version whose files are damaged and whose manifest names their new hashes."""
    ref, models = lab.champion, lab.models
    folder = lab.market_folder / ref.version
    manifest = (folder / MANIFEST).read_bytes()
    document = json.loads(manifest)
    del document["seal"]
    names = ("weights.safetensors", "folds.json", "equity.parquet")
    for place in count():
        name = names[place % 3]
        whole = lab.files[name]
        content = (
            json.dumps(mutated(json.loads(whole), rng)).encode(errors="surrogatepass")
            if name.endswith(".json") and place % 2
            else damaged(whole, rng)
        )

        def attempt(name: str = name, content: bytes = content, whole: bytes = whole) -> None:
            from storage.artifacts import _fingerprint

            (folder / name).write_bytes(content)
            resealed = {**document, "files": {**document["files"], name: _fingerprint(content)}}
            (folder / MANIFEST).write_bytes(sealed(resealed, "", Place(url="")))
            try:
                each(
                    lambda: load_served(models, ref).tick(),
                    lambda: training_shares(models, ref),
                    lambda: VersionFacts.load(models, str(lab.folder / "datasets"), ref),
                )
            finally:
                (folder / name).write_bytes(whole)
                (folder / MANIFEST).write_bytes(manifest)

        yield attempt


def trials(lab: Lab, rng: Random) -> Generator[Attempt]:
    """A logged trial with other parts."""
    path, log = lab.trial, TrialLog(str(lab.folder / "models"), Trial)
    whole = path.read_bytes()
    for place in count():
        changed = mutated(json.loads(whole), rng)
        content = damaged(whole, rng) if place % 3 == 0 else json.dumps(changed).encode(errors="surrogatepass")

        def attempt(content: bytes = content) -> None:
            path.write_bytes(content)
            try:
                each(lambda: log.entries(SOURCE, lab.market.slug))
            finally:
                path.write_bytes(whole)

        yield attempt


def weights(lab: Lab, rng: Random) -> Generator[Attempt]:
    """Weights whose header lies, whose numbers are none, or that are damaged."""
    whole = lab.weights
    (length,) = struct.unpack("<Q", whole[:8])
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    numbers = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e38], np.float32).tobytes()
    for place in count():
        if place % 3 == 0:
            content = damaged(whole, rng)
        elif place % 3 == 1:
            text = json.dumps(mutated(header, rng)).encode(errors="surrogatepass")
            content = struct.pack("<Q", rng.choice((len(text), len(text), len(text), 2**62))) + text + body
        else:
            at = 4 * rng.randrange(len(body) // 4)
            kind = 4 * rng.randrange(6)
            content = whole[: 8 + length] + body[:at] + numbers[kind : kind + 4] + body[at + 4 :]

        def attempt(content: bytes = content) -> None:
            found = load_weights(content)
            refusals = []
            for load in (Engine.from_weights, load_model):
                try:
                    load(NETWORK, found)
                except PipelineError as err:
                    require_plain(str(err))
                    refusals.append(err)
            if len(refusals) == 1 and "Unexpected key" not in str(refusals[0]):  # what the engine does not read
                raise AssertionError(f"engine and model must agree, one of them says {refusals[0]}")

        yield attempt


def archives(lab: Lab, rng: Random) -> Generator[Attempt]:
    """Results and datasets that are damaged, packed, or say that they hold what they don't; their digest fits."""
    work = lab.work
    arrays = io.BytesIO()
    np.savez(arrays, probabilities=np.full((20, 3), 1 / 3))
    facts = {
        "class_means": [0, 0, 0],
        "prior": [1, 1, 1],
        "history": [],
        "best_steps": [1],
        "temperature": 1.0,
        "seconds": 1.0,
    }
    fold = {"weights.safetensors": b"w", "predictions.npz": arrays.getvalue(), "fold.json": json.dumps(facts).encode()}
    work.save("fold-0123456789abcdef", fold)
    work.save("baseline-0123456789abcdef", {"predictions.npz": arrays.getvalue(), "baselines.json": b"{}"})
    dataset = lab.dataset.ref
    kept = {
        "fold-0123456789abcdef": (lab.folder / "work", lambda key: work.load(key, FoldResult)),
        "baseline-0123456789abcdef": (lab.folder / "work", lambda key: work.load(key, BaselineFold)),
        dataset.id: (lab.folder / "datasets", lambda key: load_dataset(lab.folder / "datasets", key)),
    }
    for place in count():
        key = list(kept)[place % 3]
        folder, load = kept[key]
        path = folder / f"{key}.zip"
        whole = path.read_bytes()
        way = place // 3 % 4
        if way == 0:
            content = resealed_result(damaged(whole, rng))
        elif way == 1:
            content = _repacked(_one_damaged(dict(Archive(io.BytesIO(whole))), rng), zipfile.ZIP_STORED)
        elif way == 2:
            content = _repacked(_one_damaged(dict(Archive(io.BytesIO(whole))), rng), zipfile.ZIP_DEFLATED)
        else:
            bomb = {"fold.json": bytes(30_000_000), "bars.parquet": bytes(1_000)}
            content = (
                _repacked(bomb, rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
                if place < 24
                else damaged(whole, rng)
            )

        def attempt(
            path: Path = path,
            load: Callable[[str], object] = load,
            key: str = key,
            content: bytes = content,
            whole: bytes = whole,
        ) -> None:
            path.write_bytes(content)
            try:
                each(lambda: load(key), lambda: read_arrays(content))
            finally:
                path.write_bytes(whole)

        yield attempt


def _one_damaged(files: dict[str, bytes], rng: Random) -> dict[str, bytes]:
    name = rng.choice(sorted(files))
    if name.endswith(".json") and rng.random() < 0.7:
        return {**files, name: json.dumps(mutated(json.loads(files[name]), rng)).encode(errors="surrogatepass")}
    return {**files, name: damaged(files[name], rng)}


def _repacked(files: dict[str, bytes], method: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.comment = bytes(64)
    return resealed_result(packed.getvalue())


def tables(lab: Lab, rng: Random) -> Generator[Attempt]:
    """Parquet that is damaged, of other types, or says that it has more rows than bytes."""
    recent = lab.folder / "recent"
    path = write_recent(recent, SOURCE, lab.market, candles(50))
    file = lab.folder / "candles.parquet"
    whole = path.read_bytes()
    for place in count():
        content = damaged(whole, rng) if place % 2 else _forged_table(lab, rng)

        def attempt(content: bytes = content) -> None:
            path.write_bytes(content)
            file.write_bytes(content)
            each(
                lambda: read_recent(recent, SOURCE, lab.market),
                lambda: read_columns(content),
                lambda: base_interval(read_candle_file(file)),
                lambda: read_funding_file(file),
            )

        yield attempt


def _forged_table(lab: Lab, rng: Random) -> bytes:
    columns = {name: pa.array(column) for name, column in lab.columns().items()}
    victim = rng.choice(list(columns))
    rows = len(columns[victim])
    columns[victim] = rng.choice(
        (
            lambda: pa.array(["x" * rng.choice((1, 50, 200, 100_000))] * rows),
            lambda: pa.array([[1.0] * 10] * rows),
            lambda: pa.array([None] * rows),
            lambda: pa.array([{"a": 1}] * rows),
            lambda: pa.array([rng.choice((-(2**63), 2**63 - 1, 0))] * rows, pa.int64()),
            lambda: pa.array([float("nan"), float("inf")] * (rows // 2)),
            lambda: pa.array(np.arange(rows)[::-1].copy()),
            lambda: pa.array([b"\xff"] * rows),
            lambda: pa.array(["2025-13-45"] * rows),
            lambda: pa.array([2**55] * rows, pa.timestamp("us")),
            lambda: pa.array([2**62] * rows, pa.timestamp("ns", "Europe/Nowhere")),
            lambda: pa.array([True] * rows),
            lambda: pa.array(["1.5", "x"] * (rows // 2)).dictionary_encode(),
        )
    )()
    if rng.random() < 0.2:
        del columns[rng.choice(list(columns))]
    table = pa.table(columns)
    if rng.random() < 0.2:
        table = table.rename_columns([rng.choice((name, name, "open", "\x1b[31m")) for name in table.column_names])
    if rng.random() < 0.5:
        table = table.replace_schema_metadata({b"dsc": rng.choice((b"[", b"{}", b"[1, 2]", b"\xff", b"[" * 100_000))})
    packed = io.BytesIO()
    pq.write_table(table, packed)
    content = bytearray(packed.getvalue())
    if rng.random() < 0.3:  # somewhere in the footer stands how many rows there are
        at = content.rfind(bytes([2 * rows]))
        content[at : at + 1] = b"\xfe\xff\xff\xff\x07"
    return bytes(content)
