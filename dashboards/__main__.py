"""Writes the dashboards beside their source."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import forecasts, platform

FOLDER = Path(__file__).parent
DASHBOARDS = {"forecasts": forecasts.dashboard, "platform": platform.dashboard}


def written(name: str) -> str:
    """A dashboard as JSON, the same for the same source."""
    document = json.dumps(
        DASHBOARDS[name](), cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False
    )
    return document + "\n"


if __name__ == "__main__":
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(written(name), encoding="utf-8")
