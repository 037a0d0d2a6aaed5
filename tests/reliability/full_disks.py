"""Run every stage on a disk that fills up at another place each time, make room, and hold the result to an undisturbed one.

    python -m tests.reliability.full_disks --sizes 20

The disk is a tmpfs of its own, so that this needs the right to mount one (root, or a user namespace).
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.reliability.children import command, preload, run_child
from tests.reliability.kills import differences, prepare, snapshot
from tests.reliability.stages import Stage, killed_stages

_PAGE = 4096


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a tmpfs.

    Raises:
        PermissionError: When this process may not.
    """
    place.mkdir(exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        raise PermissionError(made.stderr.decode(errors="replace").strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False)


def resize(place: Path, size: int) -> None:
    """Give a mounted tmpfs another size in bytes."""
    subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)


def _empty(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill_disks(stage: Stage, root: Path, disk: Path, *, sizes: int) -> tuple[int, list[str]]:
    """Run one stage on so many sizes of disk; return on how many it ran out of space, and what was not as it should be."""
    out, log = disk / stage.name, root / f"{stage.name}.log"
    work = command(stage.arguments(root, out))
    resize(disk, 64 * 2**20)
    _empty(disk)  # what an earlier stage left counts too, and a tmpfs gets no smaller than what it holds
    whole = run_child(work, watched=out, log=log)
    assert whole.status == 0, log.read_text(encoding="utf-8")
    expected = snapshot(out)
    most = sum(len(content) + _PAGE for content in expected.values())
    full, wrong = 0, []
    for number in range(sizes):
        _empty(disk)
        size = _PAGE * (3 + round((most / _PAGE) * number / sizes))
        resize(disk, size)
        log.write_text("", encoding="utf-8")
        status = run_child(work, watched=out, log=log).status
        said = log.read_text(encoding="utf-8")
        resize(disk, 64 * 2**20)
        if status == 0:
            continue
        full += 1
        last = said.strip().splitlines()[-1]
        if status != 2 or "No space left on device" not in last or "the same command continues" not in last:
            wrong.append(f"{size} bytes: status {status}, {said.strip()[-300:]!r}")
        again = run_child(work, watched=out, log=log).status
        if again:
            wrong.append(f"{size} bytes: status {again} afterwards")
        else:
            wrong += [f"{size} bytes: {each}" for each in differences(expected, snapshot(out))]
    return full, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; exit status 1 when anything differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, default=20, help="sizes of disk for each stage (default: 20)")
    parser.add_argument("--stage", action="append", default=[], help="only this one; repeatable")
    options = parser.parse_args(arguments)
    preload()
    wanted = [stage for stage in killed_stages() if not options.stage or stage.name in options.stage]
    bad = False
    with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "disk") as disk:
        root = Path(folder)
        prepare(root, wanted)
        for stage in wanted:
            full, wrong = fill_disks(stage, root, disk, sizes=options.sizes)
            print(
                f"{stage.name}: full on {full} of {options.sizes} sizes, {len(wrong)} wrong",
                *wrong[:10],
                sep="\n  ",
                flush=True,
            )
            bad = bad or bool(wrong)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
