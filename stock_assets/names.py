"""Names of drops, and of tickers that somebody may have meant."""

import difflib
import re
from collections.abc import Sequence


def drop_key(file_name: str, sha256: str) -> str:
    """A drop's partition key: the start of its file's name and of its digest.

    It has only characters that are safe in paths, addresses and partition keys.
    """
    stem = file_name.removesuffix(".gz").removesuffix(".csv")
    slug = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-")[:40].rstrip("-") or "drop"
    return f"{slug}-{sha256[:12]}"


def no_prices(ticker: str, known: Sequence[str]) -> str:
    """What to tell somebody who asked for a ticker that has no prices."""
    near = ", ".join(difflib.get_close_matches(ticker, known, n=3, cutoff=0.4))
    return f"No prices of {ticker}." + (f" Did you mean {near}?" if near else "")
