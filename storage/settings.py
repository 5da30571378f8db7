"""The environment, read once: where things lie, which artifact store, which keys.

DSC_HOME              where run-time data lives (default ./.dsc)
DSC_ARTIFACT_URL      where versions live: a path or any fsspec URL (default $DSC_HOME/models)
DSC_ALERT_URL         webhook that hears of failed runs, drift, promotions ... (default: nobody is told)
BYBIT_API_KEY         keys, for private calls only; no public or sandbox call needs them
BYBIT_API_SECRET
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from storage.schema import ConfigError, StoreError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says.

    Attributes:
        home: Folder of run-time data, absolute.
        artifact_url: Path or fsspec URL of the model versions.
        alert_url: Webhook of alerts, never shown: whoever knows it can write there.
        api_key: Bybit key, never shown.
        api_secret: Bybit secret, never shown.
    """

    home: Path
    artifact_url: str
    alert_url: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    api_secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.api_key is None) != (self.api_secret is None):
            missing = "BYBIT_API_SECRET" if self.api_secret is None else "BYBIT_API_KEY"
            raise ConfigError(f"BYBIT_API_KEY and BYBIT_API_SECRET go together; {missing} is not set")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings from `environ` (default: the process's own); an empty variable counts as unset."""
        env = {name: text for name, text in (os.environ if environ is None else environ).items() if text}
        home = Path(env.get("DSC_HOME", ".dsc")).expanduser().absolute()
        return cls(
            home=home,
            artifact_url=env.get("DSC_ARTIFACT_URL", str(home / "models")),
            alert_url=env.get("DSC_ALERT_URL"),
            api_key=env.get("BYBIT_API_KEY"),
            api_secret=env.get("BYBIT_API_SECRET"),
        )

    @property
    def database(self) -> Path:
        """The DuckDB file."""
        return self.home / "market.duckdb"

    @property
    def datasets(self) -> Path:
        """Folder of immutable datasets."""
        return self.home / "datasets"

    @property
    def recent(self) -> Path:
        """Folder of the newest candles of each market, for readers that must not hold the DuckDB file."""
        return self.home / "recent"

    @property
    def work(self) -> Path:
        """Folder of intermediate results, each named by what it was made from; may be deleted while nothing runs."""
        return self.home / "work"

    def prepare_home(self) -> Path:
        """Make the home folder and prove that it can be written.

        Raises:
            StoreError: It can't.
        """
        probe = self.home / f".writable-{os.getpid()}"
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as err:
            raise StoreError(
                f"DSC_HOME must be a writable folder, {self.home} is not ({err.strerror}); set DSC_HOME"
            ) from err
        return self.home
