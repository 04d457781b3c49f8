"""Files of the store that somebody has tampered with: they are refused, and run nothing."""

import ast
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from scipy import sparse
from sklearn.linear_model import LinearRegression
from skops.io._protocol import PROTOCOL
from skops.io.exceptions import UntrustedTypesFoundException

from stock_assets.files import Folder
from stock_assets.models import Artifact, Estimators, PooledRegressor, archive, unarchived
from stock_assets.storage import Store
from tests.conftest import ROOT

State = dict[str, Any]


class Touch:
    """Pickled, it is a command that touches a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (f"touch {self._file}",)


@pytest.fixture
def touched(tmp_path: Path) -> Path:
    """The file that is there if something was run."""
    return tmp_path / "touched"


def node(module: str, name: str, loader: str, **others: object) -> State:
    return {"__module__": module, "__class__": name, "__loader__": loader, **others}


def text(content: object) -> State:
    return node("builtins", "str", "JsonNode", content=json.dumps(content), is_json=True)


def several(*states: State) -> State:
    return node("builtins", "tuple", "TupleNode", content=list(states))


OLD = {"module_path": "os", "function": "system"}  # as the first version of the format says it
SYSTEM = node("os", "system", "FunctionNode", content=OLD)
EMPTY = node("builtins", "dict", "DictNode", content={}, key_types=several())
TRUSTED = ("sklearn.linear_model._base", "LinearRegression")


def hostile(file: Path) -> dict[str, State]:
    """Ways to have a command run, by a file that says what to load."""
    command = text(f"touch {file}")
    pathlib_path = ("pathlib", "PosixPath")
    a_path = node(*pathlib_path, "ConstructorFromReduceNode", content=several(text(str(file))))
    return {
        "constructor": node("os", "system", "ConstructorFromReduceNode", content=several(command)),
        "constructor inside of what is trusted": node(
            *TRUSTED,
            "ObjectNode",
            content=node("os", "system", "ConstructorFromReduceNode", content=several(command)),
        ),
        "operator": node("operator", "call", "OperatorFuncNode", attrs=several(SYSTEM, command)),
        "operator of another module": node(
            "sklearn", "call", "OperatorFuncNode", attrs=several(SYSTEM, command)
        ),
        "partial": node(
            "functools",
            "partial",
            "PartialNode",
            content={"func": SYSTEM, "args": several(command), "kwds": EMPTY, "namespace": EMPTY},
        ),
        "method": node(*pathlib_path, "MethodNode", content={"func": "touch", "obj": a_path}),
        "method of a trusted type": node(
            *TRUSTED, "MethodNode", content={"func": "touch", "obj": a_path}
        ),
        "module": node("hostile_module", "Anything", "TypeNode"),
        "object of a module": node("hostile_module", "Anything", "ObjectNode"),
    }


PICKLES = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
WAYS = list(hostile(Path()))


def skops_file(
    state: State, protocol: int = PROTOCOL, members: Mapping[str, bytes] | None = None
) -> bytes:
    """A skops file with this in a list, in a version of its format, and with other members."""
    original = zipfile.ZipFile(io.BytesIO(skops.io.dumps([None])))
    schema = json.loads(original.read("schema.json"))
    schema |= {"content": [state], "protocol": protocol}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("schema.json", json.dumps(schema))
        for name, content in (members or {}).items():
            file.writestr(name, content)
    return packed.getvalue()


def load_both_ways(content: bytes) -> None:
    """As a ticker's estimators and as the market's, each of which has to refuse it."""
    kept = np.frombuffer(content, np.uint8)
    artifact = archive({"tickers": np.array(["A"]), "mine/Estimators/skops": kept})
    market = archive({"sectors": np.array(["x"]), "skops": kept})
    with pytest.raises((UntrustedTypesFoundException, ValueError)):
        Artifact.load(artifact)
    with pytest.raises((UntrustedTypesFoundException, ValueError)):
        PooledRegressor.from_arrays(unarchived(market))


@pytest.fixture
def _module(touched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that touches the file when it is imported."""
    code = f"open({str(touched)!r}, 'w').close()\nclass Anything: pass"
    (tmp_path / "hostile_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hostile_module", raising=False)


@pytest.mark.usefixtures("_module")
@pytest.mark.parametrize("protocol", range(PROTOCOL + 1))
@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_would_run_something_is_refused(touched: Path, way: str, protocol: int) -> None:
    load_both_ways(skops_file(hostile(touched)[way], protocol))
    assert not touched.exists()


RUN = ["constructor", "operator", "module", "object of a module"]  # others, once they are called


@pytest.mark.usefixtures("_module")
@pytest.mark.parametrize("way", RUN)
def test_it_is_run_where_everything_is_trusted(touched: Path, way: str) -> None:
    content = skops_file(hostile(touched)[way])
    skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content))
    assert touched.exists()


def pickled_array(file: Path) -> bytes:
    written = io.BytesIO()
    np.save(written, np.array([Touch(file)], dtype=object), allow_pickle=True)
    return written.getvalue()


def test_an_array_inside_of_it_holds_no_pickle(touched: Path) -> None:
    state = node("numpy", "ndarray", "NdArrayNode", type="numpy", file="array.npy")
    load_both_ways(skops_file(state, members={"array.npy": pickled_array(touched)}))
    assert not touched.exists()


def test_a_sparse_matrix_inside_of_it_holds_no_pickle(touched: Path) -> None:
    written = io.BytesIO()
    sparse.save_npz(written, sparse.csr_matrix(np.eye(2)))
    hostile_npz = io.BytesIO()
    with zipfile.ZipFile(written) as sound, zipfile.ZipFile(hostile_npz, "w") as file:
        for name in sound.namelist():
            bad = pickled_array(touched) if name == "data.npy" else sound.read(name)
            file.writestr(name, bad)
    state = node(
        "scipy.sparse._csr", "csr_matrix", "SparseMatrixNode", type="scipy", file="matrix.npz"
    )
    load_both_ways(skops_file(state, members={"matrix.npz": hostile_npz.getvalue()}))
    assert not touched.exists()


@pytest.mark.parametrize("kind", ["pickle", "npy", "npz", "zip"])
def test_an_artifact_that_is_a_pickle_is_refused(touched: Path, kind: str) -> None:
    file = io.BytesIO()
    np.savez(file, tickers=np.array([Touch(touched)], dtype=object))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archived:
        archived.writestr("tickers.npy", pickle.dumps(Touch(touched)))
    content = {
        "pickle": pickle.dumps(Touch(touched)),
        "npy": pickled_array(touched),
        "npz": file.getvalue(),
        "zip": packed.getvalue(),
    }[kind]
    with pytest.raises((ValueError, TypeError, AttributeError)):
        Artifact.load(content)
    assert not touched.exists()


def test_pickles_of_these_tests_run_something(touched: Path) -> None:
    np.load(io.BytesIO(pickled_array(touched)), allow_pickle=True)
    assert touched.exists()


# Feature tables


def test_a_feature_table_runs_nothing_of_its_metadata(tmp_path: Path, touched: Path) -> None:
    hostile_type = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Touch(touched)),
    }
    field = pa.field("close", pa.float64(), metadata=hostile_type)
    schema = pa.schema([pa.field("ticker", pa.string()), field], metadata={b"pandas": b"{}"})
    store = Store(Folder(tmp_path / "store"))
    store.write_features(pd.DataFrame({"ticker": ["A"], "close": [1.0]}))
    (file,) = (tmp_path / "store" / "features").iterdir()
    pq.write_table(pa.table({"ticker": ["A"], "close": [2.0]}, schema=schema), file)
    assert store.read_features(["A"])["close"].tolist() == [2.0]
    assert not touched.exists()


@pytest.mark.parametrize("content", [b"", b"PAR1", pickle.dumps({}), b"ARROW1\0\0" + b"\0" * 64])
def test_a_feature_table_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    store = Store(Folder(tmp_path / "store"))
    store.write_features(pd.DataFrame({"ticker": ["A"], "close": [1.0]}))
    (file,) = (tmp_path / "store" / "features").iterdir()
    file.write_bytes(content)
    with pytest.raises(pa.ArrowInvalid):
        store.read_features(["A"])


def test_sound_estimators_are_loaded_all_the_same() -> None:
    fitted = LinearRegression().fit(np.eye(3), np.eye(3))
    kept = np.frombuffer(skops.io.dumps([fitted]), np.uint8)
    content = archive({"tickers": np.array(["A"]), "mine/Estimators/skops": kept})
    loaded = Artifact.load(content).fitted["mine"]
    assert isinstance(loaded, Estimators)
    told = loaded.fitted[0].predict(np.eye(3))
    np.testing.assert_array_equal(told, fitted.predict(np.eye(3)))


def test_nothing_of_ours_reads_pickles() -> None:
    for path in (ROOT / "stock_assets").rglob("*.py"):
        for found in ast.walk(ast.parse(path.read_text())):
            if isinstance(found, ast.Import | ast.ImportFrom):
                named = [alias.name for alias in found.names]
                named.append(getattr(found, "module", None) or "")
                assert not {name.partition(".")[0] for name in named} & PICKLES, path
