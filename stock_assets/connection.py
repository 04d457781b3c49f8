"""Writing to the prediction database: every write is one transaction, and may be repeated."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import sqlalchemy as sa

from stock_assets.engine import Connected
from stock_assets.queries import insert_into


class Connection(Connected):
    """How rows are written to the prediction database."""

    def _upsert(
        self, connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Insert rows; where the key is there already, update what differs."""
        if rows:
            insert = insert_into(connection, table)
            connection.execute(_updating(insert, table, rows[0]), list(rows))

    def _upsert_all(self, connection: sa.Connection, table: sa.Table, rows: pd.DataFrame) -> None:
        """The same for very many rows."""
        staged = self._stage(connection, table, rows)
        names = list(staged.c.keys())
        insert = insert_into(connection, table).from_select(
            names, sa.select(staged).where(sa.true())
        )
        connection.execute(_updating(insert, table, names))
        staged.drop(connection)

    def _stage(self, connection: sa.Connection, table: sa.Table, rows: pd.DataFrame) -> sa.Table:
        """Bring rows to the server in one go, into a temporary table with the columns they have."""
        columns = [sa.Column(c.name, c.type) for c in table.c if c.name in rows]
        staged = sa.Table(f"staged_{table.name}", sa.MetaData(), *columns, prefixes=["TEMPORARY"])
        staged.create(connection)
        values = {
            c.name: rows[c.name].to_numpy("datetime64[D]" if isinstance(c.type, sa.Date) else None)
            for c in columns
        }
        cursor: Any = connection.connection.cursor()
        if connection.engine.name == "postgresql":
            text = io.BytesIO()
            pa_csv.write_csv(pa.table(values), text, pa_csv.WriteOptions(include_header=False))
            text.seek(0)
            cursor.copy_expert(f"COPY {staged.name} FROM STDIN WITH (FORMAT csv)", text)
        else:
            of_rows = (v.astype(str) if v.dtype.kind == "M" else v for v in values.values())
            cursor.executemany(
                f"INSERT INTO {staged.name} VALUES ({', '.join('?' * len(values))})",  # noqa: S608
                zip(*(v.tolist() for v in of_rows), strict=True),
            )
        return staged


def frame(result: sa.CursorResult[Any]) -> pd.DataFrame:
    """All rows of a result."""
    return pd.DataFrame(result.all(), columns=list(result.keys()))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as they are inserted."""
    return [{str(k): value for k, value in row.items()} for row in table.to_dict("records")]


def _updating(insert: Any, table: sa.Table, names: Iterable[str]) -> Any:
    """Where the key of a row is there already, what differs is updated."""
    values = [name for name in names if not table.c[name].primary_key]
    differs = [table.c[name].is_distinct_from(insert.excluded[name]) for name in values]
    written = [*values, *(["created_at"] if "created_at" in table.c else [])]
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={name: insert.excluded[name] for name in written},
        where=sa.or_(*differs),
    )
