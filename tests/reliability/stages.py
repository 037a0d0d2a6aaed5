"""The stages that are killed, each so small that its undisturbed run takes about a second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: Of its run folder.
        command: The arguments of `cli.py` but `--out`; `{NAME}` stands for the folder of another stage.
        killed: Whether it is one of those that are killed; the others only make what these read.
    """

    name: str
    command: str
    killed: bool = True

    def arguments(self, root: Path, out: Path) -> list[str]:
        """Return the arguments of `cli.py` for run folders under `root` and this stage's own at `out`."""
        places = {stage.name: str(root / stage.name) for stage in STAGES}
        return [*(word.format_map(places) for word in self.command.split()), "--out", str(out)]


_ATTACK = "attack pgd-linf --model {train} --eps 0.1 --steps 3 --batch-size 8 --probe 4"
_EVAL = "eval --engine {export} --adversaries {attack} --no-throughput --invariance 2 --gallery 2 --threads 1"

#: In the order in which they need each other.
STAGES = (
    Stage(
        "train",
        "train --data synthetic --model small-cnn --epochs 4 --batch-size 32 --set data.limit_train=128 --lr 0.02 --threads 1",
    ),
    Stage("attack", _ATTACK),
    Stage("attack-1", f"{_ATTACK} --shard 1/2", killed=False),
    Stage("attack-2", f"{_ATTACK} --shard 2/2", killed=False),
    Stage("universal", "attack universal --model {train} --eps 0.2 --steps 60 --batch-size 8 --probe 0 --limit 16"),
    Stage(
        "export",
        "export --model {train} --exporter torchscript --int8-accuracy-drop 0.5 --int8-min-agreement 0.3",
    ),
    Stage("eval", _EVAL),
    Stage("eval-1", f"{_EVAL} --shard 1/2", killed=False),
    Stage("eval-2", f"{_EVAL} --shard 2/2", killed=False),
    Stage(
        "poison",
        "poison --data synthetic --eps 0.2 --generator-width 4 --trials 2 --batch-size 32 --set data.limit_train=96 --victim small-cnn --threads 1",
    ),
    Stage("merge-attack", "merge {attack-1} {attack-2}"),
    Stage("merge-eval", "merge {eval-1} {eval-2}"),
)


def killed_stages() -> Iterator[Stage]:
    """Return the stages that are killed."""
    return (stage for stage in STAGES if stage.killed)
