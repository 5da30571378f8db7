"""How a source is named, so that nobody takes a replay or a made-up market for an exchange."""

from storage.schema import Source
from storage.trials import Origin

_SOURCE_LABELS = {"bybit": "Bybit", "testnet": "Bybit testnet", "demo": "Bybit demo"}
_RIBBONS = {
    "bybit": ("BYBIT", "candles of the exchange itself"),
    "testnet": ("TESTNET", "Bybit's test exchange: its prices are not the market's"),
    "demo": ("DEMO", "Bybit's demo exchange"),
    "replayed": ("REPLAY", "recorded candles, played back by the sandbox"),
    "synthetic": ("SYNTHETIC", "a made-up market: says nothing about a real one"),
}


def source_label(source: Source, origin: Origin) -> str:
    """Return a source as every title names it."""
    if origin == "exchange":
        return _SOURCE_LABELS[source]
    return f"{'replayed candles' if origin == 'replayed' else 'synthetic market'}, {source}"


def ribbon(source: Source, origin: Origin) -> tuple[str, str]:
    """Return a source in one loud word, and what it means."""
    return _RIBBONS[source if origin == "exchange" else origin]
