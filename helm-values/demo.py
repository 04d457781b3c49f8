"""Drops real prices of five tickers through the service, and waits for their forecasts.

It takes the service's address and, from STOCK_ASSETS_KEY, a key of scopes read and upload.
"""

import os
import sys
import time
from pathlib import Path

import httpx

from stock_assets.console import out
from stock_assets.demo import SECTORS, write_demo_csv

with httpx.Client(
    base_url=sys.argv[1], headers={"Authorization": f"Bearer {os.environ['STOCK_ASSETS_KEY']}"}
) as service:
    file = write_demo_csv(Path("dagster_home/demo"))
    follow = service.post("/upload", files={"file": file.open("rb")}).raise_for_status()
    drop, told = {"status": "", "waiting": 1}, ""
    while drop["status"] != "accepted" or drop["waiting"]:
        drop = service.get(follow.json()["follow"]).raise_for_status().json()
        if drop["status"] == "failed":
            sys.exit(drop["detail"])
        if drop["detail"] != told:
            told = drop["detail"]
            out.print(told)
        time.sleep(1)
    answer = service.post("/batch-predict", json={"tickers": list(SECTORS)}).raise_for_status()
    for item in answer.json()["forecasts"]:
        last = item["forecast"]["days"][-1]
        out.print(
            f"{item['ticker']}: {last['close']:.2f} on {last['date']}, "
            f"with 80 % between {last['lo_80']:.2f} and {last['hi_80']:.2f}"
        )
