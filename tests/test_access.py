"""Access: nothing but the page and the health is there for who has no key."""

import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import settings as of_hypothesis
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.routing import Mount, Route

from stock_assets.api.access import check_binding, scope_of
from stock_assets.api.app import create_app
from stock_assets.api.rate import Rate
from stock_assets.errors import SetupError
from stock_assets.keys import Scope, new_key
from stock_assets.settings import Settings
from stock_assets.sites import LOOPBACK
from tests.asgi import Answer, ask
from tests.conftest import as_csv, make_prices

VIEWER, READ = new_key("viewer", [Scope.READ])
OPERATOR, ALL = new_key("operator", list(Scope))
LOADER, UPLOAD = new_key("loader", [Scope.UPLOAD])
TRAINER, TRAIN = new_key("trainer", [Scope.TRAIN])
KEYS = f"{READ},{ALL},{UPLOAD},{TRAIN}"
SECRETS = {Scope.READ: VIEWER, Scope.UPLOAD: LOADER, Scope.TRAIN: TRAINER}

OPEN = {"/", "/healthz", "/readyz", "/openapi.json"}
UNDESCRIBED = {("GET", "/"), ("GET", "/page"), ("GET", "/openapi.json"), ("HEAD", "/openapi.json")}
NEEDS = {  # of what is described; a new operation has to be written down here
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("GET", "/metrics"): Scope.READ,
    ("POST", "/upload"): Scope.UPLOAD,
    ("GET", "/drops/{drop}"): Scope.READ,
    ("GET", "/runs/{run}"): Scope.READ,
    ("GET", "/train/{ticker}"): Scope.TRAIN,
    ("POST", "/train/{ticker}"): Scope.TRAIN,
    ("POST", "/train"): Scope.TRAIN,
    ("GET", "/predict/{ticker}"): Scope.READ,
    ("POST", "/batch-predict"): Scope.READ,
    ("GET", "/tickers"): Scope.READ,
    ("GET", "/tickers/{ticker}"): Scope.READ,
}
FILLED = {"{ticker}": "AAPL", "{drop}": "x-0123456789ab", "{run}": "123"}
DAGSTER = "http://127.0.0.1:9"  # nobody listens there

Making = Callable[..., FastAPI]


@pytest.fixture(scope="session")
def making(tmp_path_factory: pytest.TempPathFactory) -> Making:
    """Makes services, each with a home of its own."""

    def make(
        keys: str = KEYS,
        rate: str = "10000/second",
        hosts: Collection[str] = LOOPBACK,
        **others: object,
    ) -> FastAPI:
        update = {
            "home": tmp_path_factory.mktemp("home"),
            "dagster_url": DAGSTER,
            "api_keys": SecretStr(keys),
            "api_rate_limit": rate,
        }
        return create_app(Settings().model_copy(update={**update, **others}), hosts)

    return make


@pytest.fixture(scope="session")
def app(making: Making) -> FastAPI:
    """A service with keys."""
    return making()


@pytest.fixture(scope="session")
def open_app(making: Making) -> FastAPI:
    """A service without keys."""
    return making("")


@pytest.fixture(scope="session")
def wide_open(making: Making) -> FastAPI:
    """A service without keys, which is called by any name."""
    return making("", hosts=())


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def read(app: FastAPI, secret: str, path: str = "/metrics", client: str = "10.0.0.9") -> Answer:
    return ask(app, path, headers=bearer(secret), client=(client, 1))


def upload(app: FastAPI, secret: str) -> Answer:
    head = b'Content-Disposition: form-data; name="file"; filename="prices.csv"'
    form = b"--b\r\n%b\r\n\r\n%b\r\n--b--\r\n" % (head, as_csv(make_prices(days=3)))
    headers = {"Content-Type": "multipart/form-data; boundary=b", **bearer(secret)}
    return ask(app, "/upload", method="POST", headers=headers, body=[form])


def addresses(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path that a route of the app takes."""
    found = []
    for route in app.routes:
        assert isinstance(route, Route | Mount), "a kind of route that this test does not know"
        methods = route.methods if isinstance(route, Route) else None
        found += [(method, fill(route.path)) for method in sorted(methods or {"GET"})]
    return found


def fill(path: str) -> str:
    """A path with something in the place of its parameters."""
    for name, value in FILLED.items():
        path = path.replace(name, value)
    return path


# What a path needs


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        *((path, None) for path in sorted(OPEN)),
        *((path, None) for path in ("/page", "/page/", "/page/page.js", "/page/../upload")),
        *((path, Scope.UPLOAD) for path in ("/upload", "/upload/", "/upload/x", "/upload/../page")),
        *((path, Scope.TRAIN) for path in ("/train", "/train/", "/train/AAPL", "/train//AAPL")),
        *((path, Scope.READ) for path in ("/predict/AAPL", "/batch-predict", "/tickers")),
        *((path, Scope.READ) for path in ("/drops/x", "/runs/x", "/metrics", "/docs", "/new")),
        *((path, Scope.READ) for path in ("", "//", "//page", "//train/AAPL", "*", "page/x")),
        *((path, Scope.READ) for path in ("/TRAIN/AAPL", "/Page", "/page;x", "/ page", "/pagex")),
        *((path, Scope.READ) for path in ("/healthz;/../train/AAPL", "/%70age", "/../page")),
    ],
)
def test_what_a_key_must_be_good_for(path: str, scope: Scope | None) -> None:
    assert scope_of(path) == scope


def test_every_route_but_the_open_ones_needs_a_key(app: FastAPI) -> None:
    answers = {path: ask(app, path, method=method) for method, path in addresses(app)}
    opened = {path for path, answer in answers.items() if answer.status != 401}
    assert opened == {*OPEN, "/page"}
    assert len(answers) > len(opened) + 8


def test_every_route_that_writes_needs_its_own_scope(app: FastAPI) -> None:
    refused = {
        path: ask(app, path, method=method, headers=bearer(VIEWER))
        for method, path in addresses(app)
        if path not in {*OPEN, "/metrics"}
    }
    assert {path for path, answer in refused.items() if answer.status == 403} == {
        *("/upload", "/train", "/train/AAPL")
    }


def described(app: FastAPI) -> list[tuple[str, str]]:
    """Every operation of the OpenAPI document."""
    paths = ask(app, "/openapi.json").json()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_it_is_written_down_what_every_operation_needs(app: FastAPI) -> None:
    assert set(described(app)) == set(NEEDS)
    filled = {(method, fill(path)) for method, path in NEEDS}
    assert set(addresses(app)) - filled == UNDESCRIBED


@pytest.mark.parametrize("owner", [None, *SECRETS], ids=str)
def test_every_operation_takes_the_keys_of_its_scope_and_no_others(
    app: FastAPI, owner: Scope | None
) -> None:
    headers = bearer(SECRETS[owner]) if owner else {}
    admitted = {
        (method, path)
        for method, path in described(app)
        if ask(app, fill(path), method=method, headers=headers).status not in {401, 403}
    }
    assert admitted == {which for which, scope in NEEDS.items() if scope in {None, owner}}


PARTS = ["/", "//", "..", ".", "%2e%2e", "%2f", "\\", ";", "?", "#", "\0", "\n", " ", "é"]
WORDS = ["page", "healthz", "openapi.json", "train", "TRAIN", "upload", "AAPL", "tickers"]


@of_hypothesis(deadline=None)
@given(
    path=st.lists(st.sampled_from([*PARTS, *WORDS])).map("".join),
    method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "get", "PÖST"]),
)
def test_no_path_leads_past_the_keys(app: FastAPI, path: str, method: str) -> None:
    answer = ask(app, path, method=method)
    route = answer.scope.get("route")
    assert route is None or getattr(route, "path", None) in {*OPEN, "/page"}
    assert answer.status in {200, 307, 404, 405, 503} if scope_of(path) is None else 401


# Keys


def test_without_a_key_one_is_asked_for(app: FastAPI) -> None:
    answer = ask(app, "/metrics")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == (
        "A key is needed. Send it in a header: Authorization: Bearer KEY"
    )


@pytest.mark.parametrize(
    "told",
    [
        "Bearer {secret}x",
        "Bearer {cut}",
        "Bearer x {secret}",
        "Bearer {key.sha256}",
        "Bearer {key}",
        "Basic {secret}",
        "Bearer{secret} x",
        "Bearer: {secret}",
        "Bearer é",
    ],
)
def test_a_wrong_key_is_not_known(app: FastAPI, told: str) -> None:
    wrong = told.format(secret=VIEWER, cut=VIEWER[:-1], key=READ)
    answer = ask(app, "/metrics", headers={"Authorization": wrong})
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["detail"].startswith("That key is not known. Send it in a header")
    assert VIEWER not in answer.body.decode()


@pytest.mark.parametrize("told", ["", "Bearer", "Bearer ", "Basic", "{}"])
def test_a_header_without_a_key_is_none(app: FastAPI, told: str) -> None:
    answer = ask(app, "/metrics", headers={"Authorization": told.format(VIEWER)})
    assert (answer.status, answer.json()["detail"][:15]) == (401, "A key is needed")


@pytest.mark.parametrize("told", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {} "])
def test_a_key_is_taken_in_any_case_of_bearer(app: FastAPI, told: str) -> None:
    answer = ask(app, "/metrics", headers={"Authorization": told.format(VIEWER)})
    assert answer.status == 200
    assert answer.scope["state"]["key"] == "viewer"


def test_a_key_is_told_what_it_may_and_what_is_needed(app: FastAPI) -> None:
    upload = ask(app, "/upload", method="POST", headers=bearer(VIEWER))
    assert upload.status == 403
    assert upload.json()["detail"] == (
        "The key viewer may read, but this needs upload: use another, or have that scope added."
    )
    read = ask(app, "/metrics", headers=bearer(LOADER))
    assert "The key loader may upload, but this needs read" in read.json()["detail"]


@pytest.mark.parametrize("keys", ["ops:read", "hunter2"])
def test_keys_that_are_none_are_told_before_it_starts(making: Making, keys: str) -> None:
    with pytest.raises(SetupError, match="Entry 1 of STOCK_ASSETS_API_KEYS is no key"):
        making(keys)


def test_openapi_names_the_scheme_exactly_where_a_key_is_needed(app: FastAPI) -> None:
    described = ask(app, "/openapi.json").json()
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            needs_one = ask(app, fill(path), method=method.upper()).status == 401
            assert operation.get("security") == ([{"key": []}] if needs_one else None), path


def test_openapi_names_no_scheme_where_there_are_no_keys(open_app: FastAPI) -> None:
    described = ask(open_app, "/openapi.json").json()
    assert "securitySchemes" not in described["components"]
    assert all("security" not in how for of in described["paths"].values() for how in of.values())


# How often


def test_a_key_that_is_used_too_often_has_to_wait(making: Making) -> None:
    app = making(rate="3/day")
    assert [read(app, VIEWER).status for _ in range(5)] == [200, 200, 200, 429, 429]
    answer = read(app, VIEWER)
    seconds = int(answer.headers["retry-after"])
    assert 0 < seconds <= 86_400
    assert answer.json()["detail"] == f"More than 3 per 1 day: try again in {seconds} s."
    assert read(app, OPERATOR).status == 200
    assert ask(app, "/healthz").status == 200


def test_refusals_for_the_scope_count(making: Making) -> None:
    app = making(rate="2/day")
    upload = [ask(app, "/upload", method="POST", headers=bearer(VIEWER)) for _ in range(3)]
    assert [answer.status for answer in upload] == [403, 403, 429]


def test_who_guesses_keys_has_to_wait_and_nobody_else(making: Making) -> None:
    app = making(rate="2/day")
    assert [read(app, f"guess{n}").status for n in range(4)] == [401, 401, 429, 429]
    assert ask(app, "/metrics", client=("10.0.0.9", 2)).status == 429
    assert read(app, "guess", client="10.0.0.8").status == 401
    assert read(app, VIEWER).status == 200


def test_who_has_a_network_of_addresses_has_one_count(making: Making) -> None:
    app = making(rate="2/day")
    clients = ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:2::3%eth0"]
    assert [read(app, "guess", client=client).status for client in clients] == [401, 401, 429]
    assert read(app, "guess", client="2001:db8:1:3::1").status == 401
    assert read(app, VIEWER, client=clients[0]).status == 200


def test_addresses_that_are_none_have_one_count(making: Making) -> None:
    app = making(rate="2/day")  # a proxy's word is taken for them
    clients = [":", "a:b", f"{'x' * 5_000}:1"]
    assert [read(app, "guess", client=client).status for client in clients] == [401, 401, 429]


@pytest.mark.parametrize("rate", ["1/second", "3/second", "7/minute", "5/hour"])
@pytest.mark.parametrize("begun", [0.1, 0.6, 17.9, 3599.5])
def test_who_waits_as_long_as_told_is_admitted(
    making: Making, monkeypatch: pytest.MonkeyPatch, rate: str, begun: float
) -> None:
    app, now = making(rate=rate), 1.8e9 + begun
    monkeypatch.setattr(time, "time", lambda: now)
    for _ in range(5):
        while (answer := read(app, VIEWER)).status == 200:
            pass
        now += int(answer.headers["retry-after"]) + 0.001
        assert read(app, VIEWER).status == 200


@pytest.mark.parametrize(
    "text", ["", "lots", "100", "0/second", "-1/second", "5/sec", "5/second;1/day", "1.5/second"]
)
def test_a_wrong_rate_is_told_before_the_service_starts(making: Making, text: str) -> None:
    with pytest.raises(SetupError) as refused:
        making(rate=text)
    assert str(refused.value) == (
        f"STOCK_ASSETS_API_RATE_LIMIT is {text!r}. Expected one such as 100/second"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("100/second", "100 per 1 second"),
        ("6000/minute", "6000 per 1 minute"),
        ("5 per 2 hours", "5 per 2 hour"),
    ],
)
def test_a_rate_is_a_number_per_time(text: str, told: str) -> None:
    assert str(Rate(text)) == told


# Without keys


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "LocalHost", "[::1]", "[::1]:8000"],
)
@pytest.mark.parametrize("site", [None, "same-origin", "none"])
def test_without_keys_this_machine_is_served(
    open_app: FastAPI, host: str, site: str | None
) -> None:
    headers = {"Host": host} | ({"Sec-Fetch-Site": site} if site else {})
    assert ask(open_app, "/metrics", headers=headers).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("", "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1:8000"),
        *("localhost.evil.example", "localhost:8000:80", "localhost:x", "x@localhost"),
    ],
)
def test_without_keys_a_foreign_name_is_refused(open_app: FastAPI, host: str) -> None:
    answer = ask(open_app, "/metrics", headers={"Host": host})
    assert answer.status == 403
    assert repr(host) in answer.json()["detail"]


def test_without_keys_no_host_is_a_foreign_one(open_app: FastAPI) -> None:
    assert ask(open_app, "/metrics").status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/train/AAPL"), ("POST", "/upload"), ("GET", "/metrics")]
)
def test_without_keys_pages_of_other_sites_are_refused(
    open_app: FastAPI, method: str, path: str, site: str
) -> None:
    headers = {"Host": "localhost:8000", "Sec-Fetch-Site": site}
    answer = ask(open_app, path, method=method, headers=headers)
    assert answer.status == 403
    assert "pages of other sites may not call the service" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://localhost:8000", "localhost:8000", 200),
        ("http://LOCALHOST:8000", "LocalHost:8000", 200),
        ("https://stocks.example", "stocks.example", 200),
        ("http://localhost:3000", "localhost:8000", 403),
        ("http://evil.example", "10.0.0.5:8000", 403),
        ("http://10.0.0.5:8000.evil.example", "10.0.0.5:8000", 403),
        ("null", "10.0.0.5:8000", 403),
        ("file://", "10.0.0.5:8000", 403),
    ],
)
def test_without_keys_a_browser_that_tells_the_origin_alone_is_believed(
    wide_open: FastAPI, origin: str, host: str, status: int
) -> None:
    headers = {"Host": host, "Origin": origin}
    assert ask(wide_open, "/metrics", headers=headers).status == status
    form = {**headers, "Content-Type": "multipart/form-data; boundary=b"}
    assert (ask(wide_open, "/upload", method="POST", headers=form).status == 403) == (status == 403)


def test_behind_a_proxy_that_renames_the_host_its_own_page_is_served(wide_open: FastAPI) -> None:
    headers = {"Host": "127.0.0.1:8000", "Origin": "https://stocks.example"}
    own = {**headers, "Sec-Fetch-Site": "same-origin"}
    assert ask(wide_open, "/metrics", headers=own).status == 200
    assert ask(wide_open, "/metrics", headers=headers).status == 403


def test_with_keys_the_name_does_not_matter(app: FastAPI) -> None:
    headers = {"Host": "stocks.example", "Sec-Fetch-Site": "cross-site", **bearer(VIEWER)}
    assert ask(app, "/metrics", headers=headers).status == 200


# Where it listens


def settings_with(keys: str) -> Settings:
    return Settings().model_copy(update={"api_keys": SecretStr(keys)})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_this_machine_no_keys_are_needed(host: str) -> None:
    check_binding(settings_with(""), host, without_keys=False)


@pytest.mark.parametrize("keys", ["", " ", ",", "\t", "\r\n", ", \n,"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "stocks.example", "0"])  # noqa: S104
def test_other_machines_are_not_let_in_without_keys(host: str, keys: str) -> None:
    with pytest.raises(SetupError) as refused:
        check_binding(settings_with(keys), host, without_keys=False)
    assert str(refused.value) == (
        f"On {host} other machines can reach the service, and there are no keys. "
        "Set STOCK_ASSETS_API_KEYS to what `stock-assets key NAME` prints, "
        "or let everybody in with --without-keys"
    )


def test_other_machines_are_let_in_with_keys_or_if_that_is_wanted() -> None:
    check_binding(settings_with(KEYS), "10.0.0.1", without_keys=False)
    check_binding(settings_with(""), "10.0.0.1", without_keys=True)


# Two installations


def test_two_installations_share_nothing(making: Making, tmp_path: Path) -> None:
    (one_secret, one_key), (two_secret, two_key) = (new_key("ops", list(Scope)) for _ in range(2))
    one = making(str(one_key), "3/day", home=tmp_path / "one")
    two = making(str(two_key), "3/day", home=tmp_path / "two")

    uploaded = upload(one, one_secret)
    assert uploaded.status == 202
    drop = f"/drops/{uploaded.json()['drop']}"
    assert read(one, one_secret, drop).status == 200
    assert read(two, two_secret, drop).status == 404
    assert read(two, one_secret, drop).status == read(one, two_secret, drop).status == 401
    assert read(one, one_secret, drop).status == 200
    assert read(one, one_secret, drop).status == 429
    assert read(two, two_secret, drop).status == 404
    files = [file.relative_to(tmp_path) for file in tmp_path.glob("*/drops/*")]
    assert files == [Path("one", "drops", f"{uploaded.json()['drop']}.csv")]
