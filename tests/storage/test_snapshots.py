"""A dataset is what it was when it was written, or it is refused."""
# ruff: noqa: S603 - every process that is started runs a text of this file

import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.results import ResultStore
from storage.schema import CANDLE_COLUMNS, FEATURES, ConfigError, DatasetError, DatasetRef, Market, Source
from storage.snapshots import Dataset, load_dataset, prune_datasets, write_dataset

BYBIT = Source("bybit")
REPLAY = Source("sandbox:0123abcd")


@pytest.fixture
def content(market, make_candles):
    """The parts of a dataset of 50 bars, the first ten not ready."""
    rng = np.random.default_rng(11)
    features, vol = rng.normal(size=(50, len(FEATURES))), rng.random(50)
    features[:10], vol[:10] = np.nan, np.nan
    return {
        "source": BYBIT,
        "market": market,
        "candles": make_candles(50),
        "features": features,
        "vol": vol,
        "segment": np.repeat([0, 1], 25),
        "funding_ms": np.array([1_735_689_600_000, 1_735_718_400_000]),
        "funding_rate": np.array([1e-4, -2e-4]),
        "code_hash": "c0de",
    }


@pytest.fixture
def written(tmp_path, content):
    """(folder, reference) of a stored dataset."""
    return tmp_path, write_dataset(tmp_path, Dataset(**content))


def archive(folder, ref):
    """Where a dataset lies."""
    return folder / f"{ref.id}.zip"


def rewrite(folder, ref, **changed: bytes) -> None:
    """Exchange files of a dataset with such care that its archive is sound."""
    files = ResultStore(folder).read(ref.id)
    archive(folder, ref).unlink()
    ResultStore(folder).save(ref.id, files | {name.replace("_", "."): content for name, content in changed.items()})


@pytest.mark.promise(3)
def test_dataset_is_read_back_bit_for_bit(written, content, equal):
    folder, ref = written
    for name in (ref, ref.id):
        dataset = load_dataset(folder, name)
        assert dataset.ref == ref == DatasetRef(id=ref.id, source=BYBIT, market=content["market"])
        assert equal(dataset.candles, content["candles"])
        for column in ("features", "vol", "segment"):
            assert np.array_equal(getattr(dataset, column), content[column], equal_nan=column != "segment")
            assert getattr(dataset, column).flags.writeable  # else Numba would compile its users again
        assert dataset.features.flags.c_contiguous
        assert dataset.funding_ms.tolist() == content["funding_ms"].tolist()
        assert dataset.funding_rate.tolist() == content["funding_rate"].tolist()
        assert dataset.code_hash == "c0de"


@pytest.mark.promise(3)
def test_id_is_the_hash_of_content_and_code(written, content):
    digest = hashlib.sha256()

    def add(part: bytes) -> None:
        digest.update(struct.pack("<Q", len(part)) + part)

    def add_column(table: str, name: str, values, kind: str) -> None:
        add(f"{table} {name} <{'i8' if kind == 'q' else 'f8'}".encode())
        add(b"".join(struct.pack(f"<{kind}", value) for value in values.tolist()))

    for text in ("bybit", "linear-BTCUSDT-5", "c0de"):
        add(text.encode())
    candles = content["candles"]
    add_column("bars.parquet", "start_ms", candles.start_ms, "q")
    for name in CANDLE_COLUMNS:
        add_column("bars.parquet", name, getattr(candles, name), "d")
    for column, name in enumerate(FEATURES):
        add_column("bars.parquet", name, content["features"][:, column], "d")
    add_column("bars.parquet", "vol", content["vol"], "d")
    add_column("bars.parquet", "segment", content["segment"], "q")
    add_column("funding.parquet", "stamp_ms", content["funding_ms"], "q")
    add_column("funding.parquet", "rate", content["funding_rate"], "d")
    assert written[1].id == digest.hexdigest()[:16]


@pytest.mark.promise(3)
def test_id_changes_with_any_value_and_with_the_code(tmp_path, content):
    def nudged(array, where):
        copy = array.copy()
        copy[where] = copy[where] + 1 if copy.dtype.kind == "i" else np.nextafter(copy[where], np.inf)
        return copy

    stamps, rates = content["funding_ms"], content["funding_rate"]
    others = [
        {"code_hash": "c0df"},
        {"market": Market(symbol="BTCUSDT", interval="15")},
        {"features": nudged(content["features"], (49, 9))},
        {"features": content["features"][:, ::-1]},
        {"vol": nudged(content["vol"], 20)},
        {"segment": nudged(content["segment"], 49)},
        {"funding_ms": nudged(stamps, 0)},
        {"funding_rate": nudged(rates, 1)},
        {"funding_ms": stamps[:1], "funding_rate": rates[:1]},
        *(
            {"candles": replace(content["candles"], **{name: nudged(getattr(content["candles"], name), 0)})}
            for name in ("start_ms", *CANDLE_COLUMNS)
        ),
    ]
    ids = {write_dataset(tmp_path, Dataset(**(content | other))).id for other in ({}, *others)}
    assert len(ids) == 1 + len(others)


@pytest.mark.promise(3)
def test_id_is_the_same_for_equal_values_whatever_their_bits_and_layout(written, content):
    folder, ref = written
    features = np.asfortranarray(content["features"])
    features[:10] = np.array([0xFFF8_0000_0000_0001], np.uint64).view(np.float64)  # what x86 makes of 0 / 0
    again = write_dataset(folder, Dataset(**(content | {"features": features})))
    assert again == ref


@pytest.mark.promise(3)
def test_existing_dataset_is_left_alone_when_written_again(written, content):
    folder, ref = written
    before = archive(folder, ref).read_bytes(), archive(folder, ref).stat().st_ino
    assert write_dataset(folder, Dataset(**content)) == ref
    assert (archive(folder, ref).read_bytes(), archive(folder, ref).stat().st_ino) == before
    assert list(folder.iterdir()) == [archive(folder, ref)]


@pytest.mark.promise(0)
def test_datasets_of_two_sources_never_meet(written, content):
    folder, ref = written
    replayed = write_dataset(folder, Dataset(**(content | {"source": REPLAY})))
    assert replayed.id != ref.id
    assert load_dataset(folder, replayed).ref.source == REPLAY
    text = rf"dataset {ref.id} must be of sandbox:0123abcd BTCUSDT linear 5m, was of bybit BTCUSDT linear 5m"
    with pytest.raises(DatasetError, match=text):
        load_dataset(folder, replace(ref, source=REPLAY))
    with pytest.raises(ConfigError, match=r"source must be .* was 'replay'"):
        write_dataset(folder, Dataset(**(content | {"source": Source("replay")})))


@pytest.mark.promise(3)
def test_half_written_dataset_is_refused(written):
    folder, ref = written
    path = archive(folder, ref)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=rf"{ref.id} is damaged; delete {path} and run it again"):
            load_dataset(folder, ref)


@pytest.mark.promise(3)
def test_dataset_with_any_changed_byte_is_refused_before_arrow_sees_it(written, monkeypatch):
    folder, ref = written
    path, rng = archive(folder, ref), np.random.default_rng(4)
    whole = path.read_bytes()
    monkeypatch.setattr(pq, "ParquetFile", lambda *args: pytest.fail("parsed"))
    for place in rng.integers(0, len(whole), 100):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
        with pytest.raises(DatasetError, match=rf"{ref.id} is damaged"):
            load_dataset(folder, ref)


@pytest.mark.promise(3)
def test_value_changed_with_care_is_refused_too(written):
    folder, ref = written
    table = pq.read_table(io.BytesIO(ResultStore(folder).read(ref.id)["bars.parquet"]))
    close = table.column("close").to_numpy().copy()
    close[7] *= 1.01
    edited = io.BytesIO()
    pq.write_table(table.set_column(table.column_names.index("close"), "close", pa.array(close)), edited)
    rewrite(folder, ref, bars_parquet=edited.getvalue())
    with pytest.raises(
        DatasetError, match=rf"content of dataset {ref.id} has the id \w+; delete .*{ref.id}\.zip and build"
    ):
        load_dataset(folder, ref)


@pytest.mark.promise(0)
@pytest.mark.promise(3)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "demo"}, "content of dataset .* has the id"),
        ({"code_hash": "c0df"}, "content of dataset .* has the id"),
        ({"market": {"symbol": "ETHUSDT"}}, "content of dataset .* has the id"),
        ({"market": None}, "is no Dataset"),
    ],
)
def test_dataset_that_says_it_is_of_something_else_is_refused(written, change, message):
    folder, ref = written
    origin = json.loads(ResultStore(folder).read(ref.id)["dataset.json"])
    rewrite(folder, ref, dataset_json=json.dumps(origin | change).encode())
    with pytest.raises(DatasetError, match=message):
        load_dataset(folder, ref.id)


@pytest.mark.promise(3)
def test_dataset_under_another_name_is_refused(written):
    folder, ref = written
    shutil.copy(archive(folder, ref), folder / f"{'0' * 16}.zip")
    with pytest.raises(DatasetError, match=rf"content of dataset 0{{16}} has the id {ref.id}; delete"):
        load_dataset(folder, "0" * 16)


@pytest.mark.promise(3)
def test_damaged_dataset_is_not_taken_for_the_one_to_write(written, content):
    folder, ref = written
    archive(folder, ref).write_bytes(b"PK")
    with pytest.raises(DatasetError, match=rf"{ref.id} is damaged; delete {archive(folder, ref)} and run it again"):
        write_dataset(folder, Dataset(**content))


@pytest.mark.parametrize("name", ["", "../../etc", "0" * 15, "0" * 17, "G" * 16, "0" * 16 + "\n"])
def test_id_that_is_no_id_is_refused(written, name):
    with pytest.raises(DatasetError, match=r"a dataset's id must be 16 hex digits, was '"):
        load_dataset(written[0], name)


def test_dataset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DatasetError, match=rf"dataset 0{{16}} is not in {tmp_path}; build it again from the stored"):
        load_dataset(tmp_path, "0" * 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros((50, 9))}, r"must have at least one bar and \(50, 35\) features, they were \(50, 9\)"),
        ({"vol": np.zeros(49)}, r"the columns of bars\.parquet must have one length, were \[49, 50\]"),
        (
            {"funding_ms": np.arange(2), "funding_rate": np.zeros(3)},
            r"the columns of funding\.parquet must have one length, were \[2, 3\]",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, content, change, message):
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path, Dataset(**(content | change)))
    assert list(tmp_path.iterdir()) == []


def test_dataset_without_a_bar_is_refused(tmp_path, content, make_candles):
    with pytest.raises(DatasetError, match=r"a dataset must have at least one bar and \(0, 35\) features"):
        write_dataset(
            tmp_path, Dataset(**content | {"candles": make_candles(0), "features": np.zeros((0, len(FEATURES)))})
        )


def test_market_without_funding_is_stored(tmp_path, content):
    none = {"funding_ms": np.empty(0, np.int64), "funding_rate": np.empty(0)}
    dataset = load_dataset(tmp_path, write_dataset(tmp_path, Dataset(**(content | none))))
    assert (len(dataset.funding_ms), dataset.funding_ms.dtype, dataset.funding_rate.dtype) == (0, np.int64, np.float64)


def test_folder_that_cannot_be_written_is_named(tmp_path, content):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"can't .*file/datasets.* \(Not a directory\); set DSC_HOME or"):
        write_dataset(tmp_path / "file" / "datasets", Dataset(**content))


WRITE = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from storage.schema import CANDLE_COLUMNS, FEATURES, Candles, DatasetError, Market, Source
from storage.snapshots import Dataset, write_dataset

folder, last, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(1)
candles = Candles(start_ms=np.arange(5_000) * 300_000, **{name: rng.random(5_000) for name in CANDLE_COLUMNS})

ours = {"storage.snapshots", "storage.results", "storage.objects"}
lines = 0

def count(frame, event, argument):
    global lines
    if event == "line" and frame.f_globals.get("__name__") in ours:
        lines += 1
        if lines == last:
            os.kill(os.getpid(), signal.SIGKILL)
    return count

if last:
    sys.settrace(count)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    ref = write_dataset(folder, Dataset(
        source=Source("bybit"), market=Market(), candles=candles, features=rng.random((5_000, len(FEATURES))),
        vol=rng.random(5_000), segment=np.zeros(5_000, np.int64), funding_ms=np.arange(3), funding_rate=np.zeros(3),
        code_hash="c",
    ))
    print(ref.id, lines)
except DatasetError as err:
    print(err)
"""


def write(folder, last: int = 0, limit: int = 0) -> subprocess.CompletedProcess[str]:
    """Write a dataset in a process that is killed at the `last` of our lines, or may not write more than `limit`."""
    command = [sys.executable, "-c", WRITE, str(folder), str(last), str(limit)]
    return subprocess.run(command, capture_output=True, check=False, text=True)


@pytest.mark.promise(3)
def test_dataset_is_whole_or_absent_when_its_writer_is_killed_anywhere(tmp_path):
    dataset_id, lines = write(tmp_path / "counted", last=10**9).stdout.split()
    for before_the_end in (200, 20, 10, 3):  # the file itself is made by the last twenty lines
        assert write(tmp_path, int(lines) - before_the_end).returncode == -9
        for path in tmp_path.glob("*.zip"):  # whatever is visible is whole
            assert load_dataset(tmp_path, path.stem).ref.id == dataset_id
            path.unlink()
    assert write(tmp_path).stdout.split()[0] == dataset_id
    assert load_dataset(tmp_path, dataset_id).ref.id == dataset_id


@pytest.mark.promise(3)
def test_full_disk_leaves_no_dataset_behind(tmp_path):
    said = write(tmp_path, limit=100_000).stdout
    assert re.search(r"can't write .*\.zip \(File too large\); raise the file size limit and run it again", said)
    assert list(tmp_path.iterdir()) == []


def test_prune_keeps_what_a_version_was_made_from_and_the_newest_of_each_market(tmp_path, content):
    def stored(number: int, **changes) -> str:
        ref = write_dataset(tmp_path, Dataset(**content | {"code_hash": f"c0de{number}"} | changes))
        os.utime(archive(tmp_path, ref), (number, number))  # used in this order, long ago
        return ref.id

    ours = [stored(number) for number in range(1, 6)]
    other = stored(1, market=Market(symbol="ETHUSDT"))
    replayed = stored(1, source=REPLAY)
    damaged = stored(9)
    (tmp_path / f"{damaged}.zip").write_text("PK")
    os.utime(tmp_path / f"{damaged}.zip", (1, 1))
    asked = []

    def needed():
        asked.append(True)
        return {ours[0]}

    assert prune_datasets(tmp_path, datetime(2026, 1, 1, tzinfo=UTC), 5, needed).keys == ()
    assert asked == []  # where nothing could go, nobody is asked
    pruned = prune_datasets(tmp_path, datetime(2026, 1, 1, tzinfo=UTC), 2, needed)
    assert set(pruned.keys) == {ours[1], ours[2]}
    assert {path.stem for path in tmp_path.iterdir()} == {ours[0], ours[3], ours[4], other, replayed, damaged}
    assert asked == [True]
    assert load_dataset(tmp_path, ours[0]).ref.id == ours[0]


def test_dataset_that_a_run_builds_again_counts_as_used(tmp_path, content):
    ref = write_dataset(tmp_path, Dataset(**content))
    os.utime(archive(tmp_path, ref), (1, 1))
    write_dataset(tmp_path, Dataset(**content))
    assert prune_datasets(tmp_path, datetime(2026, 1, 1, tzinfo=UTC), 0, lambda *_: set()).keys == ()


@pytest.mark.promise(3)
@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_dataset_at_a_url_is_that_of_a_disk(request, kind, content, tmp_path, equal):
    url = f"{'memory:/' if kind == 'memory' else request.getfixturevalue('s3_bucket')}{tmp_path}"
    with pytest.raises(DatasetError, match=r"is not in .*; build it again .* or let DSC_ARTIFACT_URL name the place"):
        load_dataset(url, "0" * 16)
    ref = write_dataset(url, Dataset(**content))
    assert ref == write_dataset(tmp_path, Dataset(**content)) == write_dataset(url, Dataset(**content))
    there, here = load_dataset(url, ref), load_dataset(tmp_path, ref)
    assert equal(there.candles, here.candles)
    for name in ("features", "vol", "segment", "funding_ms", "funding_rate"):
        assert np.array_equal(getattr(there, name), getattr(here, name), equal_nan=True)
    assert prune_datasets(url, datetime(2126, 1, 1, tzinfo=UTC), 0, lambda *_: set()).keys == ()
    assert load_dataset(url, ref).ref == ref  # a bucket's own rules expire what nobody needs
