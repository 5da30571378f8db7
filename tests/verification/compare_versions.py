"""Whether two homes hold the same numbers, bit for bit: what a change that only moves code must leave as it was.

    python -m tests.verification.compare_versions HOME_A HOME_B

The newest version of each home is compared file by file: weights, graphs, trades, predictions, baselines, metrics, the
conditions of its verdict; with it the bars of its dataset, and the folds behind it, which lie below `work/`. Of homes
with a second seed's folds, compare those of one run each. Folders of versions do instead of homes; where they lie in no
home, there are no bars and no folds to compare.

Clocks, timings, names and hashes of code are left out: the same model has others on another day. Files alone are read,
and nothing of the project is imported, so what is compared may be older or newer than this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import cyclopts
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

Leaves = dict[str, Any]
"""Name -> one array, or one plain value of a JSON document."""

_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
# Of a manifest: when, by what code and how fast, and digests of files that are compared themselves.
_OF_THE_RUN = ("code", "dataset", "files", "latency", "seal", "version", "versions")
_FOR_A_PERSON = ".html"  # shows the numbers of the other files, and the day


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
    """One line of the table; `difference` is the first one, None where all is equal."""

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
    found = {"conditions": dict(_leaves(judgement["checks"]))}
    for name in sorted(manifest.keys() - {*_OF_THE_RUN, "judgement"}):
        found[f"manifest: {name}"] = dict(_leaves(manifest[name]))
    found["compared with the champion"] = dict(_leaves([judgement["champion"], judgement["numbers"]]))
    files = [path for path in stored.folder.iterdir() if path.suffix != _FOR_A_PERSON and path.stem != "manifest"]
    found |= {path.name: dict(_numbers(path)) for path in sorted(files)}
    if stored.home is not None:
        found |= _made_from(stored, stored.home, manifest)
    return found


def _made_from(stored: Stored, home: Path, manifest: Mapping[str, Any]) -> dict[str, Leaves]:
    """Return the bars and the folds of a version; those that are not there any more are nothing, and no equal's."""
    bars = sorted((home / "datasets" / manifest["dataset"]).glob("*.parquet"))
    found: dict[str, Leaves] = {"dataset": _together(bars)}
    work, published = home / "work", (stored.folder / "weights.safetensors").read_bytes()
    own: list[str] = []
    for path in sorted(work.glob("evaluation-*/inputs.json")):
        inputs = json.loads(path.read_bytes())
        last = work / inputs["folds"][-1] / "weights.safetensors"
        if inputs["data"]["id"] == manifest["dataset"] and last.is_file() and last.read_bytes() == published:
            own = inputs["folds"]
    found["folds"] = {"how many": len(own)} if own else {}
    for number, key in enumerate(own, 1):
        found[f"fold {number}"] = _together(_results(work / key))
    if manifest["judgement"]["numbers"].get("second_seed"):
        # Nothing names them in order, and a key is of the code too: they are known by their weights.
        others = [folder for folder in work.glob("fold-*") if folder.name not in own]
        named = {sha256((folder / "weights.safetensors").read_bytes()).hexdigest()[:12]: folder for folder in others}
        found["folds of the second seed"] = {
            f"{name}, {leaf}": value
            for name, folder in sorted(named.items())
            for leaf, value in _together(_results(folder)).items()
        }
    return found


def _results(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != "sha256.json")  # digests of files, timings included


def _together(paths: Iterable[Path]) -> Leaves:
    return {f"{path.name} {name}": value for path in paths for name, value in _numbers(path)}


def _numbers(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield what a file holds: tensors, columns, arrays, the values of a document, or its bytes."""
    if path.suffix == ".safetensors":
        yield from sorted(load_file(path).items())
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        for name in table.column_names:
            column = table[name].to_numpy()
            yield f"{name} ({table[name].type})", column.astype(str) if column.dtype == object else column
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            yield from sorted(arrays.items())
    elif path.suffix == ".json":
        yield from _leaves(json.loads(path.read_bytes()))
    else:
        yield "bytes", np.frombuffer(path.read_bytes(), np.uint8)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values of a document with their paths, without what a clock has measured."""
    if isinstance(value, dict) and value:
        timed = "found" if str(value.get("name")).startswith("latency") else "seconds"
        for key in sorted(value.keys() - {timed}):
            yield from _leaves(value[key], f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value:
        names = [part.get("name") if isinstance(part, dict) else None for part in value]
        named = None not in names and len(set(names)) == len(names)
        for part, key in zip(value, names if named else range(len(value)), strict=True):
            yield from _leaves(part, f"{name}[{key}]")
    else:
        yield name, _VERSION.sub("<version>", value) if isinstance(value, str) else value


def compare(a: Stored, b: Stored) -> list[Row]:
    """Return what was compared of two versions, and where each part differs first."""
    one, other = contents(a), contents(b)
    rows = []
    for what in dict.fromkeys([*one, *other]):
        here, there = one.get(what, {}), other.get(what, {})
        names = list(dict.fromkeys([*here, *there]))
        first = next(_differences(names, here, there), None) if names else "nothing there, in neither"
        rows.append(Row(what, len(names), first))
    return rows


def _differences(names: Iterable[str], here: Leaves, there: Leaves) -> Iterator[str]:
    for name in names:
        if name not in here or name not in there:
            yield f"{name}: only in {'A' if name in here else 'B'}"
        elif isinstance(here[name], np.ndarray) and isinstance(there[name], np.ndarray):
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
        yield f"{name}[{at}]: {values}; {differ.sum():,} of {here.size:,} differ"


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
