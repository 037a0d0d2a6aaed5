"""Opening what a user names as the source of an attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgeproof.data.classes import model_classes
from edgeproof.source_model.base import SourceModel
from edgeproof.source_model.checkpoint import open_checkpoint
from edgeproof.source_model.engine import open_engine_source
from edgeproof.source_model.ensemble import combine
from edgeproof.source_model.graph import open_graph


def open_source(path: Path, *, device: str, output: str | None = None, classes_file: str | None = None) -> SourceModel:
    """Open a train run or an ONNX file, with gradients.

    Args:
        path: The run or the file.
        device: Where it computes.
        output: Which output of a graph holds the scores of the classes, where there are several.
        classes_file: Names of the classes in the model's order, where a graph does not say.

    Raises:
        RunError: For an unfinished run, or a file whose hash has changed.
        ModelError: For a file that cannot be imported.
        UnavailableError: When the device is not there.
    """
    if path.is_file():
        return open_graph(path, device=device, output=output, classes_file=classes_file)
    source = open_checkpoint(path, device=device)
    model_classes(source.classes, classes_file, count=source.num_classes, model=source.name)
    return source


@contextmanager
def open_sources(
    texts: Sequence[str],
    *,
    queries: bool,
    device: str,
    batch_size: int,
    output: str | None = None,
    classes_file: str | None = None,
) -> Iterator[SourceModel]:
    """Open one source or several as one.

    Args:
        texts: Train runs or ONNX files; for an attack by queries any engine, `[BACKEND:]PATH`.
        queries: Whether the attack only asks: then what runs is opened itself, unless it is a train run.
        device: Where it computes.
        batch_size: Images of a query.
        output: As `open_source`.
        classes_file: As `open_source`.

    Raises:
        ToolkitError: As opening each of them raises.
    """
    with ExitStack() as opened:
        yield combine(
            [
                opened.enter_context(
                    open_engine_source(
                        text, device=device, batch_size=batch_size, output=output, classes_file=classes_file
                    )
                )
                if queries and not Path(text).is_dir()
                else open_source(Path(text), device=device, output=output, classes_file=classes_file)
                for text in texts
            ]
        )
