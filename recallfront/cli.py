"""The command line. Each command is thin: it calls the function of the same name and prints the result.

What a command needs is imported in it, so that the others start fast.
"""

from typing import Annotated

import typer

from recallfront import __version__
from recallfront.commands import fronts, machine, sweeps, trials

app = typer.Typer(
    name="recallfront",
    help="Finds the recall-throughput trade-off of efficient language-model architectures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"recallfront {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


for command in (
    sweeps.run,
    sweeps.clean,
    sweeps.submit,
    sweeps.status,
    sweeps.cancel,
    sweeps.logs,
    sweeps.export,
    sweeps.delete,
    sweeps.scores,
    fronts.front,
    fronts.compare,
    fronts.pick,
    fronts.claims,
    fronts.report,
    sweeps.studies,
    trials.rerun,
    trials.evaluate,
    trials.lineage,
    machine.ui,
    machine.bench,
    machine.doctor,
):
    app.command()(command)
app.command("import")(sweeps.import_)
