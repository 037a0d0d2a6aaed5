"""The common parts of the measuring jobs of studies: trained networks and their graphs opened as engines, and test images attacked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeproof.data.base import LabelledImages
from edgeproof.engines.base import Engine, EngineOptions, open_engine
from edgeproof.runs import Run
from edgeproof.types import Images

if TYPE_CHECKING:
    from edgeproof.attacks.configured import Attack
    from edgeproof.types import LogitsFn

WEIGHTS = "model.safetensors"


def deployed_graphs(run: Run) -> dict[str, Path]:
    """Return the FP16 and INT8 graphs of an export run, by what the file is called: `fp16`, `int8-cpu`."""
    names = [name for name in run.outputs() if name.endswith(".onnx") and "fp32" not in name]
    return {name.split(".")[1]: run.file(name) for name in names}


def open_engines(files: Mapping[str, Path], *, device: str, stack: ExitStack) -> dict[str, Engine]:
    """Open checkpoints on the device and graphs on the processor, until the stack closes."""
    import torch

    options = EngineOptions(threads=torch.get_num_threads())
    return {
        name: stack.enter_context(
            open_engine(file, device=device if file.suffix == ".safetensors" else "cpu", options=options)
        )
        for name, file in files.items()
    }


def open_source(checkpoint: Path, images: Images, *, device: str) -> LogitsFn:
    """Open the network that is attacked; `images` are a few that it will see."""
    import torch

    from edgeproof.models.base import load_classifier
    from edgeproof.source_model.folding import fast_form

    model = load_classifier(checkpoint, device=device)
    return fast_form(model, torch.from_numpy(images[:8]).to(device), mode="fast")


def configured(asked: Mapping[str, Any]) -> Attack:
    """Return an attack with its parameters, from `attack`, `eps` and `params`."""
    from edgeproof.attacks.base import find_attack
    from edgeproof.attacks.configured import choose_attack

    return choose_attack(find_attack(asked["attack"]), eps=asked["eps"], params=asked["params"])


def attacked(
    attack: Attack, source: LogitsFn, data: LabelledImages, *, seed: int, batch_size: int, device: str
) -> Images:
    """Attack images batch by batch; each batch is checked against the attack's contract."""
    import torch

    from edgeproof.attacks.base import Draws

    made = []
    for start in range(0, len(data), batch_size):
        batch = data.take(np.arange(start, min(start + batch_size, len(data))))
        x, y = (torch.from_numpy(array).to(device) for array in (batch.images, batch.labels))
        made.append(attack.run(source, x, y, draws=Draws(seed=seed, index=batch.index)).cpu().numpy())
    images: Images = np.concatenate(made)
    return images
