"""Alembic runs the scripts in versions/ on the connection that `Database` hands over."""

from alembic import context

from stock_assets.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
)
context.run_migrations()
