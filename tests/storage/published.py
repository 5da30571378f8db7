"""A small version that the artifact store's tests publish and promote, and what is done to it by hand."""

import hashlib
import json
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage.artifacts import ArtifactStore
from storage.schema import FEATURES, Source, VersionRef

SOURCE = Source("sandbox:0123abcd")
NAME = "linear-SYNTHUSDT-5"
NOW = datetime(2026, 1, 4, 10, tzinfo=UTC)
FILES = {"weights.safetensors": b"w" * 3_000, "report.html": b"<p>flat</p>"}
MANIFEST = {"features": list(FEATURES), "metrics": {"sharpe_ratio": None}}
EVIDENCE = {"champion": {"net_bp": 0.0}, "challenger": {"net_bp": 1.5}}


def publish(store: ArtifactStore, hash8: str = "00000001", *, source: Source = SOURCE, after_s: int = 0) -> VersionRef:
    return store.publish(source, NAME, hash8, FILES, MANIFEST, NOW + timedelta(seconds=after_s))


def promote(store: ArtifactStore, ref: VersionRef | None, expected: int) -> int:
    return store.promote(SOURCE, NAME, ref, EVIDENCE, expected=expected, now=NOW).sequence


def folder_of(root: Path, ref: VersionRef) -> Path:
    return root / ref.source.replace(":", "-") / ref.name / ref.version


def reseal(folder: Path, edit: object) -> None:
    """Change a manifest as someone would who knows how the seal is made: SHA-256 of the compact, sorted JSON."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["seal"]
    edit(manifest)  # type: ignore[operator]
    compact = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["seal"] = hashlib.sha256(compact.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


_PREAMBLE = f"""
import itertools, os, shutil, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from fsspec.implementations.local import LocalFileOpener
from storage.artifacts import FORMAT, ArtifactStore
from storage.authorship import Place
from storage.sealed import sealed
from storage.schema import ArtifactError
SOURCE, NAME, FILES, MANIFEST, EVIDENCE = {SOURCE!r}, {NAME!r}, {FILES!r}, {MANIFEST!r}, {EVIDENCE!r}
NOW = datetime(2026, 1, 4, 10, tzinfo=UTC)
"""


def in_python(code: str, argument: Path, then: str = "") -> str:
    """Run code in a process of its own and return what it printed."""
    script = _PREAMBLE + textwrap.dedent(code) + textwrap.dedent(then)
    done = subprocess.run(  # noqa: S603 - the script is written above
        [sys.executable, "-W", "error", "-c", script, str(argument)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
