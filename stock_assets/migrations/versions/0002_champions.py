"""One champion for all tickers, pooled models and widths, drift."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"

_JSON = sa.JSON().with_variant(postgresql.JSONB, "postgresql")


def upgrade() -> None:
    op.create_table(
        "market_models",
        sa.Column(
            "id", sa.Integer(), nullable=False, comment="order of training: the newest forecasts"
        ),
        sa.Column("version", sa.String(length=12), nullable=False),
        sa.Column("trained_to", sa.Date(), nullable=False),
        sa.Column("tickers", sa.Integer(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False, comment="of all tickers in sum"),
        sa.Column("artifact", sa.Text(), nullable=False, comment="path in the store"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_market_models"),
        sa.UniqueConstraint("version", name="uq_market_models_version"),
    )
    op.create_table(
        "interval_widths",
        sa.Column("date", sa.Date(), nullable=False, comment="as known at its end"),
        sa.Column("h", sa.Integer(), nullable=False, comment="trading days ahead, 1..10"),
        sa.Column(
            "width_80", sa.Float(precision=53), nullable=False, comment="of volatility * sqrt(h)"
        ),
        sa.Column(
            "width_95", sa.Float(precision=53), nullable=False, comment="of volatility * sqrt(h)"
        ),
        sa.PrimaryKeyConstraint("date", "h", name="pk_interval_widths"),
    )
    op.create_table(
        "champions",
        sa.Column("id", sa.Integer(), nullable=False, comment="the newest one is the champion"),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False, comment="chosen by a person"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_champions"),
    )
    op.add_column(
        "tickers",
        sa.Column("forecast_due", sa.Text(), comment="why, though its prices did not change"),
    )
    op.add_column(
        "tickers",
        sa.Column("training_due", sa.Text(), comment="why, though neither new nor grown"),
    )
    # Models of the first release forecast with widths of their own: all are trained anew.
    op.execute("UPDATE tickers SET model_version = NULL, forecast_revision = NULL")
    op.drop_column("model_versions", "widths")
    op.drop_column("model_versions", "reason")
    op.add_column(
        "model_versions",
        sa.Column(
            "weight",
            sa.Float(precision=53),
            nullable=False,
            server_default="0",
            comment="its predictions count as, 0..1",
        ),
    )
    op.add_column(
        "model_versions",
        sa.Column("gains", _JSON, comment="by fortnight: gain on naive in sum, origins"),
    )
    op.create_index("ix_forecasts_target_date", "forecasts", ["target_date"])
    op.create_index("ix_forecast_scores_as_of", "forecast_scores", ["as_of"])


def downgrade() -> None:
    op.drop_index("ix_forecast_scores_as_of", "forecast_scores")
    op.drop_index("ix_forecasts_target_date", "forecasts")
    op.execute("UPDATE tickers SET model_version = NULL, forecast_revision = NULL")
    op.drop_column("model_versions", "gains")
    op.drop_column("model_versions", "weight")
    op.add_column(
        "model_versions", sa.Column("reason", sa.Text(), nullable=False, server_default="")
    )
    op.add_column("model_versions", sa.Column("widths", _JSON, nullable=False, server_default="[]"))
    op.drop_column("tickers", "training_due")
    op.drop_column("tickers", "forecast_due")
    op.drop_table("champions")
    op.drop_table("interval_widths")
    op.drop_table("market_models")
