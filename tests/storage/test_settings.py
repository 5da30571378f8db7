"""What the environment says, and what it must never show."""

from pathlib import Path

import pytest

from storage.schema import ConfigError, StoreError
from storage.settings import Settings


def test_settings_are_the_documented_defaults_when_nothing_is_set():
    settings = Settings.from_environment({})
    assert settings.home == Path(".dsc").absolute()
    assert settings.artifact_url == str(settings.home / "models")
    assert settings.database == settings.home / "market.duckdb"
    assert [str(place) for place in (settings.models, settings.datasets, settings.work)] == [
        str(settings.home / name) for name in ("models", "datasets", "work")
    ]
    assert (settings.dask_address, settings.dask_wait_s, settings.retrain_hours) == (None, 60.0, 24.0)


def test_settings_are_taken_from_the_environment_when_set(monkeypatch, tmp_path):
    monkeypatch.setenv("DSC_HOME", str(tmp_path))
    monkeypatch.setenv("DSC_ARTIFACT_URL", "s3://bucket/models")
    settings = Settings.from_environment()
    assert (settings.home, settings.artifact_url) == (tmp_path, "s3://bucket/models")


@pytest.mark.parametrize(
    ("url", "datasets", "work"),
    [
        ("s3://bucket/dsc/", "s3://bucket/dsc/datasets", "s3://bucket/dsc/work"),
        ("/mnt/dsc", "/mnt/dsc/datasets", "/mnt/dsc/work"),
    ],
)
def test_datasets_and_finished_steps_lie_with_the_versions_when_these_have_a_place_of_their_own(url, datasets, work):
    settings = Settings.from_environment({"DSC_HOME": "/srv/dsc", "DSC_ARTIFACT_URL": url})
    assert (str(settings.datasets), str(settings.work)) == (datasets, work)
    assert settings.database == Path("/srv/dsc/market.duckdb")  # one writer, on its own disk


def test_dask_cluster_without_a_place_that_its_workers_reach_is_refused():
    with pytest.raises(ConfigError, match="DSC_DASK_ADDRESS needs DSC_ARTIFACT_URL: a place that every worker"):
        Settings.from_environment({"DSC_DASK_ADDRESS": "tcp://127.0.0.1:8786"})
    shared = {"DSC_DASK_ADDRESS": "tcp://127.0.0.1:8786", "DSC_ARTIFACT_URL": "s3://bucket/dsc"}
    assert Settings.from_environment(shared).dask_address == "tcp://127.0.0.1:8786"


@pytest.mark.parametrize("text", ["0", "-1", "inf", "nan", "soon"])
def test_wait_for_the_cluster_must_end(text):
    with pytest.raises(ConfigError, match=f"DSC_DASK_WAIT_S must be a number of seconds > 0, was '{text}'"):
        Settings.from_environment({"DSC_DASK_WAIT_S": text})


@pytest.mark.parametrize("text", ["0", "-24", "inf", "weekly"])
def test_hours_between_retrains_must_be_a_number_of_hours(text):
    with pytest.raises(ConfigError, match=f"DSC_RETRAIN_HOURS must be a number of hours > 0, was '{text}'"):
        Settings.from_environment({"DSC_RETRAIN_HOURS": text})


def test_empty_variable_counts_as_unset():
    assert Settings.from_environment({"DSC_HOME": "", "DSC_ALERT_URL": ""}) == Settings.from_environment({})


def test_home_is_expanded_when_it_starts_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.from_environment({"DSC_HOME": "~/dsc"}).home == tmp_path / "dsc"


def test_webhook_is_not_shown_when_settings_are_printed():
    settings = Settings.from_environment({"DSC_ALERT_URL": "https://hooks.example/hunter2"})
    for text in (repr(settings), str(settings), f"{settings}"):
        assert "hunter2" not in text


def test_home_is_made_with_its_parents_and_left_empty(tmp_path):
    settings = Settings.from_environment({"DSC_HOME": str(tmp_path / "a" / "b")})
    assert settings.prepare_home() == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_home_is_refused_when_a_file_is_in_its_way(tmp_path):
    (tmp_path / "file").write_text("")
    settings = Settings.from_environment({"DSC_HOME": str(tmp_path / "file" / "home")})
    with pytest.raises(StoreError, match=r"DSC_HOME must be a writable folder, .*home is not \(Not a directory\); set"):
        settings.prepare_home()


def test_home_is_refused_when_the_file_system_does_not_take_files():
    settings = Settings.from_environment({"DSC_HOME": "/proc/dsc"})
    with pytest.raises(StoreError, match=r"DSC_HOME must be a writable folder, /proc/dsc is not \(.+\); set DSC_HOME"):
        settings.prepare_home()


TOKEN = "hunter2"  # noqa: S105 - what must be shown nowhere


@pytest.mark.promise(18)
@pytest.mark.parametrize(
    "url",
    [
        f"s3://KEY:{TOKEN}@bucket/models",
        f"s3://{TOKEN}@bucket",
        f"https://user:{TOKEN}@host/models",
        f"https://host/models?sig={TOKEN}",
        f"https://host/models#{TOKEN}",
        f"memory://{TOKEN}@models",
        f"simplecache::s3://KEY:{TOKEN}@bucket",
        f"github://org:{TOKEN}@main/models",
        f"sftp://user:{TOKEN}@host/models",
        f"abfs://box:{TOKEN}@account.dfs.core.windows.net/x",
        f"gs://bucket/models?key={TOKEN}",
        f"filecache::https://{TOKEN}@host/x",
    ],
)
def test_artifact_url_with_a_secret_in_it_is_refused_and_not_shown(url):
    with pytest.raises(ConfigError, match="DSC_ARTIFACT_URL must hold no user, key or query; credentials come") as told:
        Settings.from_environment({"DSC_ARTIFACT_URL": url})
    assert TOKEN not in str(told.value)


@pytest.mark.parametrize(
    "url", ["abfs://box@account.dfs.core.windows.net/models", "s3://bucket/a@b", "/mnt/a@b/c?d", "memory://models"]
)
def test_artifact_url_whose_signs_are_no_secret_is_taken(url):
    assert Settings.from_environment({"DSC_ARTIFACT_URL": url}).artifact_url == url


@pytest.mark.promise(18)
def test_where_versions_live_and_what_they_are_signed_with_is_in_no_repr():
    environ = {"DSC_ARTIFACT_URL": "s3://hidden-place/models", "DSC_ARTIFACT_KEY": TOKEN * 5}
    settings = Settings.from_environment(environ)
    assert settings.artifact_key == TOKEN * 5
    assert TOKEN not in repr(settings)
    assert "hidden-place" not in repr(settings)


def test_short_key_and_an_alert_url_that_is_none_are_refused_and_not_shown():
    with pytest.raises(ConfigError, match="DSC_ARTIFACT_KEY must have at least 16 characters") as told:
        Settings.from_environment({"DSC_ARTIFACT_KEY": TOKEN})
    assert TOKEN not in str(told.value)
    with pytest.raises(ConfigError, match="DSC_ALERT_URL must be the http:// or https:// address of a web") as told:
        Settings.from_environment({"DSC_ALERT_URL": TOKEN})
    assert TOKEN not in str(told.value)
