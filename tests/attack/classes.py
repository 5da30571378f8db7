"""Kinds of hostile input, each an endless row of them, and what is done with each one in turn."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Generator
from contextlib import suppress
from itertools import count

from storage.artifacts import MANIFEST
from storage.foreign import parse_json
from storage.recent import read_recent
from storage.schema import CANDLE_COLUMNS, Market, PipelineError, VersionRef
from storage.settings import Settings
from storage.snapshots import load_dataset
from tasks.champion.manifest import read_manifest
from tasks.exchange.connection import ExchangeConfig
from tasks.exchange.private_events import decode_private
from tasks.exchange.stream import PublicStream
from tasks.live.halts import Halts
from tasks.sandbox.candle_files import base_interval, file_source, read_candle_file, read_funding_file
from tests.attack.lab import NOW, SOURCE, Lab
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
                    decode_private(changed, 0)
            while not stream.events.empty():
                stream.events.get()

        yield attempt
