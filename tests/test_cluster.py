"""The platform in a real cluster: it is installed, used and harmed, and does its work all the same.

It is asked for by STOCK_ASSETS_TEST_CLUSTER, and done to the cluster of KUBECONFIG, in a namespace
of its own. kubectl and helm must be there, and the image in the cluster.
"""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import httpx
import pandas as pd
import pytest

from stock_assets.keys import Scope, new_key
from tests.browser import free_port
from tests.charts import PLATFORM
from tests.commands import wait_until
from tests.conftest import ROOT, as_csv, make_prices

NAMESPACE = "stock-assets-test"
TICKERS = ["AAPL", "IBM", "MSFT"]
INSTALLED = {"STOCK_ASSETS_TEST_CLUSTER", "KUBECONFIG"} <= os.environ.keys()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not INSTALLED, reason="STOCK_ASSETS_TEST_CLUSTER and KUBECONFIG name no cluster"
    ),
]


def run(*words: str) -> str:
    """What a command prints."""
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def kubectl(*words: str) -> str:
    return run("kubectl", "--namespace", NAMESPACE, *words)


def listed(kind: str, selector: str) -> list[dict[str, Any]]:
    """The objects of a kind that have a label."""
    told = kubectl("get", kind, "--selector", selector, "--output", "json")
    return list(json.loads(told)["items"])


@pytest.fixture(scope="module")
def key() -> Iterator[str]:
    """A key of the service in a platform that has just been installed."""
    password = secrets.token_hex(16)
    secret, made = new_key("tests", [Scope.READ, Scope.UPLOAD, Scope.TRAIN])
    run("kubectl", "create", "namespace", NAMESPACE)
    kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    try:
        kubectl(
            *("create", "secret", "generic", "stock-assets-database"),
            f"--from-literal=postgresql-password={password}",
            f"--from-literal=PGPASSWORD={password}",
        )
        kubectl(
            *("create", "secret", "generic", "stock-assets-api"),
            f"--from-literal=STOCK_ASSETS_API_KEYS={made}",
        )
        run(
            *("helm", "upgrade", "--install", "stock-assets", "dagster"),
            *("--repo", "https://dagster-io.github.io/helm", "--namespace", NAMESPACE),
            *("--values", ",".join([*PLATFORM, "helm-values/local.yaml"])),
            *("--wait", "--wait-for-jobs", "--timeout", "15m"),
        )
        yield secret
    finally:
        run("kubectl", "delete", "namespace", NAMESPACE)


@contextmanager
def service(key: str) -> Iterator[httpx.Client]:
    """The service, by way of one of its pods."""
    port = free_port()
    words = ["port-forward", "service/stock-assets-api", f"{port}:80"]
    with (
        subprocess.Popen(["kubectl", "--namespace", NAMESPACE, *words]) as forwarding,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
        ) as client,
    ):
        try:
            wait_until("service", lambda: answers(client), seconds=60)
            yield client
        finally:
            forwarding.terminate()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").is_success
    except httpx.TransportError:
        return False


def told(client: httpx.Client, path: str) -> Any:
    return client.get(path).raise_for_status().json()


@pytest.fixture(scope="module")
def forecast(key: str) -> str:
    """The same, where a CSV was dropped and all its tickers are forecast."""
    prices = pd.concat([make_prices(ticker, 150) for ticker in TICKERS])
    with service(key) as client:
        sent = client.post("/upload", files={"file": ("prices.csv", as_csv(prices))})
        follow = sent.raise_for_status().json()["follow"]

        def is_forecast() -> bool:
            drop = told(client, follow)
            assert drop["status"] != "failed", drop["detail"]
            return bool(drop["status"] == "accepted" and not drop["waiting"])

        wait_until("forecasts", is_forecast, seconds=900)
    return key


def test_a_csv_becomes_forecasts(forecast: str) -> None:
    with service(forecast) as client:
        for ticker in TICKERS:
            found = told(client, f"/predict/{ticker}")
            assert found["is_current"]
            assert [day["h"] for day in found["days"]] == list(range(1, 11))


def test_every_run_was_a_job_that_ended_well(forecast: str) -> None:
    assert forecast
    jobs = listed("jobs", "stock-assets/part=run")
    assert len(jobs) >= 2  # one that took the file in, one that forecast
    wait_until(
        "end of the runs",
        lambda: all(
            job["status"].get("succeeded") for job in listed("jobs", "stock-assets/part=run")
        ),
        seconds=120,
    )


def test_a_run_whose_pod_is_killed_is_done_by_another(forecast: str) -> None:
    with service(forecast) as client:
        before = last_forecast(client)
        asked = client.get("/train/AAPL").raise_for_status().json()
        (run_id,) = (launched["run"] for launched in asked["runs"])
        pod = wait_until("pod of the run", lambda: running_pod(run_id), seconds=300)
        kubectl("delete", "pod", pod, "--grace-period=0", "--force")
        wait_until(
            "end of the run",
            lambda: told(client, f"/runs/{run_id}")["status"] == "failed",
            seconds=300,
        )
        wait_until("forecast", lambda: last_forecast(client) > before, seconds=600)


def running_pod(run_id: str) -> str:
    """The name of the pod that works on a run, if there is one."""
    selector = f"dagster/run-id={run_id}"
    pods = json.loads(kubectl("get", "pods", "--selector", selector, "--output", "json"))["items"]
    names = [pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running"]
    return names[0] if names else ""


def last_forecast(client: httpx.Client) -> datetime:
    return datetime.fromisoformat(told(client, "/predict/AAPL")["forecast_at"])


def test_the_service_outlives_its_pods(forecast: str) -> None:
    with service(forecast) as client:
        before = told(client, "/predict/AAPL")
    pods = {pod["metadata"]["name"] for pod in listed("pods", "stock-assets/part=api")}
    assert len(pods) == 2
    kubectl("delete", "pod", min(pods), "--grace-period=0", "--force")
    with service(forecast) as client:  # the other one
        assert told(client, "/predict/AAPL") == before
    wait_until("second pod", lambda: ready_pods() == 2, seconds=180)
    assert {pod["metadata"]["name"] for pod in listed("pods", "stock-assets/part=api")} != pods


def ready_pods() -> int:
    states = [
        pod["status"].get("containerStatuses", [{}])
        for pod in listed("pods", "stock-assets/part=api")
    ]
    return sum(all(state.get("ready") for state in of_pod) for of_pod in states)


def test_nobody_gets_in_without_a_key(forecast: str) -> None:
    assert forecast
    with service("wrong") as client:
        assert client.get("/tickers").status_code == httpx.codes.UNAUTHORIZED
