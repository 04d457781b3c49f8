"""Models are kept as NumPy archives, of many tickers in one; scores are added up by day."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _train_anew()
    op.add_column(
        "drops",
        sa.Column(
            "scored",
            sa.Boolean(),
            nullable=False,
            server_default=sa.false(),
            comment="its prices against forecasts",
        ),
    )
    op.create_table(
        "daily_scores",
        sa.Column("as_of", sa.Date(), nullable=False),
        sa.Column("h", sa.Integer(), nullable=False),
        sa.Column(
            "model",
            sa.String(length=64),
            nullable=False,
            comment="champion: what people were shown",
        ),
        sa.Column("forecasts", sa.Integer(), nullable=False, comment="that are scored"),
        sa.Column(
            "error", sa.Float(precision=53), nullable=False, comment="sum of absolute log returns"
        ),
        sa.Column(
            "naive_error",
            sa.Float(precision=53),
            nullable=False,
            comment="the same of naive forecasts",
        ),
        sa.Column("inside_80", sa.Integer(), nullable=False, comment="how many"),
        sa.Column("inside_95", sa.Integer(), nullable=False, comment="how many"),
        sa.PrimaryKeyConstraint("as_of", "h", "model", name="pk_daily_scores"),
    )
    _index(["target_date", "ticker"], ["as_of", "h"])


def downgrade() -> None:
    _train_anew()
    _index(["target_date"], ["as_of"])
    op.drop_table("daily_scores")
    op.drop_column("drops", "scored")


def _train_anew() -> None:
    op.execute("DELETE FROM market_models")
    op.execute("UPDATE tickers SET model_version = NULL, forecast_revision = NULL")


def _index(forecasts: list[str], scores: list[str]) -> None:
    op.drop_index("ix_forecasts_target_date", "forecasts")
    op.drop_index("ix_forecast_scores_as_of", "forecast_scores")
    op.create_index("ix_forecasts_target_date", "forecasts", forecasts)
    op.create_index("ix_forecast_scores_as_of", "forecast_scores", scores)
