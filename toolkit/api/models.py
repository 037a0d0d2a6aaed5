"""Models as objects: files and run folders that are loaded, networks and functions that are wrapped."""

from __future__ import annotations

import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from edgeproof.config import AttackConfig, BuildConfig, build_config
from edgeproof.data.base import LabelledImages
from edgeproof.data.classes import fit_classes
from edgeproof.engines.base import Engine
from edgeproof.engines.specs import EngineSpec, read_specs
from edgeproof.errors import ConfigError, DataError
from edgeproof.runs import MANIFEST, Run

if TYPE_CHECKING:
    from edgeproof.attacks.base import Access
    from edgeproof.models.base import Classifier
    from edgeproof.source_model.base import SourceModel

UNHASHED = "in memory, not hashed"


class Folder:
    """A temporary folder that is deleted with the last object that holds it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="edgeproof-"))
        self._end = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, repr=False)
class Model:
    """A classifier that can be attacked, built and evaluated; `load` and `wrap` make it.

    Attributes:
        name: What tables call it.
        num_classes: K.
        classes: The name of each class, or () where neither the file nor the caller says.
        input_shape: (C, H, W), or None for a wrapped one until it meets images.
        precision: "fp32", "fp16", "bf16" or "int8".
        provider: The library's own name for what runs it.
        sha256: Of the file or the weights; for a function, which has none to hash, a mark of this object.
        path: The file, or None in memory.
        network: What was wrapped: a copy of a network, or the function.
        framework: What `network` takes: "torch" tensors or "numpy" arrays.
        mean: Of a wrapped one: what is subtracted from each channel, in [0, 1] pixel units.
        std: What each channel is then divided by.
    """

    name: str
    num_classes: int
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int] | None
    precision: str
    provider: str
    sha256: str
    path: Path | None = None
    network: Any = None
    framework: Literal["torch", "numpy"] = "torch"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    spec: EngineSpec | None = None
    folder: Folder | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        where = self.path or ("in memory" if self.hashed else UNHASHED)
        return f"Model({self.name}, {self.precision}, {self.num_classes} classes, {where})"

    @property
    def hashed(self) -> bool:
        """Whether `sha256` stands for the content, so that a run of it can be told from another's."""
        return not self.sha256.startswith("unhashed")

    @property
    def text(self) -> str | None:
        """How the command line names it, or None where it exists in this process alone."""
        if self.spec is None or self.path is None or self.folder is not None:
            return None
        precision = f"+{self.spec.precision}" if self.spec.precision else ""
        return f"{self.name}={self.spec.backend}{precision}:{self.path}"

    @property
    def source(self) -> Path | None:
        """The train run that a checkpoint stands in, else the file; None in memory."""
        if self.path is not None and self.path.suffix == ".safetensors":
            return self.path.parent if (self.path.parent / MANIFEST).is_file() else None
        return self.path


#: What stands for a model: loaded or wrapped, a path, or a run.
ModelLike: TypeAlias = "Model | str | Path | Run"


def load(
    path: str | Path | Run,
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    input_range: float | str | None = None,
    layout: Literal["nchw", "nhwc", "flat"] | None = None,
    input_shape: tuple[int, int, int] | None = None,
    output: str | None = None,
    device: str = "cpu",
) -> Model | list[Model]:
    """Open a train run, a checkpoint, an ONNX file, an OpenVINO `.xml` or a TensorRT `.plan`; or the builds of an export run.

    Args:
        path: `[BACKEND[+PRECISION]:]PATH` as on the command line, or a run.
        name: What tables call it (default: its engine and file, such as `ort-fp16`).
        classes: Class names, where the file has none.
        mean: Of an ONNX graph that takes normalised images: what was subtracted from each channel, in the graph's range.
        std: What each channel was then divided by.
        input_range: What white is to the graph: 1 or 255 (default: 1).
        layout: Axes of the graph's input: "nchw" (default), "nhwc" or "flat".
        input_shape: (C, H, W), where the graph does not say.
        output: Which output of an ONNX graph holds the scores of the classes, where there are several.
        device: "cpu" or "cuda": where it is opened to see what it is.

    Returns:
        The model; for an export run a list of its builds.

    Raises:
        ModelError: For a file that is missing or that no engine reads.
        ConfigError: For options that do not fit the file.
        UnavailableError: When the engine or the device is not there.
    """
    text = str(path.path) if isinstance(path, Run) else str(path)
    given = {"mean": tuple(mean), "std": tuple(std), "input_range": input_range, "layout": layout, "output": output}
    options = {key: value for key, value in {**given, "input_shape": input_shape}.items() if value not in (None, ())}
    found = [
        _loaded(*(_standardized(spec, options) if options else (spec, None)), classes=classes, device=device)
        for spec in read_specs([text])
    ]
    if name is not None:
        if len(found) > 1:
            raise ConfigError(f"{text} stands for {len(found)} builds; load one of them to name it {name!r}")
        found = [named(found[0], name)]
    run = Path(text)
    is_export = run.is_dir() and (run / MANIFEST).is_file() and Run.open(run).kind == "export"
    return found if is_export else found[0]


def named(model: Model, name: str) -> Model:
    """Return the model under another name."""
    return replace(model, name=name, spec=model.spec and replace(model.spec, name=name))


def wrap(
    network: Callable[[Any], Any],
    *,
    classes: Sequence[str] | int,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    input_shape: tuple[int, int, int] | None = None,
    name: str | None = None,
    framework: Literal["torch", "numpy"] = "torch",
) -> Model:
    """Take a network that is in memory.

    A `torch.nn.Module` is copied in eval mode, so that what is attacked, built and evaluated is what was given, and is hashed by
    its weights, its source and its normalisation. Any other function is called as it is and cannot be hashed.

    Args:
        network: A module or function: images (N, C, H, W), normalised by `mean` and `std`, to logits (N, K).
        classes: The name of each class, or how many there are.
        mean: What is subtracted from each channel of images in [0, 1]; one number stands for all (default: 0).
        std: What each channel is then divided by (default: 1).
        input_shape: (C, H, W) (default: that of the images it meets).
        name: What tables call it (default: its own name).
        framework: "torch": it takes and gives tensors; "numpy": float32 arrays, for evaluation and attacks by queries.

    Raises:
        ConfigError: For what cannot be called, or fewer than two classes.
        ModelError: For a network that cannot be copied or holds NaN.
    """
    if framework not in ("torch", "numpy"):
        raise ConfigError(f"framework = {framework!r} is not known; expected torch or numpy")
    if not callable(network):
        raise ConfigError(
            f"{type(network).__name__} cannot be called; expected a network or a function; load(path) opens files"
        )
    count, names = (classes, ()) if isinstance(classes, int) else (len(classes), tuple(map(str, classes)))
    if count < 2:
        raise ConfigError(f"classes = {classes!r}: expected the names of at least two classes, or their number")
    own_name = name or str(getattr(network, "__name__", type(network).__name__))
    model = Model(
        name=_word(own_name),
        num_classes=count,
        classes=names,
        input_shape=input_shape,
        precision="fp32",
        provider="a Python function" if framework == "numpy" else "PyTorch",
        sha256=f"unhashed-{uuid.uuid4().hex}",
        network=network,
        framework=framework,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
    )
    if framework == "numpy":
        if is_module(network):
            raise ConfigError(f"{type(network).__name__} is a torch network; wrap it with framework='torch'")
        return model
    from edgeproof.models.wrapped import Function, copy_network, hash_network

    copied = copy_network(network)
    if isinstance(copied, Function):
        return replace(model, network=copied)
    return replace(model, network=copied, sha256=hash_network(copied, mean=model.mean, std=model.std))


def is_module(value: object) -> bool:
    """Return whether this is a torch network; torch is not imported for that."""
    return any(kind.__module__ == "torch.nn.modules.module" for kind in type(value).__mro__)


def opened(like: object) -> list[Model]:
    """Return the models that something stands for.

    Raises:
        ConfigError: For what stands for none.
    """
    if isinstance(like, Model):
        return [like]
    if isinstance(like, (list, tuple)):
        return [model for each in like for model in opened(each)]
    if isinstance(like, (str, Path, Run)):
        found = load(like)
        return found if isinstance(found, list) else [found]
    what = type(like).__name__
    if is_module(like):
        raise ConfigError(
            f"{what} is a network without class names; give wrap(network, classes=..., mean=..., std=...)"
        )
    raise ConfigError(f"{what} is no model; expected what load() or wrap() returns, a path or a run")


def classifier(model: Model, data: LabelledImages) -> Classifier:
    """Return a wrapped torch network as a classifier of these images.

    Raises:
        DataError: When it is for other images or classes.
        ModelError: When it cannot take them.
    """
    from edgeproof.models.wrapped import as_classifier

    return as_classifier(
        model.network,
        name=model.name,
        input_shape=data.input_shape,
        classes=_class_names(model, data),
        mean=model.mean,
        std=model.std,
    )


@contextmanager
def open_model(model: Model, data: LabelledImages, *, device: str, threads: int | None) -> Iterator[Engine]:
    """Open a model for inference on images such as these.

    Raises:
        DataError: When it is for other images or classes.
        ToolkitError: As opening an engine raises.
    """
    names = _class_names(model, data)
    with ExitStack() as stack:
        if model.spec is not None:
            yield stack.enter_context(model.spec.open(device=device, threads=threads))
        elif model.framework == "numpy":
            from edgeproof.engines.function import FunctionEngine

            if device != "cpu":
                raise ConfigError(
                    f"{model.name} is a function on NumPy arrays; device {device!r} is its own affair: leave it cpu"
                )
            shape = data.input_shape
            options: dict[str, Any] = {"mean": model.mean, "std": model.std, "sha256": model.sha256}
            yield stack.enter_context(FunctionEngine(model.network, input_shape=shape, classes=names, **options))
        else:
            from edgeproof.engines.pytorch import open_classifier

            found = classifier(model, data)
            yield stack.enter_context(open_classifier(found, sha256=model.sha256, device=device, threads=threads))


def open_attacked(
    model: Model, data: LabelledImages, config: AttackConfig, *, access: Access, stack: ExitStack
) -> SourceModel:
    """Open a model for an attack on images such as these.

    Raises:
        ConfigError: For a function on NumPy arrays and an attack that needs gradients.
        ToolkitError: As opening it raises.
    """
    from edgeproof.models.base import torch_device
    from edgeproof.source_model.checkpoint import Checkpoint
    from edgeproof.source_model.engine import QueriedEngine, Queries
    from edgeproof.source_model.opening import open_sources

    queries, device, size = access == "queries", config.device, config.batch_size
    if model.spec is not None:
        if model.source is None:
            raise ConfigError(
                f"{model.path} is a checkpoint outside its run folder; attack the run, or wrap(network, classes=...)"
            )
        _class_names(model, data)
        text = f"{model.spec.backend}:{model.source}" if queries and model.source.is_file() else str(model.source)
        return stack.enter_context(open_sources([text], queries=queries, device=device, batch_size=size))
    about = (model.name, data.input_shape, model.num_classes, device, (model.sha256,))
    if model.framework == "torch":
        return Checkpoint(classifier(model, data).to(torch_device(device)), *about)
    if not queries:
        raise ConfigError(
            f"{model.name} is a function on NumPy arrays, which has no gradients, and {config.attack!r} needs "
            f"{access}; use an attack by queries such as 'square', or wrap(..., framework='torch')"
        )
    engine = stack.enter_context(open_model(model, data, device="cpu", threads=None))
    return QueriedEngine(Queries(engine, batch_size=size), *about)


def _class_names(model: Model, data: LabelledImages) -> tuple[str, ...]:
    if model.input_shape not in (None, data.input_shape):
        raise DataError(
            f"{model.name} takes images of shape {model.input_shape}; those of {data.name} are {data.input_shape}"
        )
    return fit_classes(data, model.classes, count=model.num_classes, model=model.name, quiet=True).classes


def _loaded(spec: EngineSpec, folder: Folder | None, *, classes: Sequence[str] | None, device: str) -> Model:
    with spec.open(device=device) as engine:
        info = engine.info
    names = tuple(map(str, classes)) if classes is not None else info.classes
    if len(names) not in (0, info.num_classes) or (info.classes and names != info.classes):
        raise ConfigError(
            f"{spec.path} has {info.num_classes} classes{' of other names' if info.classes else ''}; "
            f"{len(names)} are named: {', '.join(names[:4])}, ..."
        )
    return Model(
        name=spec.name,
        num_classes=info.num_classes,
        classes=names,
        input_shape=info.input_shape,
        precision=info.precision,
        provider=info.provider,
        sha256=info.sha256,
        path=spec.path,
        spec=spec,
        folder=folder,
    )


def _standardized(spec: EngineSpec, options: dict[str, Any]) -> tuple[EngineSpec, Folder]:
    """Bring an ONNX graph to images (N, C, H, W) in [0, 1], in a temporary folder."""
    from edgeproof.deployment.build import build_graph

    if spec.path.suffix != ".onnx":
        raise ConfigError(f"{next(iter(options))} is for an ONNX graph; {spec.path} is none: leave it out")
    folder = Folder()
    config = build_config(BuildConfig, options={"source": str(spec.path), **options})
    build_graph(spec.path, config, folder.path)
    (graph,) = folder.path.glob("*.onnx")
    return replace(spec, path=graph), folder


def _word(text: str) -> str:
    word = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in text).strip("-._")
    return word or "function"
