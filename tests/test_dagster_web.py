"""Dagster's web UI: its own pages and programs may use it, pages of other sites may not."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest
import websockets

from stock_assets.defs.web import OwnPages
from tests.asgi import ask
from tests.bench.ui import web_server
from tests.commands import new_home

QUERY = "{ version }"
HARM = 'mutation { deletePipelineRun(runId: "none") { __typename } }'
EVIL = "http://evil.example"


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real one."""
    home = new_home(tmp_path_factory.mktemp("home"))
    with web_server(str(home)) as address:
        yield address


def status(ui: str, method: str, path: str = "/graphql", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    query = {"query": HARM}
    return httpx.request(method, ui + path, params=query, headers=named, timeout=60).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},
        {"Origin": EVIL},
        {"Origin": "null", "Content_Type": "text/plain"},
    ],
)
def test_pages_of_other_sites_may_not_ask_it(ui: str, headers: dict[str, str]) -> None:
    assert [status(ui, method, **headers) for method in ("GET", "POST")] == [403, 403]


def test_its_own_pages_and_programs_may(ui: str) -> None:
    own: list[dict[str, str]] = [
        {},
        {"Sec_Fetch_Site": "same-origin", "Origin": ui},
        {"Origin": ui},
        {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"},
    ]
    assert {status(ui, method, **headers) for headers in own for method in ("GET", "POST")} == {200}


def test_a_link_of_another_site_opens_a_page(ui: str) -> None:
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert status(ui, "GET", "/assets/forecasts", **link) == 200
    assert status(ui, "POST", "/assets/forecasts", **link) == 403


@pytest.mark.parametrize(("origin", "is_let_in"), [(EVIL, False), ("", True), ("own", True)])
def test_a_websocket_of_another_site_hears_nothing(
    ui: str, origin: str, *, is_let_in: bool
) -> None:
    told = {"Origin": ui if origin == "own" else origin} if origin else {}
    spoken = [websockets.Subprotocol("graphql-ws")]

    async def talk() -> str:
        address = f"{ui.replace('http', 'ws')}/graphql"
        async with websockets.connect(
            address, additional_headers=told, subprotocols=spoken, proxy=None
        ) as socket:
            await socket.send(json.dumps({"type": "connection_init"}))
            return str(await socket.recv())

    if is_let_in:
        assert "connection_ack" in asyncio.run(talk())
    else:
        with pytest.raises(websockets.InvalidStatus, match="HTTP 403"):
            asyncio.run(talk())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, 200) for host in ("127.0.0.1:3000", "localhost:3000", "[::1]:3000", "localhost")),
        *((host, 403) for host in ("evil.example:3000", "10.0.0.1:3000", "localhost.evil.example")),
    ],
)
def test_on_one_machine_it_is_called_by_no_other_name(
    monkeypatch: pytest.MonkeyPatch, host: str, expected: int
) -> None:
    async def app(_scope: object, _receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body"})  # type: ignore[operator]

    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    assert ask(OwnPages(app), "/graphql", headers={"Host": host}).status == expected
    monkeypatch.delenv("DAGSTER_IS_DEV_CLI")
    assert ask(OwnPages(app), "/graphql", headers={"Host": host}).status == 200
