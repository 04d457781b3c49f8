"""Alembic runs the scripts in versions/ on the connection that `Database` hands over."""

from alembic import context

from stock_assets.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
