"""Imports point one way only, and what is slow to load is loaded when it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import stock_assets

ROOT = Path(stock_assets.__file__).parent
# From the bottom: a module imports from its own layer and those below it.
LAYERS = (
    {"errors"},
    {
        "csv_text",
        "names",
        "ranges",
        "prices",
        "features",
        "evaluation",
        "sessions",
        "forest",
        "models",
        "intervals",
        "drift",
        "champion",
        "forecasting",
        "backtest",
        "charts",
    },
    {
        "tables",
        "queries",
        "engine",
        "connection",
        "price_records",
        "forecast_records",
        "database",
        "files",
        "storage",
        "drops",
        "providers",
        "fetching",
        "settings",
        "demo",
        "migrations",
        "report",
        "promotion",
    },
    {"keys", "metrics", "sites"},
    {"api"},
    {"defs"},
    {"definitions"},
    {"local_runs"},
    {"installation"},
    {"console", "supervision"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}
PURE, EDGE, DAGSTER = LAYERS[0] | LAYERS[1], LAYERS[2], {"defs", "definitions", "local_runs"}
SERVICE = {"keys", "metrics", "sites", "api"}
COMMANDS = {"installation", "console", "supervision", "cli"}
HEAVY = {  # they take seconds to load: pandera, scikit-learn, numba or matplotlib
    "prices",
    "forest",
    "models",
    "intervals",
    "champion",
    "forecasting",
    "backtest",
    "report",
    "promotion",
}
RECORDS = EDGE - {"report", "promotion", "migrations"}  # what the commands load at once
LEARNING = {"sklearn", "skops", "joblib", "scipy", "numba"}
STORES = {"sqlalchemy", "alembic", "psycopg2"}
SERVED = {
    "errors",
    "csv_text",
    "names",
    "ranges",
    "tables",
    "queries",
    "engine",
    "settings",
    "files",
}
WEB = {"fastapi", "starlette", "uvicorn", "requests", "httpx"}
OBJECTS = {"fsspec", "s3fs", "gcsfs", "adlfs", "botocore", "aiohttp"}  # stores of them
SLOW = {"dagster", "pandera", "matplotlib", *LEARNING}


def modules() -> dict[str, Path]:
    """The files of the package by their dotted names in it."""
    paths = {path.relative_to(ROOT): path for path in sorted(ROOT.rglob("*.py"))}
    return {
        ".".join(short.with_suffix("").parts): path
        for short, path in paths.items()
        if short != Path("__init__.py")
    }


def imports(path: Path, *, at_start: bool = False) -> set[str]:
    """The dotted names that a file imports; on request only those that loading it imports."""
    found = set()
    for node in _nodes(ast.parse(path.read_text()), at_start=at_start):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _nodes(tree: ast.AST, *, at_start: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if at_start and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_start and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _nodes(node, at_start=at_start)


def ours(names: set[str]) -> set[str]:
    """The parts of this package among imported names, by their first name in it."""
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == ROOT.name and len(part) > 1} & LEVEL.keys()


def level(module: str) -> int:
    return LEVEL[module.partition(".")[0]]


def foreign(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names} - {ROOT.name}


MODULES = modules()


def test_every_module_has_a_layer() -> None:
    assert {name.split(".")[0] for name in MODULES} == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_imports_never_point_up(module: str) -> None:
    above = {name for name in ours(imports(MODULES[module])) if level(name) > level(module)}
    assert above == set()


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        name: ours(imports(path, at_start=True)) - {name}
        for name, path in MODULES.items()
        if "." not in name
    }
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_know_no_platform_and_no_environment(module: str) -> None:
    known = foreign(imports(MODULES[module]))
    assert not {name for name in known if name.startswith("dagster")}
    assert known.isdisjoint(STORES | WEB | {"os", "pydantic_settings", "subprocess", "socket"})


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] in EDGE])
def test_edge_modules_know_no_dagster_and_train_nothing(module: str) -> None:
    known = foreign(imports(MODULES[module]))
    assert not {name for name in known if name.startswith("dagster")}
    assert known.isdisjoint(LEARNING)
    assert not ours(imports(MODULES[module])) & {"forecasting"}


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] in RECORDS])
def test_records_and_files_know_no_models(module: str) -> None:
    assert ours(imports(MODULES[module])) & HEAVY <= {"prices"}  # its types
    assert ours(imports(MODULES[module], at_start=True)).isdisjoint(HEAVY)


def test_promotion_brings_the_database_to_pure_rules_and_nothing_else() -> None:
    known = imports(MODULES["promotion"])
    assert ours(known) <= PURE | {"database"}
    assert foreign(known) == set()


def test_report_draws_and_writes_and_knows_pure_modules_alone() -> None:
    known = imports(MODULES["report"])
    assert foreign(known) - sys.stdlib_module_names == {"matplotlib", "numpy", "pandas"}
    assert ours(known) <= PURE


def test_only_the_report_loads_matplotlib() -> None:
    draws = {name for name, path in MODULES.items() if "matplotlib" in foreign(imports(path))}
    assert draws == {"report"}


@pytest.mark.parametrize("module", [name for name in MODULES if name != "settings"])
def test_the_environment_is_read_in_the_settings_alone(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    read = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "getenv"}
        and module not in {*COMMANDS, "defs.instance", "defs.web"}  # what is Dagster's own
    ]
    assert read == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] in SERVICE])
def test_the_service_reads_the_database_and_asks_dagster_over_http(module: str) -> None:
    known = imports(MODULES[module])
    assert not {name for name in foreign(known) if name.startswith("dagster")}
    assert foreign(known).isdisjoint({"pandas", "numpy", "pyarrow", *LEARNING})
    assert ours(known) <= SERVICE | SERVED


@pytest.mark.parametrize("module", sorted(COMMANDS))
def test_commands_load_dagster_and_learning_only_when_needed(module: str) -> None:
    known = imports(MODULES[module], at_start=True)
    assert not {name for name in foreign(known) if name.startswith("dagster")}
    assert foreign(known).isdisjoint(LEARNING | {"pandera", "matplotlib"})
    assert not ours(known) & (DAGSTER | HEAVY)


@pytest.mark.parametrize(
    ("names", "absent"),
    [
        (sorted(PURE), {"dagster", "matplotlib", *STORES, *WEB}),
        (sorted(RECORDS), SLOW),
        (["promotion"], {"dagster", "pandera", "matplotlib", *WEB}),
        (["report"], {"dagster", "pandera", "pydantic_settings", *STORES, *WEB}),
        (["cli"], SLOW | {"pandas", *WEB}),
        (["cli", "api.server"], SLOW | {"pandas", "numpy", "pyarrow", *OBJECTS}),
    ],
    ids=["pure", "records", "promotion", "report", "cli", "service"],
)
def test_loading_a_layer_leaves_out(names: list[str], absent: set[str]) -> None:
    loads = "; ".join(f"import stock_assets.{name}" for name in names)
    shows = "import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", f"{loads}; {shows}"], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) & absent == set()
