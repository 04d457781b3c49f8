"""The chain of five assets, in this process: what it writes, reports, refuses and survives."""

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stock_assets.database import Database
from stock_assets.defs import assets
from stock_assets.defs.checks import FACTS
from stock_assets.drops import register
from stock_assets.settings import Settings, current_settings
from stock_assets.storage import Store
from tests.conftest import as_csv, make_prices
from tests.test_database import age, contents

ALL = [
    assets.raw_prices,
    assets.validated_prices,
    assets.price_features,
    assets.ticker_models,
    assets.forecasts,
]
OF_DROP, OF_TICKER = ALL[:2], ALL[2:]
WITHOUT_TRAINING = [assets.price_features, assets.forecasts]


@dataclass
class Platform:
    """The assets on a folder and a Dagster instance of their own."""

    root: Path
    instance: dg.DagsterInstance

    @cached_property
    def settings(self) -> Settings:
        """The default settings, but for the home."""
        return current_settings().model_copy(update={"home": self.root})

    @cached_property
    def database(self) -> Database:
        """Its prediction database."""
        return Database(self.settings.prediction_database_url)

    @cached_property
    def store(self) -> Store:
        """Its files."""
        return Store(self.settings.store)

    def keep(self, content: bytes, name: str = "prices.csv") -> str:
        """Register a file as a drop."""
        file = self.root / name
        file.write_bytes(content)
        drop = register(file, self.store, self.database)
        self.instance.add_dynamic_partitions("csv_drops", [drop.key])
        return drop.key

    def ingest(self, *prices: pd.DataFrame) -> dg.ExecuteInProcessResult:
        """Take prices as one drop."""
        return self.run(OF_DROP, partition_key=self.keep(as_csv(pd.concat(prices))))

    def refresh(
        self, *tickers: str, selection: Sequence[dg.AssetsDefinition] = OF_TICKER
    ) -> dg.ExecuteInProcessResult:
        """Materialize the range from the first to the last of these tickers."""
        self.instance.add_dynamic_partitions("tickers", list(tickers))
        tags = {
            "dagster/asset_partition_range_start": tickers[0],
            "dagster/asset_partition_range_end": tickers[-1],
        }
        return self.run(selection, tags=tags)

    def run(
        self, selection: Sequence[dg.AssetsDefinition], **options: Any
    ) -> dg.ExecuteInProcessResult:
        """Run assets; a failure is raised."""
        return dg.materialize(
            ALL,
            selection=selection,
            instance=self.instance,
            resources={
                "settings": self.settings,
                "database": self.database,
                "store": self.store,
            },
            **options,
        )


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Platform(tmp_path, instance)


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    with dg.DagsterInstance.ephemeral() as instance:
        platform = Platform(tmp_path_factory.mktemp("chain"), instance)
        ingested = platform.ingest(make_prices("AAPL"), make_prices("MSFT"), make_prices("NEW", 25))
        yield platform, ingested, platform.refresh("AAPL", "MSFT", "NEW")

def test_x(chain):
    _, a, b = chain
    for r in (a, b):
        for n in ("raw_prices", "validated_prices", "price_features", "ticker_models", "forecasts"):
            try:
                for m in r.asset_materializations_for_node(n):
                    print(n, m.partition, {k: str(v)[:150] for k, v in m.metadata.items()}, m.tags)
            except Exception as e:
                print(e)
    for e in a.get_asset_check_evaluations() + b.get_asset_check_evaluations():
        print(e.asset_key, e.check_name, e.passed, e.partition if hasattr(e, "partition") else None)
