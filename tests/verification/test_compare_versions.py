"""Two homes that hold the same numbers are equal; one bit that differs anywhere is named, and nothing else."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from tests.verification.compare_versions import compare, compare_versions, find_version

GOLDEN = Path(__file__).parents[1] / "golden" / "format-1.tar.xz"  # whose numbers stand below
FOLDS = ("fold-0a", "fold-0b")
SECOND_SEED = ("fold-1a", "fold-1b")


def edit(path, change):
    """Write a JSON document again after `change` was called with it."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    home = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN) as tar:
        tar.extractall(home, filter="data")
    return home


def store(golden, home, today="", archives=False):
    """Return a home with the golden version, and the folds that it could have been made from.

    Args:
        golden: Home to copy.
        home: Where to.
        today: What the keys of datasets and results end with: they are of the code.
        archives: Whether a result is an archive, or a folder, as it was before.
    """
    shutil.copytree(golden, home)
    folder = find_version(home).folder
    published = (folder / "weights.safetensors").read_bytes()
    facts = json.loads((folder / "folds.json").read_bytes())
    dataset = json.loads((folder / "manifest.json").read_bytes())["dataset"]
    packed = home / "datasets" / f"{dataset}.zip"
    shutil.unpack_archive(packed, home / "datasets" / f"{dataset}{today}")
    packed.unlink()
    for number, name in enumerate((*FOLDS, *SECOND_SEED)):
        fold = home / "work" / f"{name}{today}"
        fold.mkdir(parents=True)
        save_file({"head.bias": np.array([0.1, 0.2 + number], np.float32)}, fold / "weights.safetensors")
        np.savez(fold / "predictions.npz", probabilities=np.array([[0.2, 0.3, 0.5], [np.nan] * 3]))
        (fold / "fold.json").write_text(json.dumps(facts[number % 2] | {"seconds": 1.5 + len(today)}))
    (home / "work" / f"{FOLDS[1]}{today}" / "weights.safetensors").write_bytes(published)
    made_from = {"data": {"id": f"{dataset}{today}"}, "folds": [f"{fold}{today}" for fold in FOLDS]}
    (home / "work" / f"evaluation-2{today}").mkdir()
    (home / "work" / f"evaluation-2{today}" / "inputs.json").write_text(json.dumps(made_from))
    if archives:
        for result in [*(home / "work").iterdir(), *(home / "datasets").iterdir()]:
            shutil.make_archive(str(result), "zip", result)
            shutil.rmtree(result)

    def judged(manifest):
        manifest |= {"dataset": f"{dataset}{today}"}
        manifest["judgement"]["numbers"]["second_seed"] = {"total_return": 0.25}

    edit(folder / "manifest.json", judged)
    return home


@pytest.fixture
def homes(golden, tmp_path):
    return store(golden, tmp_path / "a"), store(golden, tmp_path / "b")


def differing(homes):
    rows = compare(*map(find_version, homes))
    return {row.what: row.difference for row in rows if row.difference is not None}


def folder_of(home):
    return find_version(home).folder


def test_homes_of_equal_numbers_are_equal_whatever_day_code_machine_and_kind_of_results(golden, tmp_path, capsys):
    a, b = store(golden, tmp_path / "a"), store(golden, tmp_path / "b", today="7", archives=True)
    folder = folder_of(b)

    def another_day(manifest):
        manifest |= {"version": "20270101T000000Z-01234567", "code": "0" * 64, "latency": {"p99_us": 9.9}}
        latency = next(one for one in manifest["judgement"]["checks"] if one["name"].startswith("latency"))
        latency["found"] = "9.9 us"

    edit(folder / "manifest.json", another_day)
    edit(folder / "folds.json", lambda folds: folds[0].update(seconds=1e3))
    edit(folder / "baselines.json", lambda table: table["folds"][0]["LightGBM"].update(seconds=1e3))
    folder.rename(folder.with_name("20270101T000000Z-01234567"))
    assert compare_versions(a, b) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].endswith("are equal, bit for bit")
    assert {line.split("  ")[0] for line in shown} >= {
        "weights.safetensors", "trades.parquet", "predictions.parquet", "equity.parquet", "baselines.json",
        "baselines.parquet", "backtest.json", "conditions", "judged by", "dataset", "fold 1", "fold 2",
        "folds of the second seed",
    }  # fmt: skip


def one_bit_in_weights(path):
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    last = tensors[name].reshape(-1).view(np.uint8)
    last[-4] ^= 1
    save_file(tensors, path)


def one_column(name):
    def change(path):
        table = pq.read_table(path)
        values = table[name].to_numpy().copy()
        values[-1] = np.nextafter(values[-1], np.inf) if values.dtype.kind == "f" else values[-1] + 1
        pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), path)

    return change


def one_value(*keys, value=None):
    """Change the value at `keys`: to `value`, else to the next number that a float can hold."""

    def change(document):
        *way, last = keys
        for key in way:
            document = document[key]
        document[last] = float(np.nextafter(document[last], np.inf)) if value is None else value

    return lambda path: edit(path, change)


def one_prediction(path):
    np.savez(path, probabilities=np.array([[0.2, 0.3, np.nextafter(0.5, 1.0)], [np.nan] * 3]))


METRIC = one_value("metrics", "model", "total_return")
IN_VERSION = {
    "final weights": ("weights.safetensors", one_bit_in_weights, "weights.safetensors", "1 of"),
    "a trade's profit": ("trades.parquet", one_column("net"), "trades.parquet", "net (double)[88]: "),
    "a trade's end": ("trades.parquet", one_column("exit_bar"), "trades.parquet", "exit_bar (int64)[88]: "),
    "a prediction": ("predictions.parquet", one_column("p_buy"), "predictions.parquet", "p_buy (double)[995]: "),
    "a metric": ("backtest.json", METRIC, "backtest.json", "metrics.model.total_return: 1.449"),
    "a figure of skill": ("backtest.json", one_value("skill", "auc", 1), "backtest.json", "skill.auc[1]: "),
    "a condition": (
        "manifest.json", one_value("judgement", "checks", 1, "passed", value=False),
        "conditions", "[closed trades].passed: True is not False",
    ),
    "a condition's number": (
        "manifest.json", one_value("judgement", "checks", 1, "found", value="88"),
        "conditions", "[closed trades].found: '89' is not '88'",
    ),
    "the second seed's number": (
        "manifest.json", one_value("judgement", "numbers", "second_seed", "total_return"),
        "judged by", "second_seed.total_return: 0.25 is not 0.25000000000000006",
    ),
    "a baseline": (
        "baselines.json", one_value("table", 2, "log_loss"), "baselines.json", "table[LightGBM].log_loss: ",
    ),
    "what a baseline chose": (
        "baselines.json", one_value("folds", 0, "LightGBM", "temperature"), "baselines.json", "folds[0].LightGBM.",
    ),
    "a count that became a share": (
        "backtest.json", one_value("metrics", "model", "num_trades", value=89.0),
        "backtest.json", "metrics.model.num_trades: 89 is not 89.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("planted", IN_VERSION)
def test_one_number_of_a_version_that_differs_is_named_alone(homes, planted):
    file, change, what, difference = IN_VERSION[planted]
    if planted == "final weights":  # the last fold's are the published ones
        change(homes[1] / "work" / FOLDS[1] / file)
    change(folder_of(homes[1]) / file)
    found = differing(homes)
    assert found.keys() == ({what, "fold 2"} if planted == "final weights" else {what})
    assert difference in found[what]


@pytest.mark.parametrize(
    ("file", "change", "what", "difference"),
    [
        (f"work/{FOLDS[0]}/weights.safetensors", one_bit_in_weights, "fold 1", "head.bias[1]: "),
        (f"work/{FOLDS[0]}/predictions.npz", one_prediction, "fold 1", "probabilities[0, 2]: 0.5 is not 0.5000000"),
        (f"work/{FOLDS[1]}/fold.json", one_value("temperature"), "fold 2", "fold.json temperature: "),
        (f"work/{SECOND_SEED[1]}/weights.safetensors", one_bit_in_weights, "folds of the second seed", " only in A: "),
        (f"work/{SECOND_SEED[1]}/predictions.npz", one_prediction, "folds of the second seed", "[0, 2]: 0.5 is"),
    ],
)  # fmt: skip
def test_one_number_of_a_fold_that_differs_is_named_alone(homes, file, change, what, difference):
    change(homes[1] / file)
    found = differing(homes)
    assert found.keys() == {what}
    assert difference in found[what]


def test_what_is_missing_is_no_equal(homes, capsys):
    (folder_of(homes[0]) / "trades.parquet").unlink()
    for home in homes:  # neither has any: that is no proof
        shutil.rmtree(home / "work" / "evaluation-2")
    found = differing(homes)
    assert found.keys() == {"trades.parquet", "folds"}
    assert found["trades.parquet"] == "15 only in B: entry_bar (int64), exit_bar (int64) ..."
    assert found["folds"] == "nothing there, in neither"
    assert compare_versions(*homes) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 of ")


def test_newest_version_of_a_home_is_meant_and_a_folder_is_itself(homes):
    older = folder_of(homes[1])
    newer = older.with_name("20991231T000000Z-00000000")
    newer.mkdir()
    (newer / "manifest.json").write_bytes((older / "manifest.json").read_bytes())
    assert folder_of(homes[1]) == newer
    assert differing((homes[0], older)) == {}


def test_place_without_a_version_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="must be a home with a version below models/"):
        find_version(tmp_path)
