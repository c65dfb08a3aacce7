"""Commands on whole sweeps: run them, submit them, see where they are, tidy up after them.

What a command needs is imported in it, so that the others start fast.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recallfront.commands.options import Home, Plugins, SweepName, TrackingUri
from recallfront.platform.errors import UsageError, printable
from recallfront.terminal import INTERRUPTED, show_result, show_scores, table_width

if TYPE_CHECKING:
    from rich.console import Console

    from recallfront.sweeps.spec import SweepSpec
    from recallfront.sweeps.suite import Suite


def run(
    study_or_file: Annotated[
        str, typer.Argument(help="Name of a study that comes with recallfront, or a YAML file.")
    ],
    home: Home = None,
    tracking_uri: TrackingUri = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Ray cluster to join: auto, or HOST:PORT.", show_default="RAY_ADDRESS, or this machine"
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Run a sweep or a suite of sweeps, or resume it. No finished trial runs twice."""
    from rich.console import Console

    from recallfront.platform.home import home_folder
    from recallfront.platform.home.address import home_name
    from recallfront.platform.plugins import load
    from recallfront.platform.sweep.cancelled import Cancelled
    from recallfront.sweeps.load import load_study
    from recallfront.sweeps.suite import Suite

    console = Console(width=table_width())
    load(plugin or ())
    study = load_study(study_or_file)
    kind = (
        f"suite {study.name} of {len(study.parts)} sweeps"
        if isinstance(study, Suite)
        else f"sweep {study.name}"
    )
    where = home_name(home_folder(home).resolve())
    console.print(
        f"{kind} ({study.key[:8]}): {study.number_of_trials} trials, outputs in {where}",
        markup=False,
        highlight=False,
    )
    try:
        found_any = _run(study, home, tracking_uri, address, console)
    except Cancelled as request:
        print(f"recallfront: {request}; run it again to resume it", file=sys.stderr)
        sys.exit(INTERRUPTED)
    if not found_any:
        sys.exit(1)


def _run(
    study: "SweepSpec | Suite",
    home: str | None,
    tracking_uri: str | None,
    address: str | None,
    console: "Console",
) -> bool:
    """Run a study and print how it ended -> whether any of its trials finished."""
    from recallfront.platform.sweep.run import SweepResult, run_sweep
    from recallfront.platform.sweep.suite import run_suite
    from recallfront.sweeps.suite import Suite

    if not isinstance(study, Suite):
        result = run_sweep(study, home=home, tracking_uri=tracking_uri, address=address, console=console)
        show_result(result, console)
        return result.front is not None

    def ended(result: SweepResult) -> None:
        console.print(f"{result.record.name}:", markup=False, highlight=False)
        show_result(result, console, short=True)

    found = run_suite(
        study, home=home, tracking_uri=tracking_uri, address=address, console=console, ended=ended
    )
    show_scores(found, console)
    return bool(found.table)


def studies() -> None:
    """List the studies that come with recallfront."""
    from rich.console import Console

    from recallfront.platform.status import studies_table

    Console(width=table_width()).print(studies_table())


def scores(
    study_or_file: Annotated[
        str, typer.Argument(help="Name of a suite that comes with recallfront, or its file.")
    ],
    home: Home = None,
    tracking_uri: TrackingUri = None,
    plugin: Plugins = None,
) -> None:
    """Show the scores of a suite, and the verdicts on its claims. Scores are by task and architecture."""
    from rich.console import Console

    from recallfront.platform.sweep.suite import read_scores

    found = read_scores(study_or_file, home=home, tracking_uri=tracking_uri, plugins=plugin or ())
    show_scores(found, Console(width=table_width()))


def submit(
    file: Annotated[
        str,
        typer.Argument(
            help="Name of a study that comes with recallfront, or a YAML file: of one sweep, not of a suite."
        ),
    ],
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of the cluster: http://HEAD:8265."),
    ],
    tracking_uri: Annotated[
        str,
        typer.Option(
            envvar=["RECALLFRONT_TRACKING_URI", "MLFLOW_TRACKING_URI"],
            help="MLflow server that the cluster can reach.",
        ),
    ],
    home: Annotated[
        str,
        typer.Option(
            metavar="PATH|URI",
            help="Folder for all outputs on the cluster, shared by its nodes; or the address of one: "
            "s3://BUCKET/FOLDER.",
        ),
    ] = "~/recallfront-home",
    follow: Annotated[
        bool, typer.Option(help="Follow the log of the job; Ctrl-C leaves the log, and the job continues.")
    ] = True,
    plugin: Plugins = None,
) -> None:
    """Send a sweep to a Ray cluster as a job. It continues without this terminal."""
    from recallfront.platform.cluster.jobs import follow_job
    from recallfront.platform.cluster.jobs import submit as submit_job

    job, is_new = submit_job(
        file, address=address, tracking_uri=tracking_uri, home=home, plugins=plugin or ()
    )
    done = "submitted" if is_new else "already running as"
    print(f"{done} {job}; join again with: recallfront status {job} --address {address} --follow")
    if follow:
        sys.exit(0 if follow_job(job, address=address) else 1)


def cancel(
    name: Annotated[str, typer.Argument(help="A sweep that runs, or the job that submit has made of it.")],
    home: Home = None,
    tracking_uri: TrackingUri = None,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of a cluster: cancel a job there.", show_default="none")
    ] = None,
) -> None:
    """Cancel a sweep. What runs is checkpointed, its workers end, and it can be resumed."""
    from recallfront.platform.sweep.cancel import cancel as cancel_sweep

    print(cancel_sweep(name, home=home, tracking_uri=tracking_uri, address=address))


def logs(
    name: SweepName,
    trial: Annotated[
        str | None,
        typer.Argument(help="Run id or key of a trial; the first 6 digits are enough.", show_default="all"),
    ] = None,
    home: Home = None,
    tracking_uri: TrackingUri = None,
    follow: Annotated[bool, typer.Option("--follow", help="Continue until the sweep has ended.")] = False,
) -> None:
    """Show the log of a sweep, or of one of its trials. It holds what they did, reported and printed."""
    from recallfront.platform.sweep.log import read_log

    for line in read_log(name, trial, home=home, tracking_uri=tracking_uri, follow=follow):
        print(printable(line), flush=follow)


def status(
    name: Annotated[
        str | None, typer.Argument(help="A sweep; with --address, a job.", show_default="all")
    ] = None,
    home: Home = None,
    tracking_uri: TrackingUri = None,
    address: Annotated[
        str | None, typer.Option(help="Dashboard of a cluster: show its jobs instead.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Follow the log of a job.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List all trials of a sweep, however many.")] = False,
) -> None:
    """Show the progress of sweeps. With --address, show the jobs of a cluster."""
    from rich.console import Console

    from recallfront.platform.cluster.jobs import follow_job
    from recallfront.platform.status import jobs_table, sweep_table, sweeps_table

    if every and (address is not None or name is None):
        raise UsageError("--all: needs the name of a sweep, and no --address")
    if follow:
        if address is None or name is None:
            raise UsageError(
                "--follow: needs the name of a job, and --address with the dashboard of its cluster"
            )
        sys.exit(0 if follow_job(name, address=address) else 1)
    if address is not None:
        table = jobs_table(address, name)
    elif name:
        table = sweep_table(name, every=every, home=home, tracking_uri=tracking_uri)
    else:
        table = sweeps_table(home=home, tracking_uri=tracking_uri)
    Console(width=table_width()).print(table)


def export(
    name: SweepName,
    file: Annotated[Path, typer.Argument(help="The archive to write, a zip file.")],
    weights: Annotated[bool, typer.Option("--weights", help="With the weights of its trials.")] = False,
    home: Home = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write a sweep into one archive. It holds specification, trials, curves, lineage and front."""
    from recallfront.platform.keeping.export import export as export_sweep

    done = export_sweep(name, file, weights=weights, home=home, tracking_uri=tracking_uri)
    size = f"{done.bytes / 2**20:.1f} MiB"
    print(f"sweep {done.name} ({done.sweep_key[:8]}): {done.runs} runs, {size}, in {done.file}")


def import_(
    file: Annotated[Path, typer.Argument(help="An archive that `recallfront export` has written.")],
    home: Home = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Take a sweep out of an archive into a store. Nothing of the archive is run."""
    from recallfront.platform.keeping.load import load_archive

    done = load_archive(file, home=home, tracking_uri=tracking_uri)
    print(f"sweep {done.name} ({done.sweep_key[:8]}): {done.runs} runs, as run {done.run_id[:8]}")


def delete(
    name: SweepName,
    home: Home = None,
    tracking_uri: TrackingUri = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    versions: Annotated[
        bool, typer.Option("--versions", help="Delete the registered models of its trials, too.")
    ] = False,
) -> None:
    """Delete a sweep. Its runs in MLflow go, and what the home keeps of it."""
    from recallfront.platform.keeping.delete import delete as delete_sweep
    from recallfront.platform.keeping.delete import find_deletion

    found = find_deletion(name, home=home, tracking_uri=tracking_uri)
    print(found)
    if found.versions:
        models = ", ".join(f"{model} version {version}" for model, version in found.versions)
        print(f"registered models, which are {'deleted, too' if versions else 'kept'}: {printable(models)}")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask on: say --yes to delete it")
        typer.confirm("Delete them?", abort=True)
    for path in delete_sweep(found, versions=versions):
        print(f"{path} stays: another sweep runs a trial in it")
    print("deleted; MLflow keeps the runs' artifacts until `mlflow gc`")


def clean(
    home: Home = None,
    tracking_uri: TrackingUri = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
) -> None:
    """Delete the checkpoints of trials that have ended for good. Current versions do so when a trial ends."""
    from recallfront.platform.keeping.clean import clean as clean_home

    found = clean_home(home=home, tracking_uri=tracking_uri, dry_run=dry_run)
    for leftover in found:
        print(f"{leftover.bytes / 2**20:10.1f} MiB  {leftover.status.value:13}  {leftover.folder}")
    done = "would be deleted" if dry_run else "deleted"
    print(f"checkpoints of {len(found)} trials, {sum(one.bytes for one in found) / 2**20:.1f} MiB, {done}")
