"""Names of drops, and of tickers that somebody may have meant."""

import difflib
import re
from collections.abc import Sequence


def drop_key(file_name: str, sha256: str) -> str:
    """A drop's partition key: the start of its file's name and of its digest.

    It has only characters that are safe in paths, addresses and partition keys, 64 at most. Nobody
    finds two files with the same one: of 12 digits that takes seconds.
    """
    stem = file_name.removesuffix(".gz").removesuffix(".csv")
    slug = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[:31].rstrip("-") or "drop"
    return f"{slug}-{sha256[:32]}"


def printable(name: str) -> str:
    """A name as it is shown: without what a terminal or a reader could be misled by."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)


def no_prices(ticker: str, known: Sequence[str]) -> str:
    """What to tell somebody who asked for a ticker that has no prices."""
    near = ", ".join(difflib.get_close_matches(ticker, known, n=3, cutoff=0.4))
    return f"No prices of {ticker}." + (f" Did you mean {near}?" if near else "")
