"""Repeats inputs of a reader: ``python -m tests.hostile READER NUMBER [LAST]``."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import trimtab
from framework.command.known_classes import all_classes
from tests.hostile.corpus import prepare, recipe, run
from tests.hostile.readers import READERS


def main() -> None:
    name, first, *last = sys.argv[1:]
    trimtab.import_configurable_classes()
    # a message may name any class, and the first imports them
    all_classes()
    reader = READERS[name]
    numbers = range(int(first), int(last[0]) + 1 if last else int(first) + 1)
    faults = run(reader, numbers)
    print(recipe(reader, faults[:200]))
    print(Counter(fault.kind for fault in faults), "of", len(numbers))
    if len(numbers) == 1 and not any(fault.kind in ("hang", "crash") for fault in faults):
        folder = Path(tempfile.mkdtemp(prefix="hostile-"))
        os.chdir(folder)
        call = prepare(reader, folder)(numbers[0])
        print("input:", folder)
        try:
            print("returned", repr(call())[:500])
        except Exception:
            traceback.print_exc()


if __name__ == "__main__":
    main()
