"""Whether two homes hold the same numbers, bit for bit: what a change that only moves code must leave as it was.

    python -m tests.verification.compare_versions HOME_A HOME_B

The newest version of each home is compared file by file: weights, graphs, trades, predictions, baselines, metrics, the
conditions of its verdict; with it the bars of its dataset, and the folds behind it, which lie below `work/`. Of homes
with a second seed's folds, compare those of one run each. Folders of versions do instead of homes; where they lie in no
home, there are no bars and no folds to compare.

Clocks, timings, pages, names of versions and hashes of code are left out: the same model has others on another day.
Files alone are read, and nothing of the project is imported: what is compared may be older or newer than this file.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import cyclopts
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load

Leaves = dict[str, Any]
"""Name -> one array, or one plain value of a JSON document."""

_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_WEIGHTS = "weights.safetensors"
# Of a version: when and by what code, how fast, and what shows the other files' numbers to a person.
_NOT_COMPARED = ("manifest.json", "latency.json", "report.html")
_RENAMED = {"direction_rival": "direction_reference"}  # fields that had another name before
_JUDGED = ("challenger", "second_seed", "luck")  # of what a judgement counts; the rest stands in other files too


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A version, and where what it was made from lies.

    Attributes:
        folder: Its files.
        home: The home whose store holds it; None for a folder elsewhere.
    """

    folder: Path
    home: Path | None


class Row(NamedTuple):
    """One line of the table; `difference` is None where all is equal."""

    what: str
    compared: int
    difference: str | None


def find_version(place: Path) -> Stored:
    """Return the newest version of a home, or the one whose folder `place` is.

    Raises:
        SystemExit: There is none.
    """
    place = place.absolute()
    if (place / "manifest.json").is_file():
        home = place.parents[3] if place.parents[2].name == "models" else None
        return Stored(folder=place, home=home)
    found = [path.parent for path in place.glob("models/*/*/*/manifest.json") if _VERSION.fullmatch(path.parent.name)]
    if not found:
        raise SystemExit(f"must be a home with a version below models/, or the folder of a version, was {place}")
    return Stored(folder=max(found, key=lambda folder: folder.name), home=place)


def contents(stored: Stored) -> dict[str, Leaves]:
    """Return everything that is compared of a version, by what it belongs to."""
    manifest = json.loads((stored.folder / "manifest.json").read_bytes())
    judgement = manifest["judgement"]
    judged = {name: judgement["numbers"].get(name) for name in _JUDGED}
    files = {path.name: path.read_bytes() for path in sorted(stored.folder.iterdir()) if path.name not in _NOT_COMPARED}
    found = {name: dict(_numbers(name, content)) for name, content in files.items()}
    found |= {"conditions": dict(_leaves(judgement["checks"])), "judged by": dict(_leaves(judged))}
    if stored.home is not None:
        bars = _result(stored.home / "datasets", manifest["dataset"])
        found["dataset"] = _together({name: content for name, content in bars.items() if name.endswith(".parquet")})
        own = _fold_keys(stored.home / "work", manifest["dataset"], files[_WEIGHTS])
        found |= _folds(stored.home / "work", own, second_seed=judged["second_seed"] is not None)
    return found


def _result(place: Path, key: str) -> dict[str, bytes]:
    """Return the files of an intermediate result: of a folder, or of an archive, as they are since; none where none."""
    if (place / key).is_dir():
        # Its digests are of the timings too.
        return {path.name: path.read_bytes() for path in (place / key).iterdir() if path.name != "sha256.json"}
    if not (place / f"{key}.zip").is_file():
        return {}
    with zipfile.ZipFile(place / f"{key}.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _fold_keys(work: Path, dataset: str, weights: bytes) -> list[str]:
    """Return the keys of the folds behind a version: of the evaluation on its dataset that ends with its weights."""
    for path in sorted(work.glob("evaluation-*")):
        inputs = json.loads(_result(work, path.stem)["inputs.json"])
        folds: list[str] = inputs["folds"]
        if inputs["data"]["id"] == dataset and _result(work, folds[-1]).get(_WEIGHTS) == weights:
            return folds
    return []


def _folds(work: Path, own: list[str], *, second_seed: bool) -> dict[str, Leaves]:
    found = {"folds": {"how many": len(own)} if own else {}}
    found |= {f"fold {number}": _together(_result(work, key)) for number, key in enumerate(own, 1)}
    if second_seed:
        # Nothing tells their order, and their keys are of the code too: they are known by their weights.
        others = [_result(work, path.stem) for path in work.glob("fold-*") if path.stem not in own]
        named = {sha256(files[_WEIGHTS]).hexdigest()[:12]: files for files in others}
        found["folds of the second seed"] = {
            f"{name} {leaf}": value for name in sorted(named) for leaf, value in _together(named[name]).items()
        }
    return found


def _together(files: Mapping[str, bytes]) -> Leaves:
    return {f"{file} {name}": value for file in sorted(files) for name, value in _numbers(file, files[file])}


def _numbers(file: str, content: bytes) -> Iterator[tuple[str, Any]]:
    """Yield what a file holds: tensors, columns, arrays, the values of a document, or its bytes."""
    suffix = Path(file).suffix
    if suffix == ".safetensors":
        yield from sorted(load(content).items())
    elif suffix == ".parquet":
        table = pq.read_table(io.BytesIO(content))
        for name in table.column_names:
            column = table[name].to_numpy()
            yield f"{name} ({table[name].type})", column.astype(str) if column.dtype == object else column
    elif suffix == ".npz":
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            yield from sorted(arrays.items())
    elif suffix == ".json":
        yield from _leaves(json.loads(content))
    else:
        yield "bytes", np.frombuffer(content, np.uint8)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values of a document with their paths, without what a clock has measured."""
    if isinstance(value, dict) and value:
        timed = "found" if str(value.get("name")).startswith("latency") else "seconds"
        for key in sorted(value.keys() - {timed}):
            now = _RENAMED.get(key, key)
            yield from _leaves(value[key], f"{name}.{now}" if name else now)
    elif isinstance(value, list) and value:
        names = [part.get("name") if isinstance(part, dict) else None for part in value]
        named = None not in names and len(set(names)) == len(names)
        for part, key in zip(value, names if named else range(len(value)), strict=True):
            yield from _leaves(part, f"{name}[{key}]")
    else:
        yield _VERSION.sub("<version>", name), _VERSION.sub("<version>", value) if isinstance(value, str) else value


def compare(a: Stored, b: Stored) -> list[Row]:
    """Return what was compared of two versions, and how each part differs."""
    one, other = contents(a), contents(b)
    rows = []
    for what in dict.fromkeys([*one, *other]):
        here, there = one.get(what, {}), other.get(what, {})
        both = [name for name in here if name in there]
        found = list(_differences(both, here, there))
        differences = [found[0] + (f" and {len(found) - 1:,} more" if len(found) > 1 else "")] if found else []
        for side, mine, theirs in (("A", here, there), ("B", there, here)):
            alone = [name for name in mine if name not in theirs]
            if alone:
                differences.append(f"{len(alone):,} only in {side}: {', '.join(alone[:2])}{' ...' * (len(alone) > 2)}")
        if not here and not there:
            differences = ["nothing there, in neither"]
        rows.append(Row(what, len(both), "; ".join(differences) or None))
    return rows


def _differences(names: Iterable[str], here: Leaves, there: Leaves) -> Iterator[str]:
    for name in names:
        if isinstance(here[name], np.ndarray) and isinstance(there[name], np.ndarray):
            yield from _array_difference(name, here[name], there[name])
        elif repr(here[name]) != repr(there[name]):  # of a float every digit, its sign and its type
            yield f"{name}: {here[name]!r} is not {there[name]!r}"


def _array_difference(name: str, here: NDArray[Any], there: NDArray[Any]) -> Iterator[str]:
    kinds = [f"{array.dtype} of {array.shape}" for array in (here, there)]
    if kinds[0] != kinds[1]:
        yield f"{name}: {kinds[0]} is not {kinds[1]}"
    elif here.tobytes() != there.tobytes():
        bits = [np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, -1) for array in (here, there)]
        differ = (bits[0] != bits[1]).any(axis=1)
        place = int(differ.argmax())
        values = " is not ".join(repr(array.reshape(-1)[place].item()) for array in (here, there))
        at = ", ".join(str(index) for index in np.unravel_index(place, here.shape))
        yield f"{name}[{at}]: {values}, {differ.sum():,} of {here.size:,} differ"


def compare_versions(home_a: Path, home_b: Path) -> int:
    """Print what was compared, equal or the first difference, and return 0 only if all is equal.

    Args:
        home_a: A home, whose newest version is meant, or the folder of a version.
        home_b: The other one.
    """
    a, b = find_version(home_a), find_version(home_b)
    rows = compare(a, b)
    width = max(len(row.what) for row in rows)
    print(f"A  {a.folder}\nB  {b.folder}\n\n{'what':<{width}}  numbers  A and B")
    for what, compared, difference in rows:
        print(f"{what:<{width}}  {compared:>7,}  {difference or 'equal'}")
    differing = sum(row.difference is not None for row in rows)
    print(f"\n{f'{differing} of {len(rows)} differ' if differing else f'all {len(rows)} are equal, bit for bit'}")
    return int(differing > 0)


if __name__ == "__main__":
    app = cyclopts.App(result_action="return_value")
    app.default(compare_versions)
    raise SystemExit(app())
