"""The benchmark measures what it says, on a market small enough for the suite."""

from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import markets
from tests.conftest import SOAK

pytestmark = list(SOAK)
SMALL = bench.Plan(
    rounds={4: 1},
    with_script=(4,),
    daily=(3, 1),
    shared=(4, 2),
    weeks=("2019-01-02", "2019-01-10"),
    served=(3, 1),
)


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(markets, "is_real", lambda: False)
    path = tmp_path / "README.md"
    path.write_text(f"before\n\n{bench.BEGIN}\nan old table\n{bench.END}\n\nafter\n")
    bench.main(SMALL, path)
    return path.read_text()


@pytest.mark.timeout(900)  # a busy machine takes its time
def test_benchmark_writes_its_tables_between_the_marks(readme: str) -> None:
    assert readme.startswith(f"before\n\n{bench.BEGIN}\n")
    assert readme.endswith(f"{bench.END}\n\nafter\n")
    assert "an old table" not in readme
