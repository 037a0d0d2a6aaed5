"""The long run: `python -m tests.fuzzing.long --inputs 100000 --write FILE.json`; exit status 1 when it finds anything.

An input can be made again from its reader and number: `python -m tests.fuzzing.long --reader npz --again 4711`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fuzzing.readers import READERS
from tests.fuzzing.running import Reader, hunt, make_input


def chosen(names: Sequence[str]) -> list[Reader]:
    """Return the readers of these names, all where there are none."""
    from tests.fuzzing.torch_readers import TORCH_READERS

    return [reader for reader in (*READERS, *TORCH_READERS) if not names or reader.name in names]


def again(reader: Reader, number: int) -> None:
    """Read one input without catching anything, and leave it in a file."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = list(reader.seeds(Path(folder)))
        data = make_input(reader, seeds, number)
        Path(f"{reader.name}-{number}.bin").write_bytes(data)
        reader.read(data, Path(folder))


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="of each reader (default: 100,000)")
    parser.add_argument("--reader", action="append", default=[], help="only this one; repeatable")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--again", type=int, help="read the input of this number, and leave it in a file")
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    readers = chosen(options.reader)
    if options.again is not None:
        again(readers[0], options.again)
        return 0
    figures: list[dict[str, Any]] = []
    for reader in readers:
        finds, rate = hunt(reader, inputs=options.inputs, first=options.first)
        print(f"{reader.name}: {options.inputs} inputs, {rate:.0f} a second, {len(finds)} finds", flush=True)
        for find in finds:
            print(f"  {find.number}: {find.what} [{find.where}]", flush=True)
        figures.append(
            {"reader": reader.name, "inputs": options.inputs, "rate": round(rate), "finds": [asdict(f) for f in finds]}
        )
        if options.write:
            options.write.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(any(each["finds"] for each in figures))


if __name__ == "__main__":
    sys.exit(main())
