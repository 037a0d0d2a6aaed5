"""Evaluation as a function call, and its results: a table, rows, a report and limits."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from edgeproof.api.folders import run_in_folder
from edgeproof.api.images import Images, ImagesLike, as_images
from edgeproof.api.models import UNHASHED, Model, is_module, open_model, opened, wrap
from edgeproof.config import EvalConfig, build_config
from edgeproof.config.names import IN_MEMORY
from edgeproof.data.base import AdversarialSet, LabelledImages, load_adversarial_set
from edgeproof.data.foreign import load_foreign_set
from edgeproof.engines.specs import distinct_names
from edgeproof.errors import ConfigError, GateError
from edgeproof.evaluation.evaluate import Candidate, Measured, check_limits, measure, save_measured
from edgeproof.evaluation.gates import bind_gates, judge, parse_gates
from edgeproof.evaluation.inputs import EvalInputs, hash_labelled, join_sets
from edgeproof.evaluation.metrics import Rate, drop_points, relative_difference
from edgeproof.evaluation.results import CellRecord, GateRecord
from edgeproof.evaluation.results import Results as Record
from edgeproof.evaluation.summary import AllLogits, read_logits
from edgeproof.reports import tables
from edgeproof.reports.content import EvalRun, clean_set, eval_run, read_eval_run
from edgeproof.reports.diff import Diff, diff_evals
from edgeproof.reports.diff_text import overall_table, print_diff
from edgeproof.reports.html import render_html
from edgeproof.reports.junit import render_junit
from edgeproof.reports.markdown import render_markdown
from edgeproof.reports.numbers import visible_results
from edgeproof.reports.terminal import print_results
from edgeproof.reports.write import write_reports
from edgeproof.runs import Run, write_text
from edgeproof.types import Array

SetLike: TypeAlias = "AdversarialSet | str | Path | Run"
EngineLike: TypeAlias = "Model | str | Path | Run | Callable[[Array], Any] | Sequence[Any]"
_WIDTH = 80  # columns
_RENDERERS: Mapping[str, Callable[[EvalRun], str]] = {
    ".html": render_html,
    ".md": render_markdown,
    ".xml": lambda run: render_junit(run.results),
}


class Table(str):
    """A table as text, which a notebook shows as a table."""

    html = ""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True)
class Results:
    """What `evaluate` has measured.

    Attributes:
        results: The record, as `results.json` has it.
        logits: (engine, set) to (N, K) float32; the clean images are the set "clean".
        samples: The arrays of `samples.npz`, image by image.
        config: How it was evaluated.
        run: The run folder, where there is one.
    """

    results: Record
    logits: AllLogits
    samples: Mapping[str, Array]
    config: EvalConfig
    run: Run | None = None

    def table(self) -> Table:
        """Return accuracies, engines x sets, with limits and warnings, as text of 80 columns; HTML in a notebook."""
        text = io.StringIO()
        print_results(self.results, file=text, width=_WIDTH)
        found = Table(_trimmed(text.getvalue()))
        found.html = _html(tables.accuracies(visible_results(self.results)))
        return found

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a plain dictionary for each engine, set and class; `class` is "all" in the row of all classes.

        Rates are fractions; `low` and `high` are their 95 % interval; what does not apply is None. `pandas.DataFrame(rows)` takes them.
        """
        return [row for cell in self.results.cells for row in self._rows(cell)]

    def report(self, path: str | Path) -> Path:
        """Write the report: one page (.html), Markdown (.md) or JUnit (.xml). Return its path.

        Raises:
            ConfigError: For another kind of file.
        """
        file = Path(path)
        if file.suffix not in _RENDERERS:
            raise ConfigError(f"{file}: expected a report that ends in {', '.join(_RENDERERS)}")
        write_text(file, _RENDERERS[file.suffix](self.shown()))
        return file

    def require(
        self,
        *fail_under: str,
        max_drop: str | Sequence[str] = (),
        max_cost: str | Sequence[str] = (),
    ) -> tuple[GateRecord, ...]:
        """Check limits: what is at least required, as `--fail-under`; with keywords what `--max-drop` and `--max-cost` take.

        Returns:
            A record for each limit and engine, all of which hold.

        Raises:
            GateError: When one does not hold; the message has the numbers of all that do not.
            ConfigError: For a limit that cannot be read.
        """
        drops, costs = ((each,) if isinstance(each, str) else tuple(each) for each in (max_drop, max_cost))
        if costs and self.results.costs is None:
            raise ConfigError(
                f"max_cost {costs[0]!r} needs costs: evaluate(..., costs=FILE) or evaluate(..., protect=CLASS)"
            )
        bound = bind_gates(
            parse_gates(fail_under, drops, costs),
            engines={engine.name: engine.precision for engine in self.results.engines},
            reference=self.results.reference,
            sets=self.results.sets,
            classes=self.results.classes,
            left_out=self.results.left_out,
        )
        found = judge(bound, self.results.cells, reference=self.results.reference)
        broken = [gate.message for gate in found if not gate.passed]
        if broken:
            raise GateError("; ".join(broken))
        return found

    def shown(self) -> EvalRun:
        """Return what reports are made of."""
        return eval_run(self.results, self.samples, self.config.model_dump(), where="the evaluation")

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().html

    def _rows(self, cell: CellRecord) -> Iterator[dict[str, Any]]:
        engine = next(each for each in self.results.engines if each.name == cell.engine)
        set_ = next(each for each in self.results.sets if each.name == cell.set)
        clean = self.results.cell(cell.engine, clean_set(self.results).name)
        for part in (None, *cell.per_class):
            before = clean.accuracy if part is None else clean.rate(part.label)
            yield {
                "engine": engine.name,
                "backend": engine.backend,
                "precision": engine.precision,
                "set": set_.name,
                "attack": set_.attack,
                "norm": set_.norm,
                "eps": set_.eps,
                "threat": cell.threat,
                "class": "all" if part is None else self.results.classes[part.label],
                **_rates(cell.accuracy if part is None else part.accuracy, before if cell is not clean else None),
                "success": cell.success.value if part is None and cell.success else None,
                "images_per_s": engine.throughput.images_per_s if part is None and engine.throughput else None,
            }


def evaluate(
    engines: EngineLike | Mapping[str, EngineLike],
    sets: SetLike | Sequence[SetLike] = (),
    *,
    data: ImagesLike | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    **options: Any,
) -> Results:
    """Measure engines on the clean images and on adversarial sets.

    Args:
        engines: One, a list, or a mapping of names to them: what `load`, `wrap` and `build` return, paths as on the command line,
            runs, or functions on NumPy batches: images (N, C, H, W) float32 in [0, 1] to logits (N, K).
        sets: One or a list: what `attack` returns, attack runs, files of other tools, all made from the same clean images.
        data: The clean images, where no set is given, and what a set without clean images was made from.
        out: Run folder: what `edgeproof eval` writes, reports included (default: in memory).
        fresh: Start over in that folder.
        **options: Any other option of `edgeproof eval`: reference, batch_size, threads, device, throughput, invariance, gallery,
            fail_under, max_drop, costs, protect, cost, side, max_cost. Limits given here are recorded; `Results.require` raises.

    Raises:
        ConfigError: For nothing to evaluate, or an option that is not known.
        DataError: When sets were not made from the same images, or an engine takes others.
        ToolkitError: As opening them raises.
    """
    given = [sets] if isinstance(sets, (AdversarialSet, str, Path, Run)) else list(sets)
    clean = None if data is None else as_images(data)
    engine_texts, set_texts = _engine_texts(engines), [_set_text(each) for each in given]
    words = {key: (value,) if isinstance(value, str) and key in _LISTS else value for key, value in options.items()}
    options = {
        "engines": engine_texts,
        "sets": set_texts,
        "data": clean and _clean_text(clean),
        **words,
    }
    config = build_config(EvalConfig, options=options)
    named = not any(text.startswith(IN_MEMORY) for text in (*engine_texts, *set_texts, config.data or ""))
    if out is not None and named:
        from edgeproof.stages import Place, run_stage

        return read_results(run_stage("eval", config, Place(Path(out), fresh)))
    inputs = _inputs(given, clean)
    models = _models(engines, inputs.clean)
    check_limits(config, [model.name for model in models])
    if out is None:
        measured = _measure(config, models, inputs)
        return Results(measured.results, measured.logits, measured.samples, config)
    content = {
        "engines": [[model.name, model.sha256] for model in models],
        "clean": hash_labelled(inputs.clean),
        "sets": [record.model_dump(mode="json") for record in inputs.records()],
    }

    def work(run: Run) -> None:
        save_measured(_measure(config, models, inputs, folder=run.path), run)
        write_reports(run)

    return read_results(
        run_in_folder(work, config, kind="eval", name="in-memory", content=content, out=out, fresh=fresh)
    )


_LISTS = ("fail_under", "max_drop", "max_cost")


def read_results(run: Run) -> Results:
    """Read the results of a finished eval run."""
    from edgeproof.data.arrays import read_npz
    from edgeproof.evaluation.results import read_results as read_record

    record = read_record(run.file("results.json"))
    config = EvalConfig.model_validate(run.config)
    return Results(record, read_logits(run, record), read_npz(run.file("samples.npz")), config, run)


@dataclass(frozen=True)
class Comparison:
    """Two evaluations, what changed between them and whether chance would change it; `compare` makes it.

    Attributes:
        record: Every change, over all classes and by class.
    """

    record: Diff

    @property
    def worse(self) -> bool:
        """Whether any engine lost accuracy significantly."""
        return self.record.worse

    def table(self) -> Table:
        """Return what `edgeproof diff` prints, in 80 columns."""
        text = io.StringIO()
        print_diff(self.record, file=text, width=_WIDTH)
        found = Table(_trimmed(text.getvalue()))
        found.html = _html(overall_table(self.record))
        return found

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a plain dictionary for each engine, set and class; `class` is "all" in the row of all classes."""
        return [
            {
                "engine": change.engine,
                "set": change.set,
                "class": change.class_name or "all",
                "before": change.before.value,
                "after": change.after.value,
                **change.model_dump(exclude={"engine", "set", "class_name", "before", "after"}),
                "significant": change.significant,
            }
            for change in (*self.record.overall, *self.record.classes)
        ]

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table().html


def compare(before: Results | Run | str | Path, after: Results | Run | str | Path) -> Comparison:
    """Compare two evaluations by engine, set and class, paired where their images are the same, as `edgeproof diff` does.

    Raises:
        RunError: When one is no finished eval run, or they have nothing in common.
    """
    return Comparison(diff_evals(*(_compared(each, name) for each, name in ((before, "before"), (after, "after")))))


def _compared(like: Results | Run | str | Path, name: str) -> tuple[str, EvalRun]:
    if isinstance(like, Results):
        return str(like.run.path) if like.run else name, like.shown()
    run = like if isinstance(like, Run) else Run.open(like, kind="eval")
    return str(run.path), read_eval_run(run)


def _measure(
    config: EvalConfig, models: Sequence[Model], inputs: EvalInputs, *, folder: Path | None = None
) -> Measured:
    with ExitStack() as stack:
        candidates = []
        for model in models:
            engine = open_model(model, inputs.clean, device=config.device, threads=config.threads)
            path = str(model.path) if model.path else "in memory" if model.hashed else UNHASHED
            size = model.spec.size if model.spec else _weight_bytes(model)
            candidates.append(Candidate(model.name, stack.enter_context(engine), path, size))
        return measure(config, candidates, inputs, folder=folder)


def _weight_bytes(model: Model) -> int:
    weights = model.network.state_dict().values() if model.framework == "torch" else ()
    return sum(weight.numel() * weight.element_size() for weight in weights)


def _inputs(sets: Sequence[SetLike], clean: Images | None) -> EvalInputs:
    if not sets:
        if clean is None:
            raise ConfigError("nothing to evaluate on: give adversarial sets, or clean images with data=images(...)")
        return EvalInputs(clean.data, ())
    opened_sets: dict[str, AdversarialSet] = {}
    for number, each in enumerate(sets, start=1):
        base = clean.data if clean else next((set_.clean for set_ in opened_sets.values()), None)
        opened_sets[f"set {number}, {_label(each)}"] = _set(each, base)
    return join_sets(opened_sets)


def _set(like: SetLike, clean: Any) -> AdversarialSet:
    if isinstance(like, AdversarialSet):
        return like
    if isinstance(like, Run):
        return load_adversarial_set(like)
    if not isinstance(like, (str, Path)):
        raise ConfigError(
            f"{type(like).__name__} is no adversarial set; expected what attack() returns, an attack run or a file"
        )
    return (
        load_foreign_set(Path(like), clean=clean)
        if Path(like).is_file()
        else load_adversarial_set(Run.open(like, kind="attack"))
    )


def _label(like: SetLike) -> str:
    return like.name if isinstance(like, AdversarialSet) else str(like.path if isinstance(like, Run) else like)


def _models(engines: Any, clean: LabelledImages) -> list[Model]:
    """Return the models under distinct names."""
    if isinstance(engines, Mapping):
        named = [(name, model) for name, like in engines.items() for model in _flat(like, clean)]
        found = [replace(model, name=name) for name, model in named]
    else:
        found = _flat(engines, clean)
    names = distinct_names([model.name for model in found])
    return [replace(model, name=name) for model, name in zip(found, names, strict=True)]


def _flat(like: Any, clean: LabelledImages) -> list[Model]:
    if isinstance(like, (list, tuple)):
        return [model for each in like for model in _flat(each, clean)]
    if callable(like) and not isinstance(like, Model) and not is_module(like):
        return [wrap(like, classes=clean.classes, framework="numpy")]
    return opened(like)


def _engine_texts(engines: Any) -> list[str]:
    """Return how the command line names each engine, or "in memory: NAME" where it cannot."""
    if isinstance(engines, Mapping):
        return [f"{IN_MEMORY}{name}" for name in engines]
    if isinstance(engines, (list, tuple)):
        return [text for each in engines for text in _engine_texts(each)]
    if isinstance(engines, Model):
        return [engines.text or f"{IN_MEMORY}{engines.name}"]
    if isinstance(engines, (str, Path, Run)):
        return [str(engines.path if isinstance(engines, Run) else engines)]
    return [f"{IN_MEMORY}{getattr(engines, '__name__', type(engines).__name__)}"]


def _set_text(like: SetLike) -> str:
    run = getattr(like, "run", None) if isinstance(like, AdversarialSet) else like
    if run is None or isinstance(run, AdversarialSet):
        return f"{IN_MEMORY}{_label(like)}"
    return str(run.path if isinstance(run, Run) else run)


def _clean_text(images: Images) -> str:
    whole = images.limit is None and images.split == "test"
    return images.text(seed=images.seed) if whole else f"{IN_MEMORY}{images.name}"


def _rates(rate: Rate, clean: Rate | None) -> dict[str, Any]:
    return {
        "images": rate.total,
        "correct": rate.hits,
        "accuracy": rate.value,
        "low": rate.low,
        "high": rate.high,
        "relative_difference": None if clean is None else relative_difference(clean, rate),
        "drop_points": None if clean is None else drop_points(clean, rate),
    }


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()


def _html(table: tables.Table) -> str:
    heads = "".join(f"<th>{html.escape(column.title)}</th>" for column in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(f'{cell.text} {cell.detail}'.strip())}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
