"""The output of commands: the result on stdout, tables and places to look at on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from edgeproof.plugins.registry import CALLERS, REQUIRED, Entry

if TYPE_CHECKING:
    from edgeproof.evaluation.detection import DetectRecord
    from edgeproof.evaluation.weights import LayerRecord
    from edgeproof.runs import Run


def emit(out: Run, *, as_json: bool, **more: object) -> None:
    """Print the run folder, or a JSON object with it."""
    result = {"run": str(out.path), "outputs": out.outputs(), **more}
    click.echo(json.dumps(result) if as_json else str(out.path))


def finish_eval(out: Run, *, as_json: bool) -> None:
    """Show the table, print the result and leave with 1 when a gate has failed, else with the status of an engine left out."""
    from edgeproof.evaluation.results import read_results
    from edgeproof.reports.terminal import print_results

    results = read_results(out.file("results.json"))
    print_results(results)
    click.echo(f"report: {out.path / 'report.html'}", err=True)
    left_out = [each.model_dump() for each in results.left_out]
    emit(out, as_json=as_json, gates=[gate.model_dump() for gate in results.gates], left_out=left_out)
    if not all(gate.passed for gate in results.gates):
        sys.exit(1)
    if results.left_out:
        click.echo(
            "edgeproof: an engine was left out; once it can be opened, repeat the command with --fresh", err=True
        )
        sys.exit(max(each.status for each in results.left_out))


def show_answers(out: Run, *, as_json: bool, single: bool) -> None:
    """Print the answer to one property in VNN-COMP's format, or the run folder of many."""
    from edgeproof.attacks.properties.instances import format_answer, read_answers

    records, counterexamples = read_answers(out)
    if as_json:
        emit(out, as_json=as_json, answers=[record.model_dump() for record in records])
    elif single:
        click.echo(counterexamples.get(0) or format_answer(records[0].verdict), nl=False)
        click.echo(f"run: {out.path}", err=True)
    else:
        emit(out, as_json=as_json)


def show_bench(out: Run, *, as_json: bool) -> None:
    """Show who was timed, and print the result, without the samples."""
    from edgeproof.evaluation.bench import BenchReport
    from edgeproof.reports.bench_text import print_bench
    from edgeproof.system.untrusted import read_record

    report = read_record(out.file("bench.json"), BenchReport)
    print_bench(report, file=sys.stderr)
    cases = [case.model_dump(exclude={"seconds"}) for case in report.cases]
    emit(out, as_json=as_json, cases=cases, left_out=[each.model_dump() for each in report.left_out])


def show_search(out: Run, *, as_json: bool) -> None:
    """Show which builds were tried, and print the result."""
    from edgeproof.deployment.int8_search import SEARCH, SearchReport
    from edgeproof.reports.search_text import print_search
    from edgeproof.system.untrusted import read_record

    report = read_record(out.file(SEARCH), SearchReport)
    print_search(report.model_dump(), file=sys.stderr)
    emit(out, as_json=as_json, best=report.best, candidates=[each.model_dump() for each in report.candidates])


def show_weights(found: Mapping[str, Sequence[LayerRecord]], *, as_json: bool) -> None:
    """Print how the weights of each file are distributed, layer by layer."""
    from edgeproof.reports.terminal import print_table
    from edgeproof.reports.weights import layer_table

    if as_json:
        plain = {name: [layer.model_dump() for layer in layers] for name, layers in found.items()}
        click.echo(json.dumps(plain, indent=1))
        return
    for name, layers in found.items():
        print_table(layer_table(layers), title=name, file=sys.stdout)


def show_detection(found: DetectRecord, *, name: str, as_json: bool) -> None:
    """Print what was found in the training images of this name."""
    from edgeproof.reports.detection import detection_list
    from edgeproof.reports.terminal import print_table

    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        print_table(detection_list(found), title=f"Noise in the training images of {name}", file=sys.stdout)


def show_entries(known: Mapping[str, Entry], *, as_json: bool) -> None:
    """Print what is registered, one line per plug-in; as JSON with the parameters that can be set."""
    if as_json:
        rows = [
            {
                "name": entry.name,
                "summary": entry.summary,
                "params": {
                    param.name: {
                        "type": param.annotation,
                        **({} if param.default is REQUIRED else {"default": param.default}),
                    }
                    for param in entry.params
                    if param.name not in CALLERS.get(entry.kind, ())
                },
                **entry.options,
                **({} if entry.own else {"file": str(entry.file or entry.module)}),
            }
            for entry in known.values()
        ]
        click.echo(json.dumps(rows, indent=1))
        return
    width = max(map(len, known), default=0)
    for entry in known.values():
        whose = "" if entry.own else f"  [{entry.file or entry.module}]"
        click.echo(f"{entry.name:{width}}  {entry.summary}{whose}")
