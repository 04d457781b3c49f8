"""Killed anywhere, begun again: the database and the store are what an undisturbed run leaves.

Processes do what somebody types who has files ingested, trained and forecast. They are killed at
moments of every kind and at random times, and whoever comes next goes on without tidying up. The
ordinary suite kills 200 of them, `make soak` a thousand. A failure tells its seed, which is taken
from STOCK_ASSETS_TEST_SEED; it repeats all but those who were killed by time.
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.breaking import STAGES, Ended, Life, Undisturbed, Workshop, digest_of
from tests.conftest import SOAK, empty_database

SEED = int(os.environ.get("STOCK_ASSETS_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
BY_TIME = "any time"
RISK = 0.2  # of letting somebody come through


@dataclass
class Reaper:
    """Who kills, and looks at what is left.

    Attributes:
        shop: Whose processes they are.
        expected: What is left where nobody is killed.
        seed: Of all that is left to chance.
        kills: How many, by the kind of moment.
        lives: How many.
    """

    shop: Workshop
    expected: Undisturbed
    seed: int = SEED
    kills: Counter[str] = field(default_factory=Counter)
    lives: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._survived: list[list[Mapping[str, int]]] = [[] for _ in STAGES]

    def haunt(self, life: Life, most: int) -> None:
        """Kill whoever is at work until somebody comes through, in each stage."""
        self.lives += 1
        before = self.kills.total()
        for stage in range(len(STAGES)):
            while self._strike(life, stage, most).killed:
                self._look(life, stage)
            self.expected.demand_same(life, stage, self._story(stage))
        left = life.leftovers()
        assert len(left) <= self.kills.total() - before
        for path in left:
            os.utime(path, (1, 1))
        self.shop.attempt(life, stage)
        assert life.leftovers() == []

    def _strike(self, life: Life, stage: int, most: int) -> Ended:
        """An attempt to kill; none any more where enough were."""
        undisturbed = self.expected.ended[stage]
        kinds = [BY_TIME, *undisturbed.seen]
        kind = min(kinds, key=lambda kind: (self.kills[kind], self._random.random()))
        number, after = 0, None
        if self.kills.total() >= most:
            kind = ""
        elif kind == BY_TIME:
            after = undisturbed.seconds * self._random.random() ** 2
        else:
            number = self._random.randint(1, self._moments(kind, stage))
        ended = self.shop.attempt(life, stage, kind, number, after=after)
        assert ended.error == "", self._story(stage)
        if ended.killed:
            self.kills[kind] += 1
        else:
            self._survived[stage].append(ended.seen)
        return ended

    def _moments(self, kind: str, stage: int) -> int:
        """How far to go: mostly as far as whoever had the least to do, so that many die."""
        seen = [self.expected.ended[stage].seen, *self._survived[stage]]
        if self._random.random() < RISK:
            seen = seen[:1]
        return max(1, min(moments.get(kind, 0) for moments in seen))

    def _look(self, life: Life, stage: int) -> None:
        """Nothing is there by halves."""
        assert life.files().items() <= self.expected.wholes, self._story(stage)
        assert digest_of(life.rows()) in self.expected.states, self._story(stage)

    def _story(self, stage: int) -> str:
        kills = {kind: number for kind, number in self.kills.items() if number}
        return f"seed {self.seed}, life {self.lives}, stage {stage}, {kills}"


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> str:
    """The address of a PostgreSQL server, or none."""
    postgres = request.param == "postgresql"
    return str(request.getfixturevalue("postgres_url")) if postgres else ""


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(100, id="100 kills"),
        pytest.param(500, id="500 kills", marks=SOAK),
    ],
)
@pytest.mark.timeout(3600)
def test_whoever_is_killed_leaves_what_an_undisturbed_run_leaves(
    shop: Workshop, undisturbed: Undisturbed, in_memory: Path, server: str, kills: int
) -> None:
    reaper = Reaper(shop, undisturbed)
    while reaper.kills.total() < kills:
        url = server and empty_database(server, "killed", "synchronous_commit = off")
        life = Life.begin(in_memory / "killed", url)
        reaper.haunt(life, kills)
        shutil.rmtree(life.home)
    kinds = {BY_TIME}.union(*(ended.seen for ended in undisturbed.ended))
    assert min(reaper.kills[kind] for kind in kinds) > 0, reaper.kills
