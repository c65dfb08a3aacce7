"""Commands on an installation: serve its pages, measure it, check it.

What a command needs is imported in it, so that the others start fast.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from recallfront.commands.options import Home, Plugins, TrackingUri
from recallfront.terminal import table_width


def ui(
    home: Home = None,
    tracking_uri: TrackingUri = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; whoever reaches it can change the store.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
    allow_actions: Annotated[
        bool,
        typer.Option(
            "--allow-actions",
            help="Let the pages pick, rerun and cancel; only on this machine's own address.",
        ),
    ] = False,
) -> None:
    """Serve MLflow with recallfront's pages."""
    from recallfront.dashboards.serving import serve
    from recallfront.platform.home import home_folder

    sys.exit(serve(home_folder(home), tracking_uri, host=host, port=port, allow_actions=allow_actions))


def bench(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Any of overhead, warm, quiet, tracking, models, search, scale, pages, short, text, upload and "
            "launchers.",
            show_default="all",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Checkout of google-deepmind/recurrentgemma or HazyResearch/zoology to compare models and "
            "launchers with."
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=200, help="Trials that scale runs.", show_default="1000")
    ] = None,
) -> None:
    """Measure recallfront itself."""
    from recallfront.benchmarks.tables import run_benchmarks

    run_benchmarks(what or [], against, trials)


def doctor(
    home: Home = None,
    tracking_uri: TrackingUri = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to check: auto, or HOST:PORT.")] = None,
    plugin: Plugins = None,
) -> None:
    """Check what is installed and what answers. Show how to fix what does not."""
    from rich.console import Console

    from recallfront.platform.doctor import examine

    report = examine(home=home, tracking_uri=tracking_uri, address=address, plugins=plugin or ())
    Console(width=table_width()).print(report.table())
    sys.exit(0 if report.healthy else 1)
