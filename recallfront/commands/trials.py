"""Commands on one trial or model: run it again, evaluate it, show its lineage.

What a command needs is imported in it, so that the others start fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from recallfront.commands.options import Home, Plugins, Run, TrackingUri
from recallfront.terminal import table_width


def rerun(run: Run, home: Home = None, tracking_uri: TrackingUri = None, plugin: Plugins = None) -> None:
    """Run a trial again from its lineage alone. Compare the two runs."""
    from rich.console import Console

    from recallfront.platform.rerun import rerun as run_again

    result = run_again(run, home=home, tracking_uri=tracking_uri, plugins=plugin or ())
    Console(width=table_width()).print(result.table())
    print(f"verdict: {result.verdict.value}: {result.reason}")
    print(f"run: {result.run_id}")


def evaluate(
    model: Annotated[str, typer.Argument(help="Run id or key of a text trial, or the folder of a model.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the data sets of the recall suite, the Factbook's files, or task files for lm-eval.",
            show_default="none",
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            help="What to evaluate on: recall, ruler, phonebook, extraction, or lm-eval:TASK,TASK with "
            "recallfront[lm-eval]."
        ),
    ] = "recall",
    twice: Annotated[
        bool | None,
        typer.Option(
            "--twice", help="Put every document into its prompt twice (recall).", show_default="once"
        ),
    ] = None,
    context_length: Annotated[
        int | None,
        typer.Option(
            min=60,
            help="Tokens that documents are truncated to, or that a question has (not of lm-eval).",
            show_default="1000",
        ),
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Documents of a data set or questions of a task, at most.",
            show_default="all, or 100 questions",
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer: a folder or a name.", show_default="the trial's")
    ] = None,
    end_token: Annotated[
        str | None,
        typer.Option(help="Token that ends a text, of --tokenizer.", show_default="the tokenizer's own"),
    ] = None,
    home: Home = None,
    tracking_uri: TrackingUri = None,
    plugin: Plugins = None,
) -> None:
    """Evaluate a finished model on a suite of text. Add the figures to its run."""
    from rich.console import Console

    from recallfront.platform.evaluation.subject import NotLogged
    from recallfront.platform.evaluation.suites import evaluate_on
    from recallfront.platform.plugins import load

    load(plugin or ())
    options = {"data": data, "twice": twice, "context_length": context_length, "most": most}
    console = Console(width=table_width())
    try:
        found = evaluate_on(
            model,
            suite,
            {name: value for name, value in options.items() if value is not None},
            tokenizer=tokenizer,
            end_token=end_token,
            home=home,
            tracking_uri=tracking_uri,
        )
    except NotLogged as error:
        console.print(error.found.table())
        raise
    console.print(found.table())
    if found.run_id is not None:
        print(f"run: {found.run_id}")


def lineage(run: Run, home: Home = None, tracking_uri: TrackingUri = None, plugin: Plugins = None) -> None:
    """Show all that a rerun of a trial needs, as JSON. With --plugin, check that a rerun with these is possible."""
    from recallfront.platform.home import home_folder
    from recallfront.platform.plugins import load, require
    from recallfront.platform.tracking.ledger import find_run
    from recallfront.platform.tracking.lineage import read_lineage
    from recallfront.platform.tracking.store import find_store

    uri = find_store(tracking_uri, home_folder(home))
    run_id = find_run(uri, run).run_id
    found = read_lineage(uri, run_id)
    if plugin:
        load(plugin)
        require(found.environment.plugins, run_id)
    print(found.model_dump_json(indent=2, ensure_ascii=True))
