"""Two installations on one Postgres server: none has anything of the other."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from stock_assets.database import Database
from stock_assets.keys import Scope, new_key
from tests.commands import Service, new_home, serving, wait_until
from tests.conftest import as_csv, make_prices
from tests.test_api import tell
from tests.test_backup import blocks, postgres_environment, type_in

NAMES = ("ours", "theirs")
(USERS,) = blocks("Two on one server")
TICKER_OF_OURS = "IBM"


@dataclass(frozen=True)
class Tenant:
    """An installation with its own user of the server."""

    service: Service
    secret: str
    url: str

    def ask(self, path: str, secret: str) -> httpx.Response:
        """What it answers to somebody's key."""
        headers = {"Authorization": f"Bearer {secret}"}
        return httpx.get(self.service.url + path, headers=headers, timeout=30)

    def upload(self, content: bytes) -> httpx.Response:
        """What it says of a file."""
        headers = {"Authorization": f"Bearer {self.secret}"}
        files = {"file": ("prices.csv", content)}
        return httpx.post(f"{self.service.url}/upload", files=files, headers=headers, timeout=30)


@pytest.fixture(scope="module")
def urls(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Databases and users, as the page has them made."""
    server = sa.make_url(postgres_url)
    found = {}
    for name in NAMES:
        environment = postgres_environment(postgres_url) | {"NAME": f"tenant_{name}"}
        type_in(tmp_path_factory.getbasetemp(), USERS, **environment)
        url = server.set(username=f"tenant_{name}", database=f"tenant_{name}")
        found[name] = url.render_as_string(hide_password=False)
    return found


@pytest.fixture(scope="module")
def tenants(
    urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Tenant, Tenant]]:
    """Two services; ours knows a ticker and a drop."""
    database = Database(urls["ours"])
    tell(database, TICKER_OF_OURS)
    database.engine.dispose()
    with ExitStack() as stack:
        made = []
        for name in NAMES:
            secret, key = new_key("ops", list(Scope))
            home = new_home(tmp_path_factory.mktemp(name))
            settings = {"API_KEYS": str(key), "DATABASE_URL": urls[name]}
            made.append(Tenant(stack.enter_context(serving(home, **settings)), secret, urls[name]))
        yield made[0], made[1]


def test_each_key_opens_its_own_door(tenants: tuple[Tenant, Tenant]) -> None:
    ours, theirs = tenants
    assert [ours.ask("/tickers", each.secret).status_code for each in tenants] == [200, 401]
    assert [theirs.ask("/tickers", each.secret).status_code for each in tenants] == [401, 200]


def test_each_knows_its_own_data_alone(tenants: tuple[Tenant, Tenant]) -> None:
    ours, theirs = tenants
    drop = ours.upload(as_csv(make_prices("XOM"))).json()["drop"]
    for path in (f"/drops/{drop}", f"/predict/{TICKER_OF_OURS}", f"/tickers/{TICKER_OF_OURS}"):
        assert ours.ask(path, ours.secret).status_code == 200
        assert theirs.ask(path, theirs.secret).status_code == 404
    assert theirs.ask("/tickers", theirs.secret).json()["total"] == 0
    assert [*(theirs.service.home / "drops").glob("*.csv")] == []


@pytest.mark.parametrize("metric", ["drops", "rows_accepted_total", "api_uploaded_bytes_total"])
def test_each_counts_its_own_work_alone(tenants: tuple[Tenant, Tenant], metric: str) -> None:
    tenants[0].upload(as_csv(make_prices("CVX")))

    def counted(tenant: Tenant) -> list[float]:
        lines = tenant.ask("/metrics", tenant.secret).text.splitlines()
        return [
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith(f"stock_assets_{metric}")
        ]

    ours, theirs = (
        wait_until("metric", partial(counted, tenant), seconds=30) for tenant in tenants
    )
    assert sum(ours) > 0 == sum(theirs)


@pytest.mark.parametrize("name", NAMES)
def test_neither_user_gets_into_the_others_database(urls: dict[str, str], name: str) -> None:
    other = next(each for each in NAMES if each != name)
    wrong = sa.make_url(urls[name]).set(database=f"tenant_{other}")
    engine = sa.create_engine(wrong)
    with pytest.raises(sa.exc.OperationalError, match="permission denied for database"):
        engine.connect()
    engine.dispose()


def test_a_wrong_address_tells_nothing_of_the_other(urls: dict[str, str], tmp_path: Path) -> None:
    wrong = sa.make_url(urls["theirs"]).set(database="tenant_ours")
    address = wrong.render_as_string(hide_password=False)
    with serving(new_home(tmp_path / "home"), DATABASE_URL=address) as service:
        for path in ("/tickers", "/readyz", f"/predict/{TICKER_OF_OURS}"):
            told = httpx.get(service.url + path, timeout=30)
            assert told.status_code == 503
            assert "tenant" not in told.text
        drops = httpx.get(f"{service.url}/metrics", timeout=30).text
        assert 'stock_assets_source_up{source="database"} 0.0' in drops
