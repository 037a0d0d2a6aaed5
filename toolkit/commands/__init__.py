"""edgeproof on the command line. stdout carries the result, stderr progress and errors.

Each verb stands in a module of its group, which is imported when the verb is used: `edgeproof --help` must be there at once.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Mapping
from typing import Any

import click

from edgeproof import __version__
from edgeproof.errors import nearest

#: Each verb: its module here, its function, and its line in `edgeproof --help`.
VERBS: Mapping[str, tuple[str, str, str]] = {
    "demo": ("evaluate", "demo", "Run all stages on handwritten digits, in about a minute and without a download."),
    "train": ("train", "train", "Train a classifier."),
    "import": ("train", "import_", "Take a network and weights of your own."),
    "attack": ("attack", "attack", "Craft adversarial images of a source model, or search for counterexamples."),
    "poison": ("train", "poison", "Make poisoned training images."),
    "detect": ("train", "detect", "Look for noise in training images."),
    "export": ("export", "export", "Turn a checkpoint or a graph into the builds that are deployed."),
    "quantize": ("export", "quantize", "Choose an INT8 build by its accuracy under attack on validation images."),
    "eval": ("evaluate", "eval_", "Measure engines on clean and adversarial images; exit status 1 when a limit fails."),
    "bench": ("bench", "bench", "Time engines and attacks."),
    "study": ("study", "study", "Run a published protocol and judge its claims."),
    "report": ("evaluate", "report", "Write the report of an eval run again, from its files only."),
    "diff": ("evaluate", "diff", "Compare two eval runs by engine, set and class, with significance."),
    "merge": ("evaluate", "merge", "Join the runs of --shard I/N into the run of the whole."),
    "inspect": ("show", "inspect", "Measure how the weights of a model are distributed."),
    "list": ("show", "list_", "Show what is registered: attacks, data sets, models, engines, objectives, studies."),
    "doctor": ("show", "doctor", "Say what is installed, what each engine can do here, and what installs the rest."),
}


class Verbs(click.Group):
    """The group of all verbs; listing them imports none."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `--plugin` wherever it stands: what it names has to be known before the options behind a verb are."""
        named, rest = _split_plugins(args)
        return super().parse_args(ctx, [*named, *rest] if rest or not args else args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which a newcomer meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of a verb; an unknown one is an error that names the nearest."""
        if cmd_name not in VERBS:
            ctx.fail(f"no command {cmd_name!r}{nearest(cmd_name, VERBS)}; known: {', '.join(VERBS)}")
        module, function, _ = VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), function)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Carry out the verb; what the library logs meanwhile is written to stderr."""
        from edgeproof.system.lines import logged_to_stderr

        with logged_to_stderr():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, _, line) in VERBS.items()])


def _split_plugins(args: list[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into `--plugin FILE` and all others."""
    named: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--plugin":
            named += [word, *itertools.islice(words, 1)]
        else:
            (named if word.startswith("--plugin=") else rest).append(word)
    return named, rest


def _name_plugins(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> None:
    if given:
        from edgeproof.plugins.importing import name_plugin

        for text in given:
            name_plugin(text)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--plugin",
    multiple=True,
    metavar="FILE.py",
    expose_value=False,
    callback=_name_plugins,
    help="attacks, engines, data sets, models, objectives or studies of your own (docs/extending.md); repeatable, also behind a verb",
)
@click.version_option(__version__, prog_name="edgeproof")
def cli(**values: Any) -> None:
    """How does a model hold up to adversarial inputs in the form in which it is deployed?"""
