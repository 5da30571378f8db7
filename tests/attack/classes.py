"""Kinds of hostile input, each an endless row of them, and what is done with each one in turn."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Generator
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifacts import MANIFEST
from storage.authorship import Place
from storage.foreign import Archive, parse_json, read_arrays
from storage.recent import read_recent, write_recent
from storage.schema import CANDLE_COLUMNS, ArtifactError, Market, PipelineError, VersionRef
from storage.sealed import sealed
from storage.settings import Settings
from storage.snapshots import load_dataset
from storage.tables import read_columns
from storage.trials import Trial, TrialLog
from tasks.champion.expiry import ExpiryRule
from tasks.champion.manifest import read_manifest, training_shares
from tasks.champion.serving import load_served, served_champion
from tasks.exchange.connection import ExchangeConfig
from tasks.exchange.private_events import PrivateDecoder
from tasks.exchange.stream import PublicStream
from tasks.live.halts import Halts
from tasks.network.dsc import load_model
from tasks.network.engine import Engine
from tasks.network.folding import load_weights
from tasks.reporting.version_facts import VersionFacts
from tasks.sandbox.candle_files import base_interval, file_source, read_candle_file, read_funding_file
from tasks.strategy.baselines import BaselineFold
from tasks.strategy.folds import FoldResult
from tests.attack.lab import EVIDENCE, NETWORK, NOW, NOW_MS, SOURCE, Lab, candles, resealed_result
from tests.attack.mutations import NASTY, Random, damaged, mutated

Attempt = Callable[[], object]
"""Hands over one input; our errors are an answer, any other is a traceback."""
Attack = Callable[[Lab, Random], Generator[Attempt]]


def each(*attempts: Attempt) -> None:
    """Make every attempt, whatever the ones before came to, and raise the last refusal."""
    refusal = None
    for attempt in attempts:
        try:
            attempt()
        except PipelineError as err:
            require_plain(str(err))
            refusal = err
    if refusal is not None:
        raise refusal


def require_plain(text: str) -> None:
    """Refuse a message that steers a terminal, or goes on for pages."""
    if len(text) > 3_000 or any(not char.isprintable() and char != "\n" for char in text):
        raise AssertionError(f"a message must be a plain line, was {text[:300]!r}")


def json_texts(lab: Lab, rng: Random) -> Generator[Attempt]:
    """JSON that is nested, endless, not quite JSON, or not text at all."""
    good = json.dumps({"a": [1, 2.5, None, True, "x"], "b": {"c": [{"d": 1}] * 3}})
    texts = [b"[" * depth for depth in (10, 2_000, 200_000, 5_000_000)]
    texts += [
        b'{"a":' * 100_000,
        b"1" * 10_000,
        b"-",
        b"NaN",
        b"\xff\xfe\x00",
        b'"\\ud800"',
        b"",
        b"\x00" * 1_000,
        b"null",
    ]
    halts, state = Halts(lab.folder / "halts"), lab.folder / "halts" / "live-linear-SYNTHUSDT.json"
    state.parent.mkdir(parents=True, exist_ok=True)
    for place in count():
        text = texts[place] if place < len(texts) else damaged(good.encode(), rng)

        def attempt(text: bytes = text) -> None:
            state.write_bytes(text)
            each(lambda: parse_json(text), lambda: halts.read("live", lab.market))

        yield attempt


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


def candle_texts(lab: Lab, rng: Random) -> Generator[Attempt]:
    """CSV that people and tools write, with something wrong in it; packed ones that unpack to too much."""
    made = lab.columns(20)
    header = ["start_ms", *CANDLE_COLUMNS]
    rows = [[str(made[name][row]) for name in header] for row in range(20)]
    headers = (
        header,
        ["Date", "Open", "High", "Low", "Close", "Volume", "x"],
        ["unix", "date", *CANDLE_COLUMNS[:4], "Volume A"],
        [name.title() for name in header],
        ["timestamp", *CANDLE_COLUMNS],
        ["open_time", "open", "high", "low", "close", "volume", "volume"],
        ["time", "o", "h", "l", "c", "v", "w"],
        [],
        ["\ufeffstart_ms", *CANDLE_COLUMNS],
    )
    cells = (
        *map(str, NASTY[:30]),
        "-",
        "1,5",
        '"',
        '"1',
        "1e400",
        "2025-01-01",
        "01/02/2025",
        "1735689600",
        "1735689600000000",
    )
    bombs = [gzip.compress(b"1,2,3,4,5,6\n" * 2_000_000), gzip.compress(bytes(40_000_000))]
    for place in count():
        table = [list(row) for row in rows]
        for _ in range(rng.choice((0, 1, 1, 2, 5))):
            row = rng.randrange(len(table))
            table[row][rng.randrange(len(table[row]))] = rng.choice(cells)
        if rng.random() < 0.2:
            rng.shuffle(table)
        if rng.random() < 0.2:
            table[rng.randrange(len(table))] = rng.choice(([], ["x"], ["1"] * 40))
        scale = rng.choice((1, 1, 1000, 0.001))
        lines = [rng.choice((header, rng.choice(headers))), *table]
        text = "\n".join(",".join(line) for line in lines)
        if scale != 1:
            text = text.replace("0000,", "0000000," if scale > 1 else "0,")
        if rng.random() < 0.15:
            text = rng.choice(("https://x.invalid\n", "\x1b[2J\n", "\n\n", "a,b\n")) + text
        content = text.encode(errors="surrogatepass")
        if place % 6 == 0:
            content = damaged(content, rng)
        name = rng.choice(("c.csv", "c.csv", "c.csv.gz", "c.zip"))
        if name == "c.csv.gz":
            content = (
                bombs.pop() if bombs else rng.choice((gzip.compress(content), damaged(gzip.compress(content), rng)))
            )
        elif name == "c.zip":
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
                for inside in ["c.csv"] * rng.choice((1, 1, 1, 2)):
                    with suppress(UserWarning):
                        archive.writestr(inside, content)
            content = rng.choice((packed.getvalue(), damaged(packed.getvalue(), rng)))

        def attempt(name: str = name, content: bytes = content) -> None:
            file = lab.folder / name
            file.write_bytes(content)
            each(lambda: base_interval(read_candle_file(file, require_plain)), lambda: read_funding_file(file))

        yield attempt


def names(lab: Lab, rng: Random) -> Generator[Attempt]:
    """Names that lead elsewhere, folders, pipes and circles where files should be."""
    models, slug = lab.models, lab.market.slug
    texts = [text for text in NASTY if isinstance(text, str)]
    texts += [
        "a/b",
        "..",
        ".",
        "-",
        "champion",
        "20260105T000000Z-0123abcd/../x",
        "bybit",
        "sandbox:0123abcd",
        "con",
        "a" * 300,
    ]
    spare = lab.folder / "models" / "sandbox-0123abcd" / slug
    recent = lab.folder / "recent" / SOURCE / f"{slug}.parquet"
    for place in count():
        one, two, three = (rng.choice(texts) for _ in range(3))

        def spell(one: str = one, two: str = two, three: str = three) -> None:
            each(
                lambda: VersionRef.parse(f"{one}/{two}/{three}"),
                lambda: models.read(VersionRef(source=SOURCE, name=slug, version=one), two),
                lambda: models.read(VersionRef(source=one, name=two, version=three), "report.html"),  # type: ignore[arg-type]
                lambda: models.read(lab.champion, one),
                lambda: models.versions(SOURCE, two),
                lambda: models.champion(one, two),  # type: ignore[arg-type]
                lambda: Market.of_slug(one),
                lambda: load_dataset(lab.folder / "datasets", one),
                lambda: ExchangeConfig(candles=one).source,
                lambda: ExchangeConfig(url=one),
                lambda: Settings.from_environment({"DSC_HOME": one or ".", "DSC_ARTIFACT_URL": f"s3://{two}@{three}"}),
            )

        def put(kind: int = place // 2 % 5) -> None:
            at = spare / "champion" / "000001.json"
            version = spare / "20260105T000000Z-0123abcd" / MANIFEST
            recent.parent.mkdir(parents=True, exist_ok=True)
            recent.unlink(missing_ok=True)
            for file in (at, version, recent):
                file.parent.mkdir(parents=True, exist_ok=True)
                if kind == 0:
                    os.mkfifo(file)
                elif kind == 1:
                    file.mkdir()
                elif kind == 2:
                    file.symlink_to(file)
                elif kind == 3:
                    file.symlink_to("/dev/zero")
                else:
                    file.symlink_to(file.parent)
            other = Market.of_slug(slug)
            try:
                each(
                    lambda: models.champion(SOURCE_TWO, slug),
                    lambda: models.versions(SOURCE_TWO, slug),
                    lambda: read_manifest(
                        models, VersionRef(source=SOURCE_TWO, name=slug, version=version.parent.name)
                    ),
                    lambda: read_recent(lab.folder / "recent", SOURCE, other),
                    lambda: read_candle_file(recent),
                    lambda: file_source(recent),
                    lambda: models.prune_unfinished(SOURCE_TWO, slug, NOW),
                )
            finally:
                shutil.rmtree(spare, ignore_errors=True)
                shutil.rmtree(recent.parent, ignore_errors=True)

        yield put if place % 2 else spell


SOURCE_TWO = "sandbox:0123abcd"


def stream_messages(lab: Lab, rng: Random) -> Generator[Attempt]:
    """Messages of the public and the private stream with other parts."""
    market = Market(symbol="BTCUSDT")
    stream = PublicStream([market], exchange="bybit")
    private = PrivateDecoder()
    bar = {
        "start": 1672324800000, "end": 1672325099999, "interval": "5", "open": "16649.5", "close": "16677",
        "high": "16677", "low": "16608", "volume": "2.081", "turnover": "34666.4005", "confirm": True,
        "timestamp": 1672324988882,
    }  # fmt: skip
    trade = {"T": 1672304486865, "s": "BTCUSDT", "S": "Buy", "v": "0.001", "p": "16578.50", "i": "1", "BT": False}
    book = {"s": "BTCUSDT", "b": [["16493.50", "0.006"]], "a": [["16611.00", "0.029"]], "u": 18521288, "seq": 79616}
    of_both = {"symbol": "BTCUSDT", "category": "linear", "orderId": "1", "orderLinkId": "a", "side": "Buy"}
    order = of_both | {
        "orderStatus": "New", "cumExecQty": "0", "qty": "1", "price": "1", "avgPrice": "", "leavesQty": "1",
        "rejectReason": "EC_NoError", "updatedTime": "1672364262444", "createdTime": "1672364262444",
        "orderType": "Market", "cumExecFee": "0", "reduceOnly": False,
    }  # fmt: skip
    fill = of_both | {
        "execId": "1", "execQty": "1", "execPrice": "1", "execFee": "0.1", "execTime": "1672364262444",
        "execType": "Trade", "isMaker": False,
    }  # fmt: skip
    known = [
        {"topic": "kline.5.BTCUSDT", "type": "snapshot", "ts": 1672324988882, "data": [bar]},
        {"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": 1672304486868, "data": [trade]},
        {"topic": "orderbook.1.BTCUSDT", "type": "snapshot", "ts": 1672304484978, "data": book},
        {"topic": "tickers.BTCUSDT", "type": "snapshot", "ts": 1, "data": {"symbol": "BTCUSDT", "lastPrice": "1"}},
        {"topic": "order", "id": "1", "creationTime": 1672364262474, "data": [order]},
        {"topic": "execution", "id": "1", "creationTime": 1672364262474, "data": [fill]},
        {"op": "subscribe", "success": False, "ret_msg": "x", "req_id": "1-0"},
    ]
    for place in count():
        changed = mutated(rng.choice(known), rng)
        text = json.dumps(changed)
        if place % 4 == 0:
            text = damaged(text.encode(), rng).decode(errors="replace")
        if place % 50 == 0:
            text = "[" * rng.choice((3_000, 300_000))

        def attempt(changed: object = changed, text: str = text) -> None:
            stream._receive(text)
            if isinstance(changed, dict):
                with suppress(ValueError):  # what is dropped, and counted
                    private.decode(changed, 0)
            while not stream.events.empty():
                stream.events.get()

        yield attempt
