"""Memory: what was read is told again, until somebody wrote to the database."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import pytest
from anyio.to_thread import run_sync

from stock_assets.api import memory
from stock_assets.api.memory import Memory


@dataclass
class Shelf:
    """A database, whose reads and counts take as long as the test wants."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys("abcdef", 1))
    writes: int = 0
    reads: list[set[str]] = field(default_factory=list)
    looks: int = 0
    fails: bool = False
    pauses: bool = False
    begun: Event = field(default_factory=Event)
    goes_on: Event = field(default_factory=Event)

    def count(self) -> int:
        """How many writes there were."""
        self.looks += 1
        return self.writes

    def read(self, keys: Collection[str]) -> dict[str, int]:
        """The rows, as they are when it begins."""
        self.reads.append({*keys})
        found, fails = {key: self.rows[key] for key in keys if key in self.rows}, self.fails
        self.pause()
        if fails:
            raise OSError("no shelf")
        return found

    def pause(self) -> None:
        """Wait in the middle of it, once the test has said so."""
        if self.pauses:
            self.begun.set()
            assert self.goes_on.wait(10)

    def write(self, **rows: int) -> None:
        """Change rows, as the platform does."""
        self.rows |= rows
        self.writes += 1

    async def in_the_middle(self) -> None:
        """Wait until it pauses."""
        assert await run_sync(self.begun.wait, 10)
        self.begun.clear()

    def go_on(self) -> None:
        """End the pause."""
        self.pauses = False
        self.goes_on.set()


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def known(shelf: Shelf) -> Memory[str, int]:
    return Memory(shelf.count, shelf.read)


@pytest.fixture
def looks_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOK_EVERY_SECONDS", -1)


@pytest.fixture
def looks_never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOK_EVERY_SECONDS", 3600)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


async def turns() -> None:
    """Let every task go as far as it gets without a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


def together(known: Memory[str, int], *keys: str) -> list[asyncio.Task[dict[str, int]]]:
    """Asked at once, one letter a key."""
    return [asyncio.create_task(known.get(some)) for some in keys]


# Remembering


def test_what_was_read_is_remembered(shelf: Shelf, known: Memory[str, int]) -> None:
    async def test() -> None:
        assert await known.get("ab") == {"a": 1, "b": 1}
        assert await known.get("ba") == {"a": 1, "b": 1}
        assert await known.get("abc") == {"a": 1, "b": 1, "c": 1}
        assert await known.get("aab") == {"a": 1, "b": 1}
        assert await known.get("") == {}

    run(test())
    assert shelf.reads == [{"a", "b"}, {"c"}]


@pytest.mark.usefixtures("looks_always")
def test_it_is_read_again_when_somebody_wrote(shelf: Shelf, known: Memory[str, int]) -> None:
    async def test() -> None:
        assert await known.get("a") == {"a": 1}
        shelf.write(a=2)
        assert await known.get("a") == await known.get("a") == {"a": 2}

    run(test())
    assert len(shelf.reads) == 2


def test_the_count_is_not_looked_at_more_often_than_needed(
    shelf: Shelf, known: Memory[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        monkeypatch.setattr(memory, "LOOK_EVERY_SECONDS", 3600)
        await asyncio.gather(*together(known, *"abcdef"))
        await known.get("a")
        assert shelf.looks == 1
        monkeypatch.setattr(memory, "LOOK_EVERY_SECONDS", -1)
        await known.get("a")
        assert shelf.looks == 2

    run(test())


@pytest.mark.usefixtures("looks_never_by_itself")
def test_who_doubts_has_it_looked_at_at_once(shelf: Shelf, known: Memory[str, int]) -> None:
    async def test() -> None:
        assert await known.get("a") == {"a": 1}
        shelf.write(a=2)
        assert await known.get("a") == {"a": 1}
        known.doubt()
        assert await known.get("a") == {"a": 2}
        assert await known.get("a") == {"a": 2}

    run(test())
    assert shelf.looks == 2


@pytest.mark.usefixtures("looks_never_by_itself")
def test_a_doubt_that_comes_during_a_look_counts(shelf: Shelf, known: Memory[str, int]) -> None:
    def count() -> int:
        found = shelf.count()
        shelf.pause()
        return found

    known.count = count

    async def test() -> None:
        assert await known.get("a") == {"a": 1}
        known.doubt()
        shelf.pauses = True
        (early,) = together(known, "a")
        await shelf.in_the_middle()
        shelf.write(a=2)
        known.doubt()
        shelf.go_on()
        assert await early == {"a": 1}
        assert await known.get("a") == {"a": 2}

    run(test())


@pytest.mark.usefixtures("looks_always")
def test_it_is_forgotten_after_a_while(
    shelf: Shelf, known: Memory[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        assert await known.get("a") == {"a": 1}
        shelf.rows["a"] = 2  # past the platform
        assert await known.get("a") == {"a": 1}
        monkeypatch.setattr(memory, "FORGET_AFTER_SECONDS", -1)
        assert await known.get("a") == {"a": 2}

    run(test())


def test_no_more_than_a_bound_is_remembered(
    shelf: Shelf, known: Memory[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MOST", 3)

    async def test() -> None:
        for keys in ("ab", "c", "de", "d", "f", "a"):
            assert await known.get(keys) == dict.fromkeys(keys, 1)
            assert len(known._known) <= 3

    run(test())
    assert shelf.reads == [{"a", "b"}, {"c"}, {"d", "e"}, {"f"}, {"a"}]


def test_what_is_not_there_is_not_remembered(shelf: Shelf, known: Memory[str, int]) -> None:
    async def test() -> None:
        assert await known.get("ax") == {"a": 1}
        assert await known.get("x") == {}
        shelf.rows["x"] = 5
        assert await known.get("ax") == {"a": 1, "x": 5}

    run(test())
    assert shelf.reads == [{"a", "x"}, {"x"}, {"x"}]


# Reading together


def test_what_is_asked_for_during_a_read_is_read_at_once_after_it(
    shelf: Shelf, known: Memory[str, int]
) -> None:
    async def test() -> None:
        shelf.pauses = True
        first = together(known, "a")
        await shelf.in_the_middle()
        later = together(known, "b", "bc", "d", "a")
        await turns()
        shelf.go_on()
        assert await asyncio.gather(*first, *later) == [
            *({"a": 1}, {"b": 1}, {"b": 1, "c": 1}, {"d": 1}, {"a": 1})
        ]

    run(test())
    assert shelf.reads == [{"a"}, {"a", "b", "c", "d"}]


@pytest.mark.usefixtures("looks_always")
def test_what_is_asked_for_after_a_write_is_never_answered_from_before_it(
    shelf: Shelf, known: Memory[str, int]
) -> None:
    async def test() -> None:
        shelf.pauses = True
        early = together(known, "a")
        await shelf.in_the_middle()
        shelf.write(a=2)
        late = together(known, "a")
        await turns()
        shelf.go_on()
        assert await asyncio.gather(*early, *late) == [{"a": 1}, {"a": 2}]
        assert await known.get("a") == {"a": 2}

    run(test())


@pytest.mark.usefixtures("looks_always")
def test_what_was_read_before_a_write_is_not_remembered_after_it(
    shelf: Shelf, known: Memory[str, int]
) -> None:
    async def test() -> None:
        await known.get("b")
        shelf.pauses = True
        (early,) = together(known, "a")
        await shelf.in_the_middle()
        shelf.write(a=2)
        assert await known.get("") == {}  # by which the write is known
        shelf.go_on()
        assert await early == {"a": 1}
        assert await known.get("a") == {"a": 2}

    run(test())


# Errors


def test_an_error_reaches_all_who_wait_and_is_not_remembered(
    shelf: Shelf, known: Memory[str, int]
) -> None:
    async def test() -> None:
        await known.get("")
        shelf.fails = True
        told = await asyncio.gather(*together(known, "a", "ab", "c"), return_exceptions=True)
        assert [str(error) for error in told] == ["no shelf"] * 3
        shelf.fails = False
        assert await known.get("abc") == {"a": 1, "b": 1, "c": 1}

    run(test())
    assert shelf.reads == [{"a", "b", "c"}] * 2


@pytest.mark.parametrize("failing", ["early", "late"])
def test_an_error_is_told_to_those_of_one_read_alone(
    shelf: Shelf, known: Memory[str, int], failing: str
) -> None:
    async def test() -> None:
        shelf.pauses, shelf.fails = True, failing == "early"
        (early,) = together(known, "a")
        await shelf.in_the_middle()
        (late,) = together(known, "b")
        await turns()
        shelf.fails = failing == "late"
        shelf.go_on()
        told = await asyncio.gather(early, late, return_exceptions=True)
        assert [str(one) for one in told] == (
            ["no shelf", "{'b': 1}"] if failing == "early" else ["{'a': 1}", "no shelf"]
        )
        shelf.fails = False
        assert await known.get("ab") == {"a": 1, "b": 1}

    run(test())


def test_a_count_that_fails_is_told_and_looked_at_again(
    shelf: Shelf, known: Memory[str, int]
) -> None:
    def fail() -> int:
        raise OSError("no count")

    async def test() -> None:
        known.count = fail
        for _ in range(2):
            with pytest.raises(OSError, match="no count"):
                await known.get("a")
        known.count = shelf.count
        assert await known.get("a") == {"a": 1}

    run(test())


# Callers who leave


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leaving", [["first"], ["second"], ["first", "second"], ["last"]])
def test_who_leaves_takes_nothing_from_the_others(
    shelf: Shelf, known: Memory[str, int], leaving: list[str]
) -> None:
    async def test() -> None:
        shelf.pauses = True
        waiting = {"first": together(known, "a")[0]}
        await shelf.in_the_middle()
        waiting |= zip(("second", "third", "last"), together(known, "b", "bc", "d"), strict=True)
        await turns()
        for name in leaving:
            await leave(waiting.pop(name))
        shelf.go_on()
        told = await asyncio.gather(*waiting.values())
        assert [len(answer) for answer in told] == [2 if n == "third" else 1 for n in waiting]
        assert await known.get("abcd") == dict.fromkeys("abcd", 1)

    run(test())


def test_when_all_have_left_the_next_is_answered(shelf: Shelf, known: Memory[str, int]) -> None:
    async def test() -> None:
        shelf.pauses = shelf.fails = True
        (first,) = together(known, "a")
        await turns()
        await leave(first)
        shelf.fails = False
        shelf.go_on()
        assert await known.get("a") == {"a": 1}

    run(test())


def test_who_leaves_while_the_count_is_looked_at_holds_up_nobody(
    shelf: Shelf, known: Memory[str, int]
) -> None:
    def count() -> int:
        shelf.pause()
        return shelf.count()

    known.count = count

    async def test() -> None:
        shelf.pauses = True
        first, second = together(known, "a", "b")
        await shelf.in_the_middle()
        await leave(first)
        shelf.go_on()
        assert await second == {"b": 1}

    run(test())


# All at once


def test_readers_never_see_less_than_what_was_written_before_they_asked(
    shelf: Shelf, known: Memory[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "LOOK_EVERY_SECONDS", -1)
    shelf.rows["a"] = 0

    async def write(ask: Callable[[], Awaitable[None]]) -> None:
        for n in range(1, 100):
            await run_sync(lambda n=n: shelf.write(a=n))  # type: ignore[misc]
            await ask()

    async def ask() -> None:
        before = shelf.rows["a"]
        assert (await known.get("ab"))["a"] >= before

    async def reader() -> None:
        for _ in range(200):
            await ask()

    async def test() -> None:
        await asyncio.gather(write(ask), *(reader() for _ in range(10)))
        assert await known.get("a") == {"a": 99}

    run(test())
