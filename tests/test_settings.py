"""Settings: defaults that work, and one environment name for each."""

import os
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from stock_assets.errors import SetupError
from stock_assets.models import MODELS, NAIVE, candidates
from stock_assets.settings import Settings, current_settings

AZURE = "abfs://c@a.dfs.core.windows.net/x"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("STOCK_ASSETS_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_work_without_any_environment(tmp_path: Path) -> None:
    settings = Settings()
    home = tmp_path / "dagster_home"
    assert settings.home == home
    assert settings.drop_folder == home / "drops"
    assert settings.store == home / "store"
    assert settings.prediction_database_url == f"sqlite:///{home / 'predictions.db'}"
    assert settings.max_drop_bytes == 2**30
    assert settings.max_tickers_per_run == 1_000
    assert settings.models == ("linear_regression", "ridge", "random_forest", "gradient_boosting")
    assert list(candidates(settings.models)) == [NAIVE, *settings.models]
    assert settings.dagster_url == "http://127.0.0.1:3000"
    assert not settings.api_keys.get_secret_value()


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("STOCK_ASSETS_HOME", "/srv/home", "home", Path("/srv/home")),
        ("STOCK_ASSETS_FILES", "/srv/all", "drop_folder", Path("/srv/all/drops")),
        ("STOCK_ASSETS_FILES", "/srv/all", "store", Path("/srv/all/store")),
        ("STOCK_ASSETS_FILES", "s3://b/in", "drop_folder", "s3://b/in/drops"),
        ("STOCK_ASSETS_FILES", "s3://b", "store", "s3://b/store"),
        ("STOCK_ASSETS_FILES", "gs://b/in/", "store", "gs://b/in/store"),
        ("STOCK_ASSETS_FILES", "abfs://c@a.dfs.core.windows.net/x", "store", f"{AZURE}/store"),
        ("STOCK_ASSETS_DROPS", "/srv/in", "drop_folder", Path("/srv/in")),
        ("STOCK_ASSETS_DROPS", "s3://b/in/", "drop_folder", "s3://b/in"),
        ("STOCK_ASSETS_DATABASE_URL", "postgresql://db/x", "database_url", "postgresql://db/x"),
        (
            "STOCK_ASSETS_DATABASE_URL",
            "postgresql://db/x",
            "prediction_database_url",
            "postgresql://db/x",
        ),
        ("STOCK_ASSETS_MAX_DROP_BYTES", "1000", "max_drop_bytes", 1000),
        ("STOCK_ASSETS_MAX_TICKERS_PER_RUN", "7", "max_tickers_per_run", 7),
        ("STOCK_ASSETS_HEAVY_MEMORY", "4Gi", "heavy_memory", "4Gi"),
        ("STOCK_ASSETS_MODELS", "ridge,random_forest", "models", ("ridge", "random_forest")),
        ("STOCK_ASSETS_DAGSTER_URL", "http://dagster", "dagster_url", "http://dagster"),
        ("STOCK_ASSETS_PROVIDER", "alphavantage", "provider", "alphavantage"),
        ("STOCK_ASSETS_ALPHAVANTAGE_KEY", "K", "alphavantage_key", SecretStr("K")),
        ("STOCK_ASSETS_API_KEYS", "a:read:f", "api_keys", SecretStr("a:read:f")),
        ("STOCK_ASSETS_API_RATE_LIMIT", "5/second", "api_rate_limit", "5/second"),
        ("STOCK_ASSETS_LOG_LEVEL", "debug", "log_level", "debug"),
    ],
)
def test_each_setting_has_an_environment_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, attribute: str, expected: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(Settings(), attribute) == expected


def test_a_drop_folder_of_its_own_is_not_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCK_ASSETS_FILES", "s3://bucket/in")
    monkeypatch.setenv("STOCK_ASSETS_DROPS", "/srv/in")
    settings = Settings()
    assert (settings.drop_folder, settings.store) == (Path("/srv/in"), "s3://bucket/in/store")
    assert settings.prediction_database_url == f"sqlite:///{settings.home / 'predictions.db'}"


@pytest.mark.parametrize("value", ["http://host/in", "s3:///in", "s3://", "://b", "S3://b"])
@pytest.mark.parametrize("setting", ["files", "drops"])
def test_an_address_of_no_bucket_is_told(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    monkeypatch.setenv(f"STOCK_ASSETS_{setting.upper()}", value)
    current_settings.cache_clear()
    with pytest.raises(SetupError) as refused:
        current_settings()
    assert str(refused.value) == (
        f"Settings (STOCK_ASSETS_...) are wrong: {setting}: Value error, Expected a folder, or "
        f"a bucket's address: one of s3://, gs://, abfs:// and its name, not {value!r}"
    )


def test_the_home_falls_back_to_that_of_dagster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "/srv/dagster")
    assert Settings().home == Path("/srv/dagster")
    monkeypatch.setenv("STOCK_ASSETS_HOME", "/srv/ours")
    assert Settings().home == Path("/srv/ours")


@pytest.mark.parametrize(
    ("name", "attribute"), [("STOCK_ASSETS_HOME", "home"), ("STOCK_ASSETS_DROPS", "drop_folder")]
)
def test_a_relative_folder_becomes_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, attribute: str
) -> None:
    monkeypatch.setenv(name, "below/here")
    assert getattr(Settings(), attribute) == tmp_path / "below" / "here"


@pytest.mark.parametrize("value", ["0", "-1", "1GB", "1.5"])
@pytest.mark.parametrize("setting", ["max_drop_bytes", "max_tickers_per_run"])
def test_a_bad_value_is_named_with_its_setting(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    monkeypatch.setenv(f"STOCK_ASSETS_{setting.upper()}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (error,) = refused.value.errors()
    assert error["loc"] == (setting,)
    assert setting in str(refused.value)
    assert f"input_value={value!r}" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("ridge", ("ridge",)),
        (" ridge ,\trandom_forest,", ("ridge", "random_forest")),
        ("ridge random_forest", ("ridge", "random_forest")),
        (",", ()),
        ('["ridge"]', ('["ridge"]',)),  # no JSON: `candidates` will say that there is none such
    ],
)
def test_models_are_names_with_commas_between_them(
    monkeypatch: pytest.MonkeyPatch, text: str, models: tuple[str, ...]
) -> None:
    monkeypatch.setenv("STOCK_ASSETS_MODELS", text)
    assert Settings().models == models


def test_the_naive_model_competes_once_whether_named_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for text in ("ridge", "ridge,naive", "ridge,ridge"):
        monkeypatch.setenv("STOCK_ASSETS_MODELS", text)
        assert list(candidates(Settings().models)) == [NAIVE, "ridge"]


def test_an_unknown_model_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCK_ASSETS_MODELS", "ridge,prophet,Ridge")
    with pytest.raises(SetupError) as refused:
        candidates(Settings().models)
    assert str(refused.value) == (
        f"STOCK_ASSETS_MODELS names Ridge, prophet. Expected some of: {', '.join(MODELS)}"
    )


def test_every_wrong_setting_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCK_ASSETS_MAX_DROP_BYTES", "1GB")
    monkeypatch.setenv("STOCK_ASSETS_MAX_TICKERS_PER_RUN", "0")
    current_settings.cache_clear()
    with pytest.raises(SetupError) as refused:
        current_settings()
    for part in ("max_drop_bytes", "valid integer", "'1GB'", "max_tickers_per_run", "'0'"):
        assert part in str(refused.value)


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.max_drop_bytes = 1  # type: ignore[misc]


def test_a_process_reads_its_settings_once(monkeypatch: pytest.MonkeyPatch) -> None:
    current_settings.cache_clear()
    settings = current_settings()
    monkeypatch.setenv("STOCK_ASSETS_MAX_DROP_BYTES", "5")
    assert current_settings() is settings
    current_settings.cache_clear()
    assert current_settings().max_drop_bytes == 5
    current_settings.cache_clear()


@pytest.mark.parametrize(
    "name", ["HOME", "FILES", "DROPS", "DATABASE_URL", "MAX_DROP_BYTES", "MODELS"]
)
def test_an_empty_variable_is_one_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    without = Settings()
    monkeypatch.setenv(f"STOCK_ASSETS_{name}", "")
    assert Settings() == without


def test_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCK_ASSETS_API_KEYS", "ops:read:0123")
    assert "0123" not in repr(Settings())
