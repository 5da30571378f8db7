"""Every kind of attack, and how many inputs of it `make attack` tries: 9,500 in all."""

from tests.attack.classes import (
    Attack,
    candle_texts,
    json_texts,
    names,
    stream_messages,
)
from tests.attack.databases import databases
from tests.attack.stored_objects import archives, champion_entries, manifests, tables, trials, version_files, weights
from tests.attack.wire import http_answers, stream_frames

ATTACKS: dict[str, tuple[Attack, int]] = {
    "json": (json_texts, 1_000),
    "manifests": (manifests, 900),
    "champion entries": (champion_entries, 800),
    "version files": (version_files, 600),
    "trials": (trials, 800),
    "weights": (weights, 800),
    "archives": (archives, 700),
    "tables": (tables, 900),
    "candle files": (candle_texts, 1_000),
    "names": (names, 400),
    "stream messages": (stream_messages, 900),
    "stream frames": (stream_frames, 100),
    "http answers": (http_answers, 500),
    "databases": (databases, 100),
}
