"""Killed anywhere, begun again: the database and the store are what an undisturbed run leaves.

Processes do what somebody types who has files ingested, trained and forecast, or what sensors and
daemons do by themselves. They are killed at moments of every kind and at random times, and whoever
comes next goes on without tidying up. The ordinary suite kills 200 of them, `make soak` a thousand.
A failure tells its seed, which is taken from STOCK_ASSETS_TEST_SEED; it repeats all but those who
were killed by time.
"""

import logging
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.breaking import (
    STAGES,
    Ended,
    Life,
    Undisturbed,
    Workshop,
    by_hand,
    by_itself,
    digest_of,
)
from tests.conftest import SOAK, empty_database

SEED = int(os.environ.get("STOCK_ASSETS_TEST_SEED", random.SystemRandom().randrange(1 << 32)))
BY_TIME = "any time"
LOG = logging.getLogger(__name__)
MOST_OF_A_STAGE = 16
RISK = 0.1  # that somebody comes through


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
        for stage in range(len(self.expected.rows)):
            enough = min(most, self.kills.total() + MOST_OF_A_STAGE)
            while self._strike(life, stage, enough).killed:
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
            number = self._moment(kind, stage)
        ended = self.shop.attempt(life, stage, kind, number, after=after)
        assert ended.error == "", self._story(stage)
        if ended.killed:
            self.kills[kind] += 1
        else:
            self._survived[stage].append(ended.seen)
        return ended

    def _moment(self, kind: str, stage: int) -> int:
        """Which moment of a kind: any of them now and then, else one that whoever is left comes to.

        Whoever had the least to do until now tells how far that is.
        """
        seen = [self.expected.ended[stage].seen, *self._survived[stage]]
        if self._random.random() < RISK:
            return self._random.randint(1, seen[0][kind])
        fewest = min(moments.get(kind, 0) for moments in seen)
        return 1 + int(fewest * self._random.random() ** 2)

    def _look(self, life: Life, stage: int) -> None:
        """Nothing is there by halves."""
        assert life.files().items() <= self.expected.wholes, self._story(stage)
        assert digest_of(life.rows()) in self.expected.states, self._story(stage)

    def _story(self, stage: int) -> str:
        kills = {kind: number for kind, number in self.kills.items() if number}
        return f"seed {self.seed}, life {self.lives}, stage {stage}, {kills}"


Haunt = Callable[[Undisturbed, Callable[[int], None], str, int], Counter[str]]


@pytest.fixture
def haunt(request: pytest.FixtureRequest, shop: Workshop, in_memory: Path) -> Haunt:
    """Has one life after the other haunted, until so many are killed; how, is returned."""

    def haunted(
        undisturbed: Undisturbed, way: Callable[[int], None], database: str, kills: int
    ) -> Counter[str]:
        server = request.getfixturevalue("postgres_url") if database == "postgresql" else ""
        reaper = Reaper(shop, undisturbed)
        while reaper.kills.total() < kills:
            url = server and empty_database(server, "killed", "synchronous_commit = off")
            life = Life.begin(in_memory / "killed", url, way)
            reaper.haunt(life, kills)
            shutil.rmtree(life.home)
        LOG.info("%d of %s on %s: %s", kills, way.__name__, database, dict(reaper.kills))
        return reaper.kills

    return haunted


@pytest.mark.parametrize(
    ("database", "kills"),
    [
        ("sqlite", 156),
        ("postgresql", 32),
        pytest.param("sqlite", 400, marks=SOAK),
        pytest.param("postgresql", 400, marks=SOAK),
    ],
)
@pytest.mark.timeout(3600)
def test_whoever_is_killed_at_a_command_leaves_what_an_undisturbed_one_leaves(
    haunt: Haunt, undisturbed: Undisturbed, database: str, kills: int
) -> None:
    killed = haunt(undisturbed, by_hand, database, kills)
    kinds = {BY_TIME}.union(*(ended.seen for ended in undisturbed.ended))
    assert min(killed[kind] for kind in kinds) > 0, killed


@pytest.mark.parametrize(
    ("database", "kills"),
    [
        ("sqlite", 12),
        pytest.param("sqlite", 100, marks=SOAK),
        pytest.param("postgresql", 100, marks=SOAK),
    ],
)
@pytest.mark.timeout(3600)
def test_sensors_and_runs_that_are_killed_leave_what_undisturbed_ones_leave(
    haunt: Haunt, shop: Workshop, in_memory: Path, database: str, kills: int
) -> None:
    life = Life.begin(in_memory / f"undisturbed itself {database} {kills}", way=by_itself)
    haunt(Undisturbed.of(shop, life, stages=2), by_itself, database, kills)
