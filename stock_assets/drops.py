"""The drop folder: which files are complete, and their registration as drops."""

import os
from pathlib import Path

from stock_assets.database import Database, Drop
from stock_assets.storage import Store

Files = dict[str, list[int]]  # size in bytes and time of change in ns, by name

_UNFINISHED = (".tmp", ".part", ".partial", ".crdownload", ".filepart", "~")


def look(folder: Path) -> Files:
    """The files in the drop folder, the oldest first.

    Folders, hidden files and those with the ending of an unfinished one are passed over.
    """
    files = {}
    for path in folder.iterdir():
        if not path.name.startswith(".") and not path.name.lower().endswith(_UNFINISHED):
            try:
                stat = path.stat()
            except OSError:  # renamed or removed since it was listed, or a link to nothing
                continue
            if path.is_file():
                files[path.name] = [stat.st_size, stat.st_mtime_ns]
    return dict(sorted(files.items(), key=lambda item: (item[1][1], item[0])))


def complete(now: Files, before: Files) -> list[str]:
    """Files that did not change between two looks.

    A file that is still being written changes. One that stood still in the middle of it is taken
    as it is, and again, as a newer drop, when it has gone on.
    """
    return [name for name, state in now.items() if before.get(name) == state]


def register(file: Path, store: Store, database: Database) -> Drop:
    """Keep a file and note it as a drop; the same bytes are the same drop.

    Raises:
        OSError: The file cannot be read.
    """
    kept = store.keep_drop(file)
    name = os.fsencode(file.name).decode(errors="replace")  # names are bytes, and may be no text
    drop = database.register_drop(kept.key, kept.sha256, name, kept.size)
    # The same bytes may be known by the name they first came with.
    store.drop_path(kept.key).replace(store.drop_path(drop.key))
    return drop
