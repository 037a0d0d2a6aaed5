"""`attack`: a command for each registered attack, and the search for counterexamples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeproof.commands.options import (
    RUN_OPTIONS,
    PluginGroup,
    config_options,
    given_params,
    introduction,
    plugin_options,
    read_config,
)
from edgeproof.commands.printing import emit, show_answers
from edgeproof.config import AttackConfig, FalsifyConfig
from edgeproof.config.base import Counts
from edgeproof.errors import ConfigError
from edgeproof.plugins.registry import CALLERS, Entry
from edgeproof.stages import Place, run_attacks, run_stage


def attack_command(entry: Entry) -> click.Command:
    """Make the command of one attack: its own parameters first, then what all attacks share."""

    counts = (
        Counts(
            ("deployed",),
            lambda config: any(param.name == "deployed" for param in entry.params),
            f"attack {entry.name!r} takes one source model",
        ),
        Counts(
            ("gradients", "probe"),
            lambda config: entry.options["access"] != "queries",
            f"attack {entry.name!r} asks for predictions only, and takes no gradients",
        ),
    )

    def craft(out: Path | None, fresh: bool, as_json: bool, **values: Any) -> None:
        params = {f"params.{key}": value for key, value in given_params(entry, values).items()}
        budgets = dict.fromkeys(values.pop("budgets") or (None,))
        fixed = [{"attack": entry.name, **({"eps": eps} if eps else {}), **params} for eps in budgets]
        configs = [read_config(AttackConfig, dict(values), counts=counts, **each) for each in fixed]
        for run in run_attacks(configs, Place(out, fresh)):
            emit(run, as_json=as_json)

    budget = click.Option(
        ["--eps", "budgets"], multiple=True, help="budget in [0, 1] pixel units, such as 8/255; repeatable"
    )
    shared = config_options(AttackConfig, hidden=("attack", "eps", "params"))
    params: list[click.Parameter] = [
        *plugin_options(entry, skip=CALLERS["attack"], taken=[budget, *shared, *RUN_OPTIONS]),
        budget,
        *shared,
        *RUN_OPTIONS,
    ]
    return click.Command(
        entry.name, params=params, callback=craft, help=introduction(entry.help), short_help=entry.summary
    )


@click.group(
    cls=PluginGroup,
    plugins="attack",
    make=attack_command,
    invoke_without_command=True,
    no_args_is_help=True,
    params=[*config_options(FalsifyConfig), *RUN_OPTIONS],
)
@click.pass_context
def attack(ctx: click.Context, /, out: Path | None, fresh: bool, as_json: bool, **values: Any) -> None:
    """Craft adversaries of a source model: `attack NAME --model RUN --eps 8/255`.

    Without a NAME, look for a counterexample to a VNN-LIB property: `attack --vnnlib FILE --graph FILE.onnx` answers sat, with
    the counterexample, or unknown. The options below are for this; those of an attack stand behind its NAME.
    """
    if ctx.invoked_subcommand is None:
        config = read_config(FalsifyConfig, values)
        run = run_stage("falsify", config, Place(out, fresh))
        show_answers(run, as_json=as_json, single=config.instances is None)
    elif any(value not in (None, (), False) for value in (out, fresh, as_json, *values.values())):
        raise ConfigError(
            f"options before {ctx.invoked_subcommand!r} belong to --vnnlib; give those of an attack behind its name"
        )
