"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer


def _home(text: str) -> str:
    """A folder or an address as given; an empty one, as of an unset variable, would be the working directory."""
    if not text.strip():
        raise typer.BadParameter("is empty: name a folder, or leave it out")
    return text


Home = Annotated[
    str | None,
    typer.Option(
        parser=_home,
        metavar="PATH|URI",
        envvar="RECALLFRONT_HOME",
        help="Folder for all outputs, or the address of one: s3://BUCKET/FOLDER.",
        show_default="./recallfront-home",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        envvar=["RECALLFRONT_TRACKING_URI", "MLFLOW_TRACKING_URI"],
        help="MLflow store: http(s)://HOST:PORT or sqlite:///FILE.",
        show_default="HOME/mlflow.db",
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", help="File with a mixer or a task of your own; may be repeated."),
]
SweepName = Annotated[
    str, typer.Argument(help="Name of a study, run id of a sweep, or the first digits of its key.")
]
Run = Annotated[str, typer.Argument(help="Run id or key of a trial; the first 6 digits are enough.")]
