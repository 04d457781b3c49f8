"""All files in a bucket: from a dropped object to forecasts, with nothing on disk."""

from pathlib import Path

import dagster as dg
import httpx
import pandas as pd
import pytest

from stock_assets.defs import assets
from stock_assets.files import files_at
from stock_assets.settings import current_settings
from tests.commands import new_home, serving, typed
from tests.conftest import as_csv, make_prices, names
from tests.test_assets import ALL, OF_DROP, Platform, told_by
from tests.test_automation import Sensors

CSV = as_csv(pd.concat([make_prices("AAPL"), make_prices("MSFT")]))


@pytest.mark.usefixtures("home")
def test_a_dropped_object_turns_into_forecasts(bucket: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with dg.DagsterInstance.ephemeral() as instance:
        platform = Platform(root, instance, bucket)
        sensors = Sensors(platform.settings, platform.database, platform.store, instance)
        files_at(f"{bucket}/drops").write_each([("prices.csv", CSV)])
        assert sensors.look() == []
        (drop,) = sensors.look()
        instance.add_dynamic_partitions("csv_drops", [drop])
        ingested = platform.run(OF_DROP, partition_key=drop)
        (request,) = sensors.ask()
        wanted = {key.to_user_string() for key in request.asset_selection or ()}
        assert "ticker_models" in wanted
        platform.run([asset for asset in ALL if asset.op.name in wanted], tags=request.tags)
        assert sensors.ask() == []

    told = told_by(ingested, assets.raw_prices)[drop]
    assert told["dagster/uri"] == f"{bucket}/store/drops/{drop}"
    assert len(platform.database.champion_forecasts(["AAPL", "MSFT"])) == 20
    market = platform.database.market_model()
    assert market is not None
    models = platform.database.current_models(["AAPL", "MSFT"])
    artifacts = {market["artifact"], *models["artifact"]}
    assert names(files_at(bucket)) == [
        "drops/prices.csv",
        f"store/drops/{drop}",
        "store/features/AAPL.parquet",
        "store/features/MSFT.parquet",
        *sorted(f"store/{artifact}" for artifact in artifacts),
    ]
    assert {path.name.partition(".db")[0] for path in root.iterdir()} == {"predictions"}
    platform.database.engine.dispose()
    current_settings.cache_clear()


def test_an_upload_to_the_service_is_an_object(bucket: str, tmp_path: Path) -> None:
    """In a process of its own, which learns of the bucket by its environment alone."""
    (tmp_path / "prices.csv").write_bytes(CSV)
    with serving(new_home(tmp_path / "served"), FILES=bucket) as service:
        answer = typed('curl -F "file=@prices.csv" URL/upload', service.url, tmp_path)
        assert answer.status == 202
        drop = answer.content["drop"]
        assert service.get(f"/drops/{drop}").content["status"] == "queued"
        assert names(files_at(bucket)) == [f"drops/{drop}.csv"]
        assert [*files_at(f"{bucket}/drops").read_each([f"{drop}.csv"])] == [CSV]
        assert not {"drops", "store"}.intersection(path.name for path in service.home.iterdir())
        told = httpx.get(f"{service.url}/metrics", params={"group": "data"}).text
        assert "stock_assets_drops{" in told
        assert "stock_assets_volume_free_bytes{" not in told
