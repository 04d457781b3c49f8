"""The tables of the prediction database, the same on SQLite and PostgreSQL."""

from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

SCHEMA_REVISION = "0005"  # the newest script in migrations/versions
VERSION_TABLE = "stock_assets_version"  # Dagster's own tables may be in the same database

METADATA = sa.MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "uq": "uq_%(table_name)s_%(column_0_name)s"}
)
_JSON = sa.JSON().with_variant(postgresql.JSONB, "postgresql")


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _created_at() -> sa.Column[datetime]:
    return sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, default=_now)


drops = sa.Table(
    "drops",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, comment="order of arrival: the newest drop wins"),
    sa.Column("key", sa.String(64), nullable=False, unique=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("file_name", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False, comment="bytes"),
    sa.Column("status", sa.String(16), nullable=False, comment="registered, accepted or refused"),
    sa.Column("rows_read", sa.Integer),
    sa.Column("accepted", sa.Integer),
    sa.Column("collapsed", sa.Integer),
    sa.Column("rejected", sa.Integer),
    sa.Column("rejections", _JSON, comment="rejected rows by the rule that they break"),
    sa.Column("error", sa.Text, comment="why the file was refused"),
    sa.Column(
        "scored", sa.Boolean, nullable=False, default=False, comment="its prices against forecasts"
    ),
    sa.Column("tickers", _JSON, comment="whose prices it changed"),
    _created_at(),
)
prices = sa.Table(
    "prices",
    METADATA,
    sa.Column("ticker", sa.String(15), primary_key=True),
    sa.Column("date", sa.Date, primary_key=True),
    sa.Column("sector", sa.Text, nullable=False),
    sa.Column("close", sa.Float(53), nullable=False),
    sa.Column("open", sa.Float(53), nullable=False),
    sa.Column("low", sa.Float(53), nullable=False),
    sa.Column("high", sa.Float(53), nullable=False),
    sa.Column("volume", sa.BigInteger, nullable=False),
    sa.Column("drop_id", sa.Integer, nullable=False, comment="the newest drop that told it"),
    sqlite_with_rowid=False,
)
rejected_rows = sa.Table(
    "rejected_rows",
    METADATA,
    sa.Column("drop_id", sa.Integer, primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True, comment="1 is the first line of the file"),
    sa.Column("raw", sa.Text, nullable=False),
    sa.Column("reasons", _JSON, nullable=False, comment="every rule the row breaks"),
)
tickers = sa.Table(
    "tickers",
    METADATA,
    sa.Column("ticker", sa.String(15), primary_key=True),
    sa.Column("sector", sa.Text, nullable=False),
    sa.Column("first_date", sa.Date, nullable=False),
    sa.Column("last_date", sa.Date, nullable=False),
    sa.Column("days", sa.Integer, nullable=False),
    sa.Column("price_revision", sa.Integer, nullable=False, comment="counts changes of its prices"),
    sa.Column(
        "history_revision", sa.Integer, nullable=False, comment="the last that was no append"
    ),
    sa.Column("model_revision", sa.Integer, comment="price revision of the last training"),
    sa.Column("model_days", sa.Integer, comment="days of the last training"),
    sa.Column("model_version", sa.String(12), comment="the training that forecasts"),
    sa.Column("forecast_revision", sa.Integer, comment="price revision of the last forecast"),
    sa.Column("forecast_due", sa.Text, comment="why, though its prices did not change"),
    sa.Column("training_due", sa.Text, comment="why, though neither new nor grown"),
)
market_models = sa.Table(
    "market_models",
    METADATA,
    sa.Column(
        "id", sa.Integer, primary_key=True, comment="order of training: the newest forecasts"
    ),
    sa.Column("version", sa.String(12), nullable=False, unique=True),
    sa.Column("trained_to", sa.Date, nullable=False),
    sa.Column("tickers", sa.Integer, nullable=False),
    sa.Column("days", sa.Integer, nullable=False, comment="of all tickers in sum"),
    sa.Column("artifact", sa.Text, nullable=False, comment="path in the store"),
    _created_at(),
)
interval_widths = sa.Table(
    "interval_widths",
    METADATA,
    sa.Column("date", sa.Date, primary_key=True, comment="as known at its end"),
    sa.Column("h", sa.Integer, primary_key=True, comment="trading days ahead, 1..10"),
    sa.Column("width_80", sa.Float(53), nullable=False, comment="of volatility * sqrt(h)"),
    sa.Column("width_95", sa.Float(53), nullable=False, comment="of volatility * sqrt(h)"),
)
champions = sa.Table(
    "champions",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, comment="the newest one is the champion"),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("pinned", sa.Boolean, nullable=False, comment="chosen by a person"),
    _created_at(),
)
model_versions = sa.Table(
    "model_versions",
    METADATA,
    sa.Column("ticker", sa.String(15), primary_key=True),
    sa.Column("version", sa.String(12), primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("is_champion", sa.Boolean, nullable=False),
    sa.Column("trained_from", sa.Date, nullable=False),
    sa.Column("trained_to", sa.Date, nullable=False),
    sa.Column("days", sa.Integer, nullable=False),
    sa.Column(
        "origins", sa.Integer, nullable=False, comment="of the backtest; 0 if there was none"
    ),
    sa.Column("mae", sa.Float(53), comment="log return, over h = 1..10"),
    sa.Column("rmse", sa.Float(53), comment="log return, over h = 1..10"),
    sa.Column("mae_ratio", sa.Float(53), comment="mae / that of the naive forecast"),
    sa.Column("mae_ratio_h10", sa.Float(53), comment="the same at h = 10 alone"),
    sa.Column("coverage_80", sa.Float(53), comment="share inside, 0..1"),
    sa.Column("coverage_95", sa.Float(53), comment="share inside, 0..1"),
    sa.Column("weight", sa.Float(53), nullable=False, comment="its predictions count as, 0..1"),
    sa.Column("gains", _JSON, comment="by fortnight: gain on naive in sum, origins"),
    sa.Column("artifact", sa.Text, nullable=False, comment="path in the store"),
    _created_at(),
)
forecasts = sa.Table(
    "forecasts",
    METADATA,
    sa.Column("ticker", sa.String(15), primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True, comment="the last day of prices used"),
    sa.Column("h", sa.Integer, primary_key=True, comment="trading days ahead, 1..10"),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("target_date", sa.Date, nullable=False),
    sa.Column("close", sa.Float(53), nullable=False),
    sa.Column("lo_80", sa.Float(53), nullable=False),
    sa.Column("hi_80", sa.Float(53), nullable=False),
    sa.Column("lo_95", sa.Float(53), nullable=False),
    sa.Column("hi_95", sa.Float(53), nullable=False),
    sa.Column("model_version", sa.String(12), nullable=False),
    sa.Column("is_champion", sa.Boolean, nullable=False),
    _created_at(),
    sa.Index("ix_forecasts_target_date", "target_date", "ticker"),
)
forecast_scores = sa.Table(
    "forecast_scores",
    METADATA,
    sa.Column("ticker", sa.String(15), primary_key=True),
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("h", sa.Integer, primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True),
    sa.Column("actual_close", sa.Float(53), nullable=False),
    sa.Column("error", sa.Float(53), nullable=False, comment="log return"),
    sa.Column("naive_error", sa.Float(53), nullable=False, comment="log return"),
    sa.Column("inside_80", sa.Boolean, nullable=False),
    sa.Column("inside_95", sa.Boolean, nullable=False),
    _created_at(),
    sa.Index("ix_forecast_scores_as_of", "as_of", "h"),
)
daily_scores = sa.Table(
    "daily_scores",
    METADATA,
    sa.Column("as_of", sa.Date, primary_key=True),
    sa.Column("h", sa.Integer, primary_key=True),
    sa.Column("model", sa.String(64), primary_key=True, comment="champion: what people were shown"),
    sa.Column("forecasts", sa.Integer, nullable=False, comment="that are scored"),
    sa.Column("error", sa.Float(53), nullable=False, comment="sum of absolute log returns"),
    sa.Column("naive_error", sa.Float(53), nullable=False, comment="the same of naive forecasts"),
    sa.Column("inside_80", sa.Integer, nullable=False, comment="how many"),
    sa.Column("inside_95", sa.Integer, nullable=False, comment="how many"),
)
writes = sa.Table(
    "writes",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, comment="1: it is one row"),
    sa.Column("count", sa.BigInteger, nullable=False, comment="of transactions that wrote"),
)
