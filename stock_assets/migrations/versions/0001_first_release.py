"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

_JSON = sa.JSON().with_variant(postgresql.JSONB, "postgresql")


def upgrade() -> None:
    op.create_table(
        "drops",
        sa.Column(
            "id", sa.Integer(), nullable=False, comment="order of arrival: the newest drop wins"
        ),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("file_name", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="bytes"),
        sa.Column(
            "status",
            sa.String(length=16),
            nullable=False,
            comment="registered, accepted or refused",
        ),
        sa.Column("rows_read", sa.Integer(), nullable=True),
        sa.Column("accepted", sa.Integer(), nullable=True),
        sa.Column("collapsed", sa.Integer(), nullable=True),
        sa.Column("rejected", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True, comment="why the file was refused"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_drops"),
        sa.UniqueConstraint("key", name="uq_drops_key"),
        sa.UniqueConstraint("sha256", name="uq_drops_sha256"),
    )
    op.create_table(
        "forecast_scores",
        sa.Column("ticker", sa.String(length=15), nullable=False),
        sa.Column("as_of", sa.Date(), nullable=False),
        sa.Column("h", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("actual_close", sa.Float(precision=53), nullable=False),
        sa.Column("error", sa.Float(precision=53), nullable=False, comment="log return"),
        sa.Column("naive_error", sa.Float(precision=53), nullable=False, comment="log return"),
        sa.Column("inside_80", sa.Boolean(), nullable=False),
        sa.Column("inside_95", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("ticker", "as_of", "h", "model", name="pk_forecast_scores"),
    )
    op.create_table(
        "forecasts",
        sa.Column("ticker", sa.String(length=15), nullable=False),
        sa.Column("as_of", sa.Date(), nullable=False, comment="the last day of prices used"),
        sa.Column("h", sa.Integer(), nullable=False, comment="trading days ahead, 1..10"),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("target_date", sa.Date(), nullable=False),
        sa.Column("close", sa.Float(precision=53), nullable=False),
        sa.Column("lo_80", sa.Float(precision=53), nullable=False),
        sa.Column("hi_80", sa.Float(precision=53), nullable=False),
        sa.Column("lo_95", sa.Float(precision=53), nullable=False),
        sa.Column("hi_95", sa.Float(precision=53), nullable=False),
        sa.Column("model_version", sa.String(length=12), nullable=False),
        sa.Column("is_champion", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("ticker", "as_of", "h", "model", name="pk_forecasts"),
    )
    op.create_table(
        "model_versions",
        sa.Column("ticker", sa.String(length=15), nullable=False),
        sa.Column("version", sa.String(length=12), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("is_champion", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("trained_from", sa.Date(), nullable=False),
        sa.Column("trained_to", sa.Date(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column(
            "origins", sa.Integer(), nullable=False, comment="of the backtest; 0 if there was none"
        ),
        sa.Column(
            "mae", sa.Float(precision=53), nullable=True, comment="log return, over h = 1..10"
        ),
        sa.Column(
            "rmse", sa.Float(precision=53), nullable=True, comment="log return, over h = 1..10"
        ),
        sa.Column(
            "mae_ratio",
            sa.Float(precision=53),
            nullable=True,
            comment="mae / that of the naive forecast",
        ),
        sa.Column(
            "mae_ratio_h10",
            sa.Float(precision=53),
            nullable=True,
            comment="the same at h = 10 alone",
        ),
        sa.Column(
            "coverage_80", sa.Float(precision=53), nullable=True, comment="share inside, 0..1"
        ),
        sa.Column(
            "coverage_95", sa.Float(precision=53), nullable=True, comment="share inside, 0..1"
        ),
        sa.Column("widths", _JSON, nullable=False, comment="(levels, h), of volatility * sqrt(h)"),
        sa.Column("artifact", sa.Text(), nullable=False, comment="path in the store"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("ticker", "version", "model", name="pk_model_versions"),
    )
    op.create_table(
        "prices",
        sa.Column("ticker", sa.String(length=15), nullable=False),
        sa.Column("date", sa.Date(), nullable=False),
        sa.Column("sector", sa.Text(), nullable=False),
        sa.Column("close", sa.Float(precision=53), nullable=False),
        sa.Column("open", sa.Float(precision=53), nullable=False),
        sa.Column("low", sa.Float(precision=53), nullable=False),
        sa.Column("high", sa.Float(precision=53), nullable=False),
        sa.Column("volume", sa.BigInteger(), nullable=False),
        sa.Column("drop_id", sa.Integer(), nullable=False, comment="the newest drop that told it"),
        sa.PrimaryKeyConstraint("ticker", "date", name="pk_prices"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rejected_rows",
        sa.Column("drop_id", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False, comment="1 is the first line of the file"),
        sa.Column("raw", sa.Text(), nullable=False),
        sa.Column("reasons", _JSON, nullable=False, comment="every rule the row breaks"),
        sa.PrimaryKeyConstraint("drop_id", "line", name="pk_rejected_rows"),
    )
    op.create_table(
        "tickers",
        sa.Column("ticker", sa.String(length=15), nullable=False),
        sa.Column("sector", sa.Text(), nullable=False),
        sa.Column("first_date", sa.Date(), nullable=False),
        sa.Column("last_date", sa.Date(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column(
            "price_revision", sa.Integer(), nullable=False, comment="counts changes of its prices"
        ),
        sa.Column(
            "history_revision", sa.Integer(), nullable=False, comment="the last that was no append"
        ),
        sa.Column(
            "model_revision",
            sa.Integer(),
            nullable=True,
            comment="price revision of the last training",
        ),
        sa.Column("model_days", sa.Integer(), nullable=True, comment="days of the last training"),
        sa.Column(
            "model_version",
            sa.String(length=12),
            nullable=True,
            comment="the training that forecasts",
        ),
        sa.Column(
            "forecast_revision",
            sa.Integer(),
            nullable=True,
            comment="price revision of the last forecast",
        ),
        sa.PrimaryKeyConstraint("ticker", name="pk_tickers"),
    )


def downgrade() -> None:
    op.drop_table("tickers")
    op.drop_table("rejected_rows")
    op.drop_table("prices")
    op.drop_table("model_versions")
    op.drop_table("forecasts")
    op.drop_table("forecast_scores")
    op.drop_table("drops")
