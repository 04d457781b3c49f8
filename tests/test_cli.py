"""The command line as it is typed: what it does, prints and exits with."""

import errno
import gzip
import json
import os
import shutil
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa

from stock_assets.cli import in_words, main
from stock_assets.database import Database
from stock_assets.engine import address, is_newest, new_engine
from stock_assets.errors import SetupError
from stock_assets.keys import Scope, key_of, parse_keys
from stock_assets.promotion import is_settled
from stock_assets.settings import current_settings
from stock_assets.tables import SCHEMA_REVISION
from tests.browser import free_port
from tests.conftest import ROOT, as_csv, make_prices
from tests.test_database import contents, take


@dataclass(frozen=True)
class Done:
    """How a command ended; what it printed has no padding."""

    code: int
    out: str
    err: str


def stock_assets(*arguments: object) -> Done:
    """Run a command on the home that the environment names."""
    code, out, err = 0, StringIO(), StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["stock-assets", *map(str, arguments)])
        patch.setenv("COLUMNS", "80")
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Done(code, without_padding(out), without_padding(err))


def without_padding(printed: StringIO) -> str:
    return "\n".join(" ".join(line.split()) for line in printed.getvalue().splitlines())


@dataclass(frozen=True)
class Taken:
    """Three files, what came of ingesting them at once, and the home they are in."""

    home: Path
    one_bad_row: Path
    packed: Path
    refused: Path
    done: Done


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    folder = tmp_path_factory.mktemp("cli")
    home, one_bad_row, packed, refused = (
        folder / name for name in ("home", "one [bad] row.csv", "packed.csv.gz", "refused.csv")
    )
    prices = make_prices("AAPL", 30)
    one_bad_row.write_bytes(as_csv(prices.assign(close=[-1, *prices["close"][1:]])))
    packed.write_bytes(gzip.compress(as_csv(make_prices("MSFT", 90))))
    refused.write_bytes(b"hello")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOCK_ASSETS_HOME", str(home))
        patch.setenv("DAGSTER_HOME", str(home))
        current_settings.cache_clear()
        done = stock_assets("ingest", one_bad_row, refused, packed)
    current_settings.cache_clear()
    return Taken(home, one_bad_row, packed, refused, done)


@pytest.fixture
def at_home(taken: Taken, home: Path) -> Database:
    """A copy of that home, which a test may change."""
    shutil.copytree(taken.home, home, dirs_exist_ok=True)
    return Database(current_settings().prediction_database_url)


def made(asset: str, ticker: str) -> int:
    """How often an asset of a ticker was materialized."""
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[ticker])
    with dg.DagsterInstance.get() as instance:
        return len(instance.fetch_materializations(wanted, limit=100).records)


# ingest


def test_refused_file_does_not_stop_the_others(taken: Taken) -> None:
    assert taken.done.code == 2
    assert "one [bad] row.csv 30 29 0 1 1 0" in taken.done.out
    assert "refused.csv refused" in taken.done.out
    assert "packed.csv.gz 90 90 0 0 1 0" in taken.done.out


def test_reasons_of_rejection_and_refusal_are_told(taken: Taken) -> None:
    told = "one [bad] row.csv: 1 rows rejected: close is not a number above 0"
    assert told in taken.done.out
    assert "refused: refused.csv: The file has no header: line 1 is 'hello'." in taken.done.out


def test_tickers_of_the_files_are_forecast(at_home: Database) -> None:
    states = at_home.ticker_states()
    assert [state.ticker for state in states if not state.needs_forecast] == ["AAPL", "MSFT"]


def test_same_file_again_is_known_and_changes_nothing(taken: Taken, at_home: Database) -> None:
    before, forecasts = contents(at_home), made("forecasts", "MSFT")
    done = stock_assets("ingest", taken.packed)
    assert done.code == 0
    assert "packed.csv.gz 90 90 0 0 known drop" in done.out
    assert contents(at_home) == before
    assert made("forecasts", "MSFT") == forecasts


def test_correction_forecasts_its_ticker_alone(at_home: Database, tmp_path: Path) -> None:
    file = tmp_path / "correction.csv"
    file.write_bytes(as_csv(make_prices("AAPL", 30, seed=1).tail(5)))
    done = stock_assets("ingest", file)
    assert done.code == 0
    assert "correction.csv 5 5 0 0 0 1" in done.out
    assert [made("forecasts", ticker) for ticker in ("AAPL", "MSFT")] == [2, 1]
    assert not any(state.needs_forecast for state in at_home.ticker_states())


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(("options", "code"), [((), 0), (("--strict",), 1)])
def test_rejected_rows_fail_only_if_asked(
    taken: Taken, options: tuple[str, ...], code: int
) -> None:
    assert stock_assets("ingest", taken.one_bad_row, *options).code == code


@pytest.mark.usefixtures("at_home")
def test_refused_file_is_refused_again(taken: Taken) -> None:
    done = stock_assets("ingest", "--strict", taken.refused)
    assert done.code == 2
    assert "refused: refused.csv: The file has no header" in done.out


@pytest.mark.usefixtures("home")
def test_missing_file_is_named() -> None:
    done = stock_assets("ingest", "nowhere.csv")
    assert done.code == 2
    assert "'nowhere.csv' does not exist" in done.err


# train and forecast


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("arguments", "models", "forecasts"),
    [
        (("train", "msft"), [1, 2], [1, 2]),
        (("train",), [2, 2], [2, 2]),
        (("forecast", "MSFT"), [1, 1], [1, 2]),
        (("forecast", "MSFT", "AAPL"), [1, 1], [2, 2]),
    ],
    ids=["train msft", "train", "forecast MSFT", "forecast MSFT AAPL"],
)
def test_named_tickers_are_worked_on_or_all(
    arguments: tuple[str, ...], models: list[int], forecasts: list[int]
) -> None:
    assert stock_assets(*arguments).code == 0
    assert [made("ticker_models", ticker) for ticker in ("AAPL", "MSFT")] == models
    assert [made("forecasts", ticker) for ticker in ("AAPL", "MSFT")] == forecasts


def test_failed_forecast_is_told_in_a_sentence(at_home: Database, home: Path) -> None:
    artifact = at_home.current_models(["AAPL"])["artifact"].iloc[0]
    (home / "store" / artifact).unlink()
    done = stock_assets("forecast", "AAPL")
    assert done.code == 3
    assert done.err.startswith("error: ")
    assert artifact in done.err
    assert "Traceback" not in done.out + done.err


def test_a_killed_command_that_is_typed_again_does_what_follows_forecasts(
    taken: Taken, at_home: Database
) -> None:
    with at_home.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM champions"))
        connection.execute(sa.text("UPDATE drops SET scored = false"))
    made_before = made("forecasts", "AAPL")
    assert stock_assets("ingest", taken.packed).code == 0
    assert (is_settled(at_home), made("forecasts", "AAPL")) == (True, made_before)


# predict


@pytest.mark.usefixtures("at_home")
def test_predict_prints_the_ten_days() -> None:
    done = stock_assets("predict", "msft")
    assert done.code == 0
    last = make_prices("MSFT", 90)["close"].iloc[-1]
    assert f"MSFT: {last:,.2f} on 2019-06-28" in done.out
    days = [line.split() for line in done.out.splitlines() if " to " in line]
    assert [day[0] for day in days] == [str(h) for h in range(1, 11)]
    assert [day[1] for day in (days[0], days[-1])] == ["2019-07-01", "2019-07-15"]
    assert {len(day) for day in days} == {9}


@pytest.mark.parametrize("ticker", ["AAPL", "MSFT"])
def test_predict_gives_the_stored_forecast_as_json(at_home: Database, ticker: str) -> None:
    document = json.loads(stock_assets("predict", ticker, "--json").out)
    stored = at_home.champion_forecasts([ticker])
    bounds = ["h", "close", "lo_80", "hi_80", "lo_95", "hi_95"]
    days = pd.DataFrame(document.pop("forecast"))
    assert days[bounds].to_dict() == stored[bounds].to_dict()
    assert days["target_date"].tolist() == stored["target_date"].map(str).tolist()
    assert set(days.columns) == {*bounds, "target_date"}
    first = stored.iloc[0]
    assert document == {
        "ticker": ticker,
        "as_of": "2019-06-28",
        "last_close": first["last_close"],
        "model": first["model"],
        "model_version": first["model_version"],
        "reason": "29 days of history are too few to train on"
        if ticker == "AAPL"
        else at_home.champion().reason,
        "mae_ratio": None if ticker == "AAPL" else first["mae_ratio"],
    }


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("predict", "APPL"), "error: No prices of APPL. Did you mean AAPL?"),
        (("train", "MSFT", "MFST"), "error: No prices of MFST. Did you mean MSFT?"),
        (("forecast", "0815"), "error: No prices of 0815. Drop a CSV that has them"),
    ],
)
def test_unknown_ticker_is_told_with_the_nearest_known(
    arguments: tuple[str, ...], told: str
) -> None:
    done = stock_assets(*arguments)
    assert done.code == 3
    assert done.err.startswith(told)
    assert done.err.endswith("stock-assets ingest FILE")
    assert done.out == ""


def test_ticker_without_a_forecast_is_told_what_to_type(at_home: Database) -> None:
    take(at_home, make_prices("NEW", 30))
    done = stock_assets("predict", "NEW")
    assert (done.code, done.out) == (3, "")
    sentence, command = done.err.removeprefix("error: ").split(": ")
    assert sentence == "NEW has prices but no forecast yet"
    assert stock_assets(*command.split()[1:]).code == 0
    assert stock_assets("predict", "NEW").code == 0


# backtest


def test_backtest_of_a_file_prints_tables_and_writes_a_report(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "drops"
    folder.mkdir()
    prices = pd.concat([make_prices("AAPL", 112), make_prices("MSFT", 112, seed=1)])
    (folder / "old.csv").write_bytes(as_csv(prices.assign(volume=1)))
    (folder / "young.csv.gz").write_bytes(gzip.compress(as_csv(prices)))
    report = tmp_path / "report"
    done = stock_assets("backtest", folder, "--days", 90, "--out", report)
    assert done.code == 0
    table = pd.read_csv(report / "backtest.csv")
    assert set(table["origins"][table["model"] == "naive"]) == {112 - 90 + 1 - 10}
    naive = table.query("model == 'naive' and h == 10").iloc[0]
    line = f"naive 10 13 1.0000 {naive['rmse']:.4f} {naive['mase']:.3f} 0.00 1.00 0%"
    assert line in done.out
    assert f"naive 10 {naive['coverage_80']:.1%} {naive['width_80']:.1%}" in done.out
    assert "linear_regression_on_prices" in done.out
    assert (report / "backtest.html").stat().st_size > 10_000
    assert not (home / "predictions.db").exists()


@pytest.mark.usefixtures("at_home")
def test_backtest_of_the_database_needs_days(tmp_path: Path) -> None:
    done = stock_assets("backtest", "--days", 85, "--out", tmp_path / "report")
    assert done.code == 3
    told = "error: No day to forecast from: found 90 trading days. Expected at least 85 before"
    assert done.err.startswith(told)
    assert not (tmp_path / "report").exists()


@pytest.mark.usefixtures("home")
def test_backtest_without_prices_says_what_to_do() -> None:
    done = stock_assets("backtest")
    assert done.code == 3
    assert done.err == "error: No prices to test on: name a CSV, or ingest one first"


@pytest.mark.usefixtures("home")
def test_backtest_names_the_file_that_is_no_csv_of_prices(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_bytes(b"hello")
    done = stock_assets("backtest", tmp_path)
    assert done.code == 3
    assert done.err.startswith("error: bad.csv: The file has no header")


# key and serve


def test_a_key_is_printed_with_the_entry_that_lets_it_in() -> None:
    done = stock_assets("key", "ops", "--scope", "read", "--scope", "train")
    secret, entry = done.out.splitlines()
    (known,) = parse_keys(entry)
    assert key_of(secret, [known]) == known
    assert known.name == "ops"
    assert known.scopes == {Scope.READ, Scope.TRAIN}
    assert secret not in entry + done.err


def test_a_key_reads_if_nothing_else_is_asked() -> None:
    (known,) = parse_keys(stock_assets("key", "ops").out.splitlines()[1])
    assert known.scopes == {Scope.READ}


def test_a_key_needs_a_name_that_logs_can_tell() -> None:
    done = stock_assets("key", "two words")
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("error: ")


@pytest.mark.usefixtures("home")
def test_serve_lets_nobody_in_from_elsewhere_without_keys() -> None:
    done = stock_assets("serve", "--host", "0.0.0.0")  # noqa: S104
    assert done.code == 3
    assert done.err.startswith("error: On 0.0.0.0 other machines can reach the service")
    assert "stock-assets key NAME" in done.err


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("option", ["--port", "--api-port"])
def test_up_says_that_a_port_is_taken(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = {"--port": "--api-port", "--api-port": "--port"}[option]
        done = stock_assets("up", option, port, other, free_port())
    assert done.code == 3
    assert done.err.startswith(f"error: Port {port} is taken")


# champion


def shown(database: Database) -> set[str]:
    """The models of the forecasts that people see."""
    return set(database.champion_forecasts(["AAPL", "MSFT"])["model"])


def test_champion_is_pinned_rolled_back_and_released(at_home: Database) -> None:
    assert stock_assets("champion").out.startswith("naive: no model beats it beyond noise")
    pinned = stock_assets("champion", "ridge")
    assert pinned.code == 0
    assert pinned.out.startswith("ridge, pinned: chosen by hand")
    assert shown(at_home) == {"naive", "ridge"}  # AAPL has too short a history for another
    back = stock_assets("champion", "--rollback")
    assert back.out.startswith("naive, pinned: rolled back from ridge by hand")
    assert shown(at_home) == {"naive"}
    stock_assets("champion", "ridge")
    assert stock_assets("train", "MSFT").code == 0
    assert at_home.champion().model == "ridge"
    assert shown(at_home) == {"naive", "ridge"}
    released = stock_assets("champion", "--release")
    assert released.out.startswith("naive: no model beats it beyond noise")
    assert shown(at_home) == {"naive"}
    assert at_home.champions()["model"].tolist() == ["naive", "ridge", "naive", "ridge", "naive"]


@pytest.mark.usefixtures("at_home")
def test_unknown_champion_is_told_with_the_known_ones() -> None:
    done = stock_assets("champion", "oracle")
    assert done.code == 3
    assert done.err.startswith("error: No ticker has a backtested model 'oracle'. Expected one of:")


@pytest.mark.usefixtures("at_home")
def test_first_champion_cannot_be_rolled_back() -> None:
    done = stock_assets("champion", "--rollback")
    assert (done.code, done.err) == (3, "error: No champion before naive to go back to")


# The database


@pytest.mark.usefixtures("home")
def test_tables_are_brought_to_the_newest_revision(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCK_ASSETS_DATABASE_URL", database_url)
    current_settings.cache_clear()
    engine = new_engine(address(database_url))
    assert not is_newest(engine)
    for _ in range(2):
        done = stock_assets("db", "upgrade")
        assert (done.code, done.err) == (0, "")
        assert done.out.endswith(f"are of revision {SCHEMA_REVISION}.")
        assert is_newest(engine)
    engine.dispose()


# The home


def test_home_is_made_where_there_is_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = home / "not" / "there"
    monkeypatch.setenv("STOCK_ASSETS_HOME", str(new))
    current_settings.cache_clear()
    assert stock_assets("predict", "AAPL").code == 3
    ours = ROOT / "dagster_home" / "dagster.yaml"
    assert (new / "dagster.yaml").read_bytes() == ours.read_bytes()


def test_home_is_made_with_a_whole_dagster_yaml_or_with_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = home / "new"
    monkeypatch.setenv("STOCK_ASSETS_HOME", str(new))
    current_settings.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        done = stock_assets("predict", "AAPL")
    assert (done.code, done.err) == (3, f"error: {new}: No space left on device")
    assert list(new.iterdir()) == []


def full(*_: object) -> None:
    folder = str(current_settings().home)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)


# What a command raises


def _raised(error: Exception, cause: Exception | None = None) -> Exception:
    error.__cause__ = cause
    return error


CUT = sa.exc.OperationalError("SELECT 1", {}, Exception("server closed the connection\n"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (SetupError("Say what to do."), "Say what to do."),
        (OSError(errno.EROFS, "Read-only file system", "/store"), "/store: Read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (CUT, "The database does not do what it is asked for: server closed the connection"),
        (
            _raised(RuntimeError("too many retries"), CUT),
            "The database does not do what it is asked for: server closed the connection",
        ),
        (OSError("of no system"), ""),
        (KeyError("a mistake of ours"), ""),
    ],
)
def test_an_error_that_can_be_mended_is_told_in_words(error: Exception, told: str) -> None:
    assert in_words(error) == told


def test_a_mistake_of_ours_is_a_traceback(
    home: Path,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mistake(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(Database, "champions", mistake)
    with pytest.raises(KeyError, match="ours"):
        stock_assets("champion")
