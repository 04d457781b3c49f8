"""Where Dagster keeps its own records: beside dagster.yaml, or in our Postgres."""

from typing import Any

from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from stock_assets.settings import current_settings


class InstanceStorage(DagsterSqliteStorage):
    """The storage that dagster.yaml names; one setting moves it, as it moves our own tables."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """It takes nothing: the settings say all."""
        return {}

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Any,  # noqa: ARG003
    ) -> Any:
        """Postgres if its address is set, else SQLite."""
        if url := current_settings().database_url:
            return DagsterPostgresStorage(postgres_url=url, inst_data=inst_data)
        return DagsterSqliteStorage.from_local(str(current_settings().home), inst_data=inst_data)
