"""Run readers on damaged files: each input is made again from its number, and only `ToolkitError`s may come out.

What counts as a find: any other exception, an error of several lines or of more than 4,000 letters, over a second of
processor time, over `MEMORY` bytes beyond what reading the whole files took, or the end of the process.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_longlong
from dataclasses import asdict, dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from edgeproof.errors import ToolkitError
from tests.fuzzing.mutation import Mutate, mutate_bytes

SECONDS = 1.0
MEMORY = 512 * 2**20
_LONGEST_MESSAGE = 4000
_STALLED = 60  # seconds of wall time without a new input, for what waits without working
_BEGINNING = 120  # seconds in which a child has read the whole files, its imports included
_MOST_FINDS = 12  # of one reader; more would be the same again
_MOST_DEATHS = 3  # of one reader's children, each of which may stand still for a minute
_NOT_BEGUN = -1  # what a child has reached before it has read the whole files


@dataclass(frozen=True)
class Reader:
    """What reads one kind of file.

    Attributes:
        name: On the command line.
        seeds: Makes whole files; it is given a folder that stays.
        read: Puts bytes where a user would have them, in that folder, and reads them.
        mutate: Damages a file in a way that knows its format.
        needs: Packages without which it is left out.
    """

    name: str
    seeds: Callable[[Path], Sequence[bytes]]
    read: Callable[[bytes, Path], object]
    mutate: Mutate = mutate_bytes
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Find:
    """An input that a reader did not take as it should."""

    reader: str
    number: int
    what: str
    where: str


class _TooLongError(BaseException):
    """No `except Exception` catches it."""


def make_input(reader: Reader, seeds: Sequence[bytes], number: int) -> bytes:
    """Return the input of this number: half of them damaged with knowledge of the format, the rest blindly."""
    dice = random.Random(f"{reader.name} {number}")
    data, kind = dice.choice(seeds), dice.random()
    if kind < 0.6:
        return reader.mutate(data, dice)
    if kind < 0.9:
        return mutate_bytes(data, dice)
    if kind < 0.95:
        other = dice.choice(seeds)
        return data[: dice.randrange(len(data) + 1)] + other[dice.randrange(len(other) + 1) :]
    return dice.randbytes(dice.choice((0, 1, 16, 300)))


def whole_files(reader: Reader, place: Path) -> list[bytes]:
    """Return the seeds, each read once: one that is refused would test nothing, and raises here."""
    seeds = list(reader.seeds(place))
    for data in seeds:
        reader.read(data, place)
    return seeds


def check(reader: Reader, data: bytes, folder: Path, *, number: int = -1) -> Find | None:
    """Read one input and return what is wrong with how that went."""
    what, where = "", ""
    try:
        with _time_limit(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(data, folder)
    except ToolkitError as error:
        text = str(error)
        if "\n" in text or len(text) > _LONGEST_MESSAGE:
            what = f"a message of {len(text.splitlines())} lines and {len(text)} letters: {text[:200]!r}"
            where = _innermost(error)
    except _TooLongError as error:
        what, where = f"over {SECONDS:g} s of processor time", _innermost(error)
    except Exception as error:
        what, where = f"{type(error).__name__}: {str(error)[:200]}", _innermost(error)
    return Find(reader.name, number, what, where) if what else None


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _innermost(error: BaseException) -> str:
    """Return where in our own code it was."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "tests/fuzzing" not in frame.filename]
    own = [frame for frame in frames if "/toolkit/" in frame.filename or "/export/" in frame.filename] or frames[-1:]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"


def hunt(reader: Reader, *, inputs: int, first: int = 0) -> tuple[list[Find], float]:
    """Run a reader of the tables on so many inputs, in children that may die; return what was found, and inputs a second.

    The children are fresh processes, not forks: torch's threads do not live in a fork, and what waits for them never ends.

    Args:
        reader: The reader.
        inputs: How many.
        first: Number of the first.

    Raises:
        RuntimeError: When a whole file is refused, or not read in time.
    """
    finds: list[Find] = []
    began, number, last = time.monotonic(), first, first + inputs
    while number < last and len(_distinct(finds)) < _MOST_FINDS and _deaths(finds) < _MOST_DEATHS:
        with tempfile.TemporaryDirectory(dir=_memory_folder()) as place:
            number = _in_child(reader, Path(place), number, last, finds)
    return _distinct(finds), (number - first) / (time.monotonic() - began)


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _deaths(finds: Sequence[Find]) -> int:
    return sum(find.where == "the process" for find in finds)


def _distinct(finds: Sequence[Find]) -> list[Find]:
    return list({(find.where, find.what.partition(":")[0]): find for find in reversed(finds)}.values())[::-1]


def _in_child(reader: Reader, place: Path, number: int, last: int, finds: list[Find]) -> int:
    """Run a child until it is through or dead; return the number to go on with."""
    context, log = multiprocessing.get_context("spawn"), place / "finds"
    reached = context.Value("q", _NOT_BEGUN, lock=False)
    child = context.Process(target=_be_the_child, args=(reader.name, place, number, last, reached, log))
    child.start()
    status = _watch(child, reached)
    if log.exists():
        finds += [Find(**json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]
    if reached.value == _NOT_BEGUN:
        how = f"was not read in {_BEGINNING} s" if status == -signal.SIGKILL else "is refused; see above"
        raise RuntimeError(f"{reader.name}: a whole file {how}")
    if status:
        how = "no progress" if status == -signal.SIGKILL else f"the process ended with {status}"
        finds.append(Find(reader.name, reached.value, how, "the process"))
        return reached.value + 1
    return reached.value


def _watch(child: SpawnProcess, reached: c_longlong) -> int:
    """Wait for a child; kill it when it stands still."""
    seen, since, nap = reached.value, time.monotonic(), 0.001
    while True:
        child.join(nap)
        if child.exitcode is not None:
            return child.exitcode
        nap = min(0.5, nap * 2)
        if reached.value != seen:
            seen, since = reached.value, time.monotonic()
        elif time.monotonic() - since > (_BEGINNING if seen == _NOT_BEGUN else _STALLED):
            child.kill()


def _be_the_child(name: str, place: Path, number: int, last: int, reached: c_longlong, log: Path) -> None:
    from tests.fuzzing.long import chosen  # it imports this module; the readers themselves cannot be pickled

    (reader,) = chosen([name])
    seeds = whole_files(reader, place)
    reached.value = number
    _limit_memory()
    _silence()
    found = 0
    with log.open("a", encoding="utf-8") as file:
        while number < last and found < 10 * _MOST_FINDS:
            reached.value = number
            peak = _peak()
            find = check(reader, make_input(reader, seeds, number), place, number=number)
            if not find and (grown := _peak() - peak) > MEMORY:
                find = Find(reader.name, number, f"{grown} bytes of memory", "?")
            if find:
                found += 1
                file.write(json.dumps(asdict(find)) + "\n")
                file.flush()
            number += 1
    reached.value = last if found >= 10 * _MOST_FINDS else number


def _peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _limit_memory() -> None:
    """Let an allocation far beyond the limit fail, so that the machine does not."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    allowed = pages * resource.getpagesize() + 4 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _silence() -> None:
    """Send what libraries print to nowhere: a hundred thousand refusals are no news."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
