"""Drops tell whose prices they changed, and readers see that something was written."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

_JSON = sa.JSON().with_variant(postgresql.JSONB, "postgresql")


def upgrade() -> None:
    op.add_column("drops", sa.Column("tickers", _JSON, comment="whose prices it changed"))
    writes = op.create_table(
        "writes",
        sa.Column("id", sa.Integer(), nullable=False, comment="1: it is one row"),
        sa.Column("count", sa.BigInteger(), nullable=False, comment="of transactions that wrote"),
        sa.PrimaryKeyConstraint("id", name="pk_writes"),
    )
    op.bulk_insert(writes, [{"id": 1, "count": 0}])


def downgrade() -> None:
    op.drop_table("writes")
    op.drop_column("drops", "tickers")
