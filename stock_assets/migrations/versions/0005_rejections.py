"""Drops tell how many rows broke which rule, so that nobody need count all of them again."""

from collections import Counter, defaultdict

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"

_JSON = sa.JSON().with_variant(postgresql.JSONB, "postgresql")


def upgrade() -> None:
    rejections = sa.Column("rejections", _JSON, comment="rejected rows by the rule that they break")
    op.add_column("drops", rejections)
    drops = sa.table("drops", sa.column("id"), sa.column("rejections", _JSON))
    rows = sa.table("rejected_rows", sa.column("drop_id"), sa.column("reasons", _JSON))
    counted: dict[int, Counter[str]] = defaultdict(Counter)
    for drop_id, reasons in op.get_bind().execute(sa.select(rows)):
        counted[drop_id].update(
            "has more or fewer fields than the header" if reason.startswith("has ") else reason
            for reason in reasons
        )
    for drop_id, told in counted.items():
        op.execute(drops.update().where(drops.c.id == drop_id).values(rejections=dict(told)))


def downgrade() -> None:
    op.drop_column("drops", "rejections")
