"""Every setting of the platform, read from the environment in this one place."""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from stock_assets.errors import SetupError
from stock_assets.files import SCHEMES, Place


def _names(text: object) -> object:
    """The names in a list with commas."""
    return tuple(text.replace(",", " ").split()) if isinstance(text, str) else text


def _place(text: object) -> object:
    """The folder, or the address of a bucket."""
    if not isinstance(text, str):
        return text
    scheme, is_address, bucket = text.partition("://")
    if not is_address:
        return Path(text).absolute()
    if scheme not in SCHEMES or not bucket or bucket.startswith("/"):
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(f"Expected a folder, or a bucket's address: one of {known} and its name")
    return text.rstrip("/")


class Settings(BaseSettings):
    """Settings and their defaults; each is read from ``STOCK_ASSETS_<NAME>``.

    Attributes:
        home: Holds dagster.yaml and the embedded database. Falls back to ``DAGSTER_HOME``, then to
            ./dagster_home.
        files: A folder or the address of a bucket, such as s3://bucket/prefix, in which the drop
            folder and the store lie; the home if not set.
        drops: The drop folder, or the address of another bucket; files/drops if not set.
        database_url: SQLAlchemy address of the prediction database and of Dagster's own storage,
            such as postgresql://user:password@host/name; SQLite files in home if not set.
        max_drop_bytes: Largest CSV that is taken, in bytes of text.
        max_tickers_per_run: Largest range of tickers that one run works on.
        heavy_memory: What Kubernetes gives a run that trains or reads all prices, such as 4Gi;
            what it gives every run if not set.
        models: Names of the models that compete with the naive one, with commas between them.
        dagster_url: Address of the Dagster webserver, which the service asks for runs.
        provider: Where prices are fetched: yahoo, alphavantage or the address of a CSV of ours.
        universe: Tickers that schedules fetch, and their sectors: AAPL:Technology,XOM:Energy or
            the path or address of a CSV that has both; none if not set.
        alphavantage_key: What lets us into Alpha Vantage.
        api_keys: Who may use the service, as `keys.parse_keys` reads it; anybody if not set.
        api_rate_limit: Requests that a key may make, such as 100/second or 5000/minute.
        log_level: Of the service.
    """

    model_config = SettingsConfigDict(
        env_prefix="STOCK_ASSETS_", env_ignore_empty=True, frozen=True
    )

    home: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        default=Path("dagster_home"),
        validation_alias=AliasChoices("STOCK_ASSETS_HOME", "DAGSTER_HOME"),
        validate_default=True,
    )
    files: Annotated[Place, BeforeValidator(_place)] | None = None
    drops: Annotated[Place, BeforeValidator(_place)] | None = None
    database_url: str = ""
    max_drop_bytes: PositiveInt = 1 << 30
    max_tickers_per_run: PositiveInt = 1_000
    heavy_memory: str = ""
    models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = (
        "linear_regression",
        "ridge",
        "random_forest",
        "gradient_boosting",
    )
    dagster_url: str = "http://127.0.0.1:3000"
    provider: str = "yahoo"
    universe: str = ""
    alphavantage_key: SecretStr = SecretStr("")
    api_keys: SecretStr = SecretStr("")
    api_rate_limit: str = "6000/minute"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def drop_folder(self) -> Place:
        """Where CSVs are dropped; files there are read, never changed."""
        return self.drops or self._below("drops")

    @property
    def store(self) -> Place:
        """Where the platform keeps its own files: drops, features, models."""
        return self._below("store")

    def _below(self, name: str) -> Place:
        place = self.files or self.home
        return f"{place}/{name}" if isinstance(place, str) else place / name

    @property
    def prediction_database_url(self) -> str:
        """The address of the prediction database, SQLite by default."""
        return self.database_url or f"sqlite:///{self.home / 'predictions.db'}"


@cache
def current_settings() -> Settings:
    """The settings of this process.

    Raises:
        SetupError: A variable has a value that it cannot have.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = [
            f"{fault['loc'][0]}: {fault['msg']}, not {fault['input']!r}" for fault in error.errors()
        ]
        raise SetupError(f"Settings (STOCK_ASSETS_...) are wrong: {'; '.join(wrong)}") from error
