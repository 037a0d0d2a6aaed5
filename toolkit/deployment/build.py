"""From an ONNX graph to what a device opens, on that device: needs no torch."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeproof.config import BuildConfig
from edgeproof.data.perturbation import load_perturbation
from edgeproof.errors import ConfigError, ModelError, UnavailableError, one_line
from edgeproof.onnx_files import hash_model, read_onnx
from edgeproof.runs import Run
from edgeproof.system.optional import require
from edgeproof.system.progress import progress

if TYPE_CHECKING:
    from edgeproof.export.to_tensorrt import PlanSettings

LOG = logging.getLogger(__name__)

_TENSORRT_ONLY = ("batch_range", "workspace_mib", "optimization_level", "timing_cache", "locked")
_CONVENTION = ("layout", "input_range", "mean", "std", "input_shape", "output")
_MIB = 1 << 20


def build_graphs(config: BuildConfig, out: Run) -> None:
    """Write what the target asks for, a file (or pair of files) for each graph of the source.

    Where the source's own input is described, or the target is "onnx", the graph is first brought to images (N, C, H, W)
    in [0, 1]; that graph is kept too. With `prefix` a universal perturbation goes in front of it: what opens the result sees
    perturbed images, so that a deployed pipeline is probed with its own clean ones.

    Raises:
        ConfigError: For options that the target does not know, or an input that nothing describes.
        ModelError: When a graph cannot be read or is refused.
        UnavailableError: When the target's package is not installed.
    """
    odd = [name for name in _TENSORRT_ONLY if getattr(config, name) is not None]
    if odd and config.target != "tensorrt":
        raise ConfigError(f"--{odd[0].replace('_', '-')} is for plans; add --target tensorrt or leave it out")
    if config.prefix_class is not None and config.prefix is None:
        raise ConfigError("--prefix-class is for a perturbation; add --prefix RUN or leave it out")
    graphs = [graph for graph in _graphs(Path(config.source)) if _fits(graph, config)]
    with progress("build", len(graphs)) as advance:
        for graph in graphs:
            build_graph(graph, config, out.path)
            advance(note=graph.name)


def build_tensorrt(graph: Path, plan: Path, *, settings: PlanSettings | None = None) -> dict[str, Any]:
    """Build a TensorRT plan from a graph, on the GPU that will run it; needs no torch.

    Returns:
        The description of the plan, which is also in a JSON file beside it.

    Raises:
        UnavailableError: When TensorRT is not installed, or there is no GPU.
        ModelError: When it refuses the graph or the settings.
    """
    require("tensorrt", extra="tensorrt", purpose=f"build a plan from {graph}")
    from edgeproof.export.to_tensorrt import build_plan

    with as_model_error():
        return build_plan(graph, plan, settings=settings, metadata=_metadata(graph))


def build_openvino(graph: Path, dst: Path) -> None:
    """Write a graph as OpenVINO's `.xml` and `.bin`; needs no torch.

    Raises:
        UnavailableError: When OpenVINO is not installed.
        ModelError: When it refuses the graph.
    """
    require("openvino", extra="openvino", purpose=f"convert {graph}")
    from edgeproof.export.to_openvino import convert_openvino

    with as_model_error():
        convert_openvino(graph, dst, metadata=_metadata(graph))


@contextlib.contextmanager
def as_model_error() -> Iterator[None]:
    """Give an error of `export`, which knows no toolkit, the exit status of a bad model or of a missing device."""
    from edgeproof.export.base import ExportError, MissingDeviceError

    try:
        yield
    except MissingDeviceError as error:
        raise UnavailableError(str(error)) from error
    except ExportError as error:
        raise ModelError(str(error)) from error


def _graphs(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    run = Run.open(source, kind="export")
    graphs = [run.file(name) for name in run.outputs() if name.endswith(".onnx")]
    if not graphs:
        raise ModelError(f"{source} has no ONNX graph; it has: {', '.join(run.outputs())}")
    return graphs


def _fits(graph: Path, config: BuildConfig) -> bool:
    """Leave out what a target cannot take: TensorRT wants INT8 that is signed and symmetric."""
    recipe = read_onnx(graph).metadata.get("edgeproof.recipe")
    left_out = config.target == "tensorrt" and recipe == "cpu"
    if left_out:
        told = f"edgeproof: no plan is made of {graph.name}: its INT8 recipe is for processors"
        LOG.warning(one_line(told))
    return not left_out


def build_graph(graph: Path, config: BuildConfig, folder: Path) -> None:
    """Write what the target asks for of one graph into a folder, as `build_graphs` does for each."""
    stem = _stem(graph)
    described = any(getattr(config, name) for name in _CONVENTION)
    if described or (config.target == "onnx" and config.prefix is None):
        graph = _standardize(graph, folder / f"{stem}.onnx", config)
    if config.prefix is not None:
        graph = _prefix(graph, folder / f"{stem}.onnx", config)
    if config.target == "tensorrt":
        build_tensorrt(graph, folder / f"{stem}.plan", settings=_plan_settings(config))
    elif config.target == "openvino":
        build_openvino(graph, folder / f"{stem}.xml")


def _stem(graph: Path) -> str:
    """Name the file so that a run folder's models are found: they begin with `model.`, and `net.v2` becomes `model.net.v2`."""
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", graph.stem)
    return stem if stem.startswith("model.") or stem == "model" else f"model.{stem}"


def _standardize(graph: Path, dst: Path, config: BuildConfig) -> Path:
    from edgeproof.export.standard import standardize_graph

    if config.input_range is None and read_onnx(graph).only_input(graph).dtype == "uint8":
        raise ConfigError(f"{graph} takes uint8, in which 1 is nearly black; say what white is with --range 255")
    with as_model_error():
        standardize_graph(
            graph,
            dst,
            input_shape=config.input_shape,
            layout=config.layout,
            input_range=config.input_range or 1.0,
            mean=config.mean,
            std=config.std,
            output=config.output,
        )
    return dst


def _prefix(graph: Path, dst: Path, config: BuildConfig) -> Path:
    from edgeproof.export.prefix import prepend_perturbation

    found = load_perturbation(Path(config.prefix or ""))
    position = config.prefix_class or 0
    if (config.prefix_class is None and len(found) > 1) or position >= len(found):
        raise ConfigError(
            f"{config.prefix} holds {len(found)} perturbations and --prefix-class is {config.prefix_class}; "
            f"expected a class from 0 to {len(found) - 1}"
        )
    with as_model_error():
        prepend_perturbation(graph, dst, delta=found[position])
    return dst


def _plan_settings(config: BuildConfig) -> PlanSettings:
    from edgeproof.export.to_tensorrt import PlanSettings

    given: dict[str, Any] = {
        "batch": config.batch_range,
        "workspace_bytes": config.workspace_mib * _MIB if config.workspace_mib else None,
        "optimization_level": config.optimization_level,
        "timing_cache": Path(config.timing_cache) if config.timing_cache else None,
        "locked": config.locked,
    }
    return PlanSettings(**{name: value for name, value in given.items() if value is not None})


def _metadata(graph: Path) -> Mapping[str, str]:
    """Return the graph's metadata, with the precision that it has where nobody has written it down."""
    summary = read_onnx(graph)
    noted = {"edgeproof.precision": summary.precision, **summary.metadata}
    return {**noted, "edgeproof.graph_sha256": hash_model(graph)}
