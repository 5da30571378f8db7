"""Settings from environment variables: locations, the artifact store, keys.

DSC_HOME              where run-time data lives (default ./.dsc)
DSC_ARTIFACT_URL      where versions live, and with them the datasets and finished steps that they are made from: a path
                      or any fsspec URL that every machine reaches (default: models, datasets and work in $DSC_HOME)
DSC_ARTIFACT_KEY      secret that all writers of that place share; files of other writers are refused (default: none)
DSC_DASK_ADDRESS      scheduler of the Dask cluster on which many markets are retrained (default: this process)
DSC_DASK_WAIT_S       how long that cluster may be out of reach or without a worker, seconds (default 60)
DSC_RETRAIN_HOURS     hours from one retrain of a market to the next: after three missed ones sessions and the monitor
                      treat its champion as expired (default 24; live accepts no more)
DSC_REPORTS_URL       where a browser finds the report of a version, set by `make ui` for its runs (default: nowhere)
DSC_ALERT_URL         webhook for alerts of failed runs, drift, promotions ... (default: none)
DSC_BYBIT_..._KEY     keys of trading accounts, and their secrets: `storage/api_keys.py`
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from storage.authorship import Place
from storage.schema import ConfigError, StoreError

_SECRETS = re.compile(r"://(?:[^/]*@|.*[?#])")
_AZURE = re.compile(r"abfss?://[^/:@]+@[^/@?#]+(/[^?#]*)?$")  # container@account, which is no secret
_LEAST_KEY = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings from the environment.

    Attributes:
        home: Folder of run-time data, absolute.
        artifact_url: Path or fsspec URL of the model versions. The repr leaves it out, and it must contain no secret:
            the back end reads credentials from the environment.
        artifact_key: Key that signs versions, champion entries, logs and results; None: no signatures.
        dask_address: Scheduler of the Dask cluster for many markets; None: this process.
        dask_wait_s: How long the cluster may be unreachable or without a worker, seconds.
        retrain_hours: Scheduled time from one retrain of a market to the next, hours.
        reports_url: Address of the server that shows reports; None: the page of a run gives the file's path.
        alert_url: Webhook of alerts; never shown, since anyone who knows it can post there.
    """

    home: Path
    artifact_url: str = field(repr=False)
    artifact_key: str | None = field(default=None, repr=False)
    dask_address: str | None = None
    dask_wait_s: float = 60.0
    retrain_hours: float = 24.0
    reports_url: str | None = None
    alert_url: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for link in self.artifact_url.split("::"):  # simplecache::s3://...
            if _SECRETS.search(link) and not _AZURE.match(link):
                raise ConfigError(
                    "DSC_ARTIFACT_URL must hold no user, key or query; credentials come from the environment, as the "
                    "back end reads them (AWS_ACCESS_KEY_ID ...)"
                )
        if self.artifact_key is not None and len(self.artifact_key) < _LEAST_KEY:
            raise ConfigError(
                f"DSC_ARTIFACT_KEY must have at least {_LEAST_KEY} characters, such as `openssl rand -hex 32`"
            )
        if self.alert_url is not None and not re.match(r"https?://[^\s]+$", self.alert_url):
            raise ConfigError("DSC_ALERT_URL must be the http:// or https:// address of a webhook")
        if self.dask_address is not None and self.is_at_home:
            raise ConfigError(
                "DSC_DASK_ADDRESS needs DSC_ARTIFACT_URL: a place that every worker of the cluster reaches"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings from `environ` (default: the process's own); an empty variable counts as unset."""
        env = {name: text for name, text in (os.environ if environ is None else environ).items() if text}
        home = Path(env.get("DSC_HOME", ".dsc")).expanduser().absolute()
        return cls(
            home=home,
            artifact_url=env.get("DSC_ARTIFACT_URL", str(home / "models")),
            artifact_key=env.get("DSC_ARTIFACT_KEY"),
            dask_address=env.get("DSC_DASK_ADDRESS"),
            dask_wait_s=_positive("DSC_DASK_WAIT_S", env.get("DSC_DASK_WAIT_S", "60"), "seconds"),
            retrain_hours=_positive("DSC_RETRAIN_HOURS", env.get("DSC_RETRAIN_HOURS", "24"), "hours"),
            reports_url=env.get("DSC_REPORTS_URL"),
            alert_url=env.get("DSC_ALERT_URL"),
        )

    @property
    def database(self) -> Path:
        """The DuckDB file."""
        return self.home / "market.duckdb"

    @property
    def models(self) -> Place:
        """Place of versions, champions and the logs of trials."""
        return Place(url=self.artifact_url, key=self.artifact_key)

    @property
    def datasets(self) -> Place:
        """Place of immutable datasets."""
        return self._beside("datasets")

    @property
    def recent(self) -> Path:
        """Folder of the newest candles of each market, for readers that must not lock the DuckDB file."""
        return self.home / "recent"

    @property
    def bans(self) -> Path:
        """Folder of the exchanges' bans of this machine's address."""
        return self.home / "bans"

    @property
    def work(self) -> Place:
        """Place of intermediate results, keyed by their inputs. May be deleted while nothing runs."""
        return self._beside("work")

    def prepare_home(self) -> Path:
        """Create the home folder and check that it is writable.

        Raises:
            StoreError: It is not.
        """
        probe = self.home / f".writable-{os.getpid()}"
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as err:
            raise StoreError(
                f"DSC_HOME must be a writable folder, {self.home} is not ({err.strerror}); set DSC_HOME"
            ) from err
        return self.home

    @property
    def is_at_home(self) -> bool:
        """Whether the versions are stored in the home, and so are not shared with others."""
        return self.artifact_url == str(self.home / "models")

    def _beside(self, name: str) -> Place:
        """Return the place of this name: in the home, or below the URL of the versions if one is set."""
        return Place(
            url=f"{self.home if self.is_at_home else self.artifact_url.rstrip('/')}/{name}", key=self.artifact_key
        )


def pasteable(arguments: str) -> str:
    """Return `python -m` with these arguments as it can be pasted into a shell of the present folder.

    It names this very Python, and the home where that is not the default one.
    """
    python, here, home = Path(sys.executable), Path.cwd(), Settings.from_environment().home
    shown = python.relative_to(here) if python.is_relative_to(here) else python
    set_home = "" if home == here / ".dsc" else f"DSC_HOME={shlex.quote(str(home))} "
    return f"{set_home}{shlex.quote(str(shown))} -m {arguments}"


def _positive(name: str, text: str, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ConfigError(f"{name} must be a number of {unit} > 0, was {text!r}")
    return number
