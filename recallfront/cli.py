"""The command line. Each command is thin: it calls the function of the same name and prints the result.

What a command needs is imported in it, so that the others start fast.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from recallfront.terminal import show_result, table_width

app = typer.Typer(
    name="recallfront",
    help="Finds the recall-throughput trade-off of efficient language-model architectures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _folder(text: str) -> Path:
    """A folder as given; an empty one, as of an unset variable, would be the working directory."""
    if not text.strip():
        raise typer.BadParameter("is empty: name a folder, or leave it out")
    return Path(text)


Home = Annotated[
    Path | None,
    typer.Option(
        parser=_folder,
        metavar="PATH",
        envvar="RECALLFRONT_HOME",
        help="Folder for all outputs.",
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
Sweep = Annotated[
    str, typer.Argument(help="Name of a study, run id of a sweep, or the first digits of its key.")
]
Run = Annotated[str, typer.Argument(help="Run id or key of a trial; the first 6 digits are enough.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        from recallfront import __version__

        print(f"recallfront {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
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
    """Run a sweep, or resume it: no finished trial runs twice."""
    from rich.console import Console

    from recallfront.platform.home import home_folder
    from recallfront.platform.plugins import load
    from recallfront.platform.sweep.run import run_sweep
    from recallfront.sweeps import load_spec

    console = Console(width=table_width())
    load(plugin or ())
    spec = load_spec(study_or_file)
    console.print(
        f"sweep {spec.name} ({spec.key[:8]}): {spec.number_of_trials} trials, outputs in {home_folder(home).resolve()}",
        markup=False,
        highlight=False,
    )
    result = run_sweep(spec, home=home, tracking_uri=tracking_uri, address=address, console=console)
    show_result(result, console)
    if result.front is None:
        sys.exit(1)


@app.command()
def clean(
    home: Home = None,
    tracking_uri: TrackingUri = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
) -> None:
    """Delete the checkpoints of trials that have ended for good; current versions do so when a trial ends."""
    from recallfront.platform.clean import clean as clean_home

    found = clean_home(home=home, tracking_uri=tracking_uri, dry_run=dry_run)
    for leftover in found:
        print(f"{leftover.bytes / 2**20:10.1f} MiB  {leftover.status.value:13}  {leftover.folder}")
    done = "would be deleted" if dry_run else "deleted"
    print(f"checkpoints of {len(found)} trials, {sum(one.bytes for one in found) / 2**20:.1f} MiB, {done}")


@app.command()
def submit(
    file: Annotated[str, typer.Argument(help="Name of a study that comes with recallfront, or a YAML file.")],
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
        str, typer.Option(help="Folder for all outputs on the cluster, shared by its nodes.")
    ] = "~/recallfront-home",
    follow: Annotated[
        bool, typer.Option(help="Follow the log of the job; Ctrl-C leaves the log, and the job continues.")
    ] = True,
    plugin: Plugins = None,
) -> None:
    """Send a sweep to a Ray cluster as a job that continues without this terminal."""
    from recallfront.platform.cluster.jobs import follow_job
    from recallfront.platform.cluster.jobs import submit as submit_job

    job, is_new = submit_job(
        file, address=address, tracking_uri=tracking_uri, home=home, plugins=plugin or ()
    )
    done = "submitted" if is_new else "already running as"
    print(f"{done} {job}; join again with: recallfront status {job} --address {address} --follow")
    if follow:
        sys.exit(0 if follow_job(job, address=address) else 1)


@app.command()
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
) -> None:
    """Show the progress of sweeps; with --address, the jobs of a cluster."""
    from rich.console import Console

    from recallfront.platform.cluster.jobs import follow_job
    from recallfront.platform.errors import UsageError
    from recallfront.platform.status import jobs_table, sweep_table, sweeps_table

    if follow:
        if address is None or name is None:
            raise UsageError(
                "--follow: needs the name of a job, and --address with the dashboard of its cluster"
            )
        sys.exit(0 if follow_job(name, address=address) else 1)
    if address is not None:
        table = jobs_table(address, name)
    elif name:
        table = sweep_table(name, home=home, tracking_uri=tracking_uri)
    else:
        table = sweeps_table(home=home, tracking_uri=tracking_uri)
    Console(width=table_width()).print(table)


@app.command()
def front(
    sweep: Sweep,
    home: Home = None,
    tracking_uri: TrackingUri = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the plot: FILE.html or FILE.png.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Show all configurations, not only the front.")
    ] = False,
) -> None:
    """Show the Pareto front of a sweep."""
    from rich.console import Console

    from recallfront.platform.errors import UsageError
    from recallfront.platform.front.front import front as find_front
    from recallfront.platform.front.pictures.figures import check_plot, write_plot
    from recallfront.platform.front.tables import as_csv, as_table

    if csv and json:
        raise UsageError("--csv and --json: give only one of them")
    if plot is not None:
        check_plot(plot)
    found = find_front(sweep, home=home, tracking_uri=tracking_uri)
    if csv or json:
        print(as_csv(found) if csv else found.to_json(), end="\n" if json else "")
    else:
        Console(width=table_width()).print(as_table(found, members_only=not every))
    if plot is not None:
        write_plot(found, plot)
        print(f"plot: {plot}", file=sys.stderr)


@app.command()
def pick(
    sweep: Sweep,
    home: Home = None,
    tracking_uri: TrackingUri = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Condition such as 'recall >= 0.9'; may be repeated.")
    ] = None,
    maximise: Annotated[str | None, typer.Option("--max", help="Metric to maximise.")] = None,
    minimise: Annotated[str | None, typer.Option("--min", help="Metric to minimise.")] = None,
    knee: Annotated[
        bool, typer.Option("--knee", help="Choose the knee of the front; the default if there is one.")
    ] = False,
    test_split_anyway: Annotated[
        bool,
        typer.Option("--test-split-anyway", help="Let the test split decide, which then proves nothing."),
    ] = False,
    anywhere: Annotated[
        bool, typer.Option("--any", help="Choose from all configurations, not only the front.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write recallfront.json and model.safetensors to this folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --out write over another model.")] = False,
    register: Annotated[
        str | None, typer.Option(help="Register the model under this name.", show_default="the sweep's name")
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(help="Alias of the registered version.", show_default="pareto-knee or pareto-pick"),
    ] = None,
    no_register: Annotated[bool, typer.Option("--no-register", help="Do not register the model.")] = False,
) -> None:
    """Choose a Pareto-optimal configuration, and explain the choice."""
    from recallfront.platform.front import pick as picking
    from recallfront.platform.front import registry

    if not no_register:
        registry.check_names(register, alias)
    picked = picking.pick(
        sweep,
        where=where or (),
        maximise=maximise,
        minimise=minimise,
        knee=knee,
        members_only=not anywhere,
        test_split_anyway=test_split_anyway,
        home=home,
        tracking_uri=tracking_uri,
    )
    print(picked.reason)
    print(f"run: {picked.run_id}")
    if out is not None:
        for path in registry.export(picked, out, home=home, tracking_uri=tracking_uri, force=force).values():
            print(f"wrote {path}")
    if not no_register:
        name = register or picked.front.sweep
        is_knee = picked.candidate is picked.front.knee and not (where or maximise or minimise)
        alias = alias or ("pareto-knee" if is_knee else "pareto-pick")
        version = registry.register(picked, name, alias, home=home, tracking_uri=tracking_uri)
        print(f"registered {name} version {version} as models:/{name}@{alias}")


@app.command()
def rerun(run: Run, home: Home = None, tracking_uri: TrackingUri = None, plugin: Plugins = None) -> None:
    """Run a trial again from its lineage alone, and compare the two runs."""
    from rich.console import Console

    from recallfront.platform.rerun import rerun as run_again

    result = run_again(run, home=home, tracking_uri=tracking_uri, plugins=plugin or ())
    Console(width=table_width()).print(result.table())
    print(f"verdict: {result.verdict.value}: {result.reason}")
    print(f"run: {result.run_id}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Run id or key of a text trial, or the folder of a model.")],
    data: Annotated[Path, typer.Option(help="Folder with the data sets of the suite.")],
    suite: Annotated[str, typer.Option(help="What to evaluate on: recall.")] = "recall",
    twice: Annotated[bool, typer.Option("--twice", help="Put every document into its prompt twice.")] = False,
    context_length: Annotated[
        int, typer.Option(min=60, help="Tokens that documents are truncated to.")
    ] = 1000,
    most: Annotated[
        int | None, typer.Option(min=1, help="Documents of a data set, at most.", show_default="all")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer: a folder or a name.", show_default="the trial's")
    ] = None,
    home: Home = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Evaluate a finished model on the recall suite, and add the figures to its run."""
    from rich.console import Console

    from recallfront.platform.errors import UsageError
    from recallfront.platform.evaluate import evaluate as evaluate_model

    if suite != "recall":
        raise UsageError(f"--suite {suite}: must be recall")
    found = evaluate_model(
        model,
        data,
        twice=twice,
        context_length=context_length,
        most=most,
        tokenizer=tokenizer,
        home=home,
        tracking_uri=tracking_uri,
    )
    Console(width=table_width()).print(found.table())
    if found.run_id is not None:
        print(f"run: {found.run_id}")


@app.command()
def lineage(run: Run, home: Home = None, tracking_uri: TrackingUri = None, plugin: Plugins = None) -> None:
    """Show everything that a rerun of a trial needs, as JSON; with --plugin, check that it had these plug-ins."""
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
    print(found.model_dump_json(indent=2))


@app.command()
def ui(
    home: Home = None,
    tracking_uri: TrackingUri = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; whoever reaches it can change the store.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Serve MLflow with recallfront's pages."""
    from recallfront.dashboards.serving import serve
    from recallfront.platform.home import home_folder

    sys.exit(serve(home_folder(home), tracking_uri, host=host, port=port))


@app.command()
def bench(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="Any of overhead, warm, quiet, tracking and models.", show_default="all"),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Checkout of google-deepmind/recurrentgemma to compare the models with."),
    ] = None,
) -> None:
    """Measure recallfront itself."""
    from recallfront.benchmarks.tables import run_benchmarks

    run_benchmarks(what or [], against)


@app.command()
def doctor(
    home: Home = None,
    tracking_uri: TrackingUri = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to check: auto, or HOST:PORT.")] = None,
    plugin: Plugins = None,
) -> None:
    """Check what is installed and what answers, and show how to fix what does not."""
    from rich.console import Console

    from recallfront.platform.doctor import examine

    report = examine(home=home, tracking_uri=tracking_uri, address=address, plugins=plugin or ())
    Console(width=table_width()).print(report.table())
    sys.exit(0 if report.healthy else 1)
