"""The drop folder: which files are complete, and their registration as drops."""

import os

from stock_assets.database import Database, Drop
from stock_assets.files import Files
from stock_assets.names import printable
from stock_assets.storage import Store

Seen = dict[str, list[int]]  # size in bytes and time of change in ns, by name

_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".filepart", "~")


def look(files: Files) -> Seen:
    """The files in the drop folder, the oldest first.

    Folders, hidden files and those with the ending of an unfinished one are passed over.
    """
    seen = {
        name: list(state)
        for name, state in files.states().items()
        if not name.startswith(".") and not name.lower().endswith(_UNFINISHED)
    }
    return dict(sorted(seen.items(), key=lambda item: (item[1][1], item[0])))


def complete(now: Seen, before: Seen) -> list[str]:
    """Files that did not change between two looks.

    A file that is still being written changes. One that stood still in the middle of it is taken
    as it is, and again, as a newer drop, when it has gone on.
    """
    return [name for name, state in now.items() if before.get(name) == state]


def register(files: Files, name: str, store: Store, database: Database) -> Drop:
    """Keep a file and note it as a drop; the same bytes are the same drop.

    Raises:
        OSError: The file cannot be read.
        SetupError: A bucket does not answer as it should.
    """
    kept = store.keep_drop(files, name)
    shown = printable(os.fsencode(name).decode(errors="replace"))  # names are bytes, maybe no text
    drop = database.register_drop(kept.key, kept.sha256, shown, kept.size)
    # The same bytes may be known by the name they first came with.
    store.rename_drop(kept.key, drop.key)
    return drop
