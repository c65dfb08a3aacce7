"""Commands that choose: the front of a sweep, that of two beside each other, and a configuration from one.

What a command needs is imported in it, so that the others start fast.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from recallfront.commands.options import Home, Plugins, SweepName, TrackingUri
from recallfront.platform.errors import UsageError
from recallfront.terminal import table_width


def front(
    sweep: SweepName,
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

    from recallfront.platform.front.front import build_front
    from recallfront.platform.front.pictures.characters import front_in_characters
    from recallfront.platform.front.pictures.figures import check_plot, write_plot
    from recallfront.platform.front.tables import FrontTable, as_csv
    from recallfront.platform.tracking.records import read_record

    if csv and json:
        raise UsageError("--csv and --json: give only one of them")
    if plot is not None:
        check_plot(plot)
    found = build_front(read_record(sweep, home=home, tracking_uri=tracking_uri))
    if csv or json:
        print(as_csv(found) if csv else found.to_json(), end="\n" if json else "")
    else:
        console = Console(width=table_width())
        if console.is_terminal and (picture := front_in_characters(found, console.width)) is not None:
            console.print(picture)
        console.print(FrontTable(found, members_only=not every))
    if plot is not None:
        write_plot(found, plot)
        print(f"plot: {plot}", file=sys.stderr)


def claims(sweep: SweepName, home: Home = None, tracking_uri: TrackingUri = None) -> None:
    """Show the verdicts on the claims of a sweep."""
    from rich.console import Console

    from recallfront.platform.front.claims import claims as judge_claims
    from recallfront.platform.front.tables import claims_table

    judgements = judge_claims(sweep, home=home, tracking_uri=tracking_uri)
    if not judgements:
        print(
            "the sweep has no claims: add `claims` to its specification and run it again; no trial runs twice"
        )
        return
    Console(width=table_width()).print(claims_table(judgements))


def report(
    sweep: Annotated[
        str, typer.Argument(help="A sweep: its study, run id or key; or a suite: its study or file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to; made if need be.")],
    home: Home = None,
    tracking_uri: TrackingUri = None,
    plugin: Plugins = None,
) -> None:
    """Write the report of a sweep or a suite. It is a self-contained HTML page, Markdown, SVG and PNG."""
    from recallfront.platform.front.pictures.report import write_report
    from recallfront.platform.front.pictures.suite_report import is_suite, write_suite_report
    from recallfront.platform.plugins import load

    load(plugin or ())
    write = write_suite_report if is_suite(sweep) else write_report
    for kind, path in write(sweep, out, home=home, tracking_uri=tracking_uri).items():
        print(f"{kind}: {path}")


def compare(
    before: Annotated[str, typer.Argument(help="The first sweep: its study, run id or key.")],
    after: Annotated[str, typer.Argument(help="The second.")],
    home: Home = None,
    tracking_uri: TrackingUri = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show all configurations, not only those on a front.")
    ] = False,
    fail_if_worse: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Exit with 1 if the second's hypervolume, as measured, is lower by more than this part, such as "
            "0.01.",
        ),
    ] = None,
) -> None:
    """Compare a sweep with an earlier one. Show what is new, lost or moved, and how the hypervolume differs."""
    from rich.console import Console

    from recallfront.platform.front.compare import compare as compare_sweeps
    from recallfront.platform.front.tables import comparison_table

    if csv and json:
        raise UsageError("--csv and --json: give only one of them")
    found = compare_sweeps(before, after, home=home, tracking_uri=tracking_uri)
    if csv or json:
        print(found.as_csv() if csv else found.to_json(), end="\n" if json else "")
    else:
        Console(width=table_width()).print(comparison_table(found, every=every))
        print(found.told)
        for key, first, second in found.differences:
            print(f"  {key}: {first} -> {second}")
    if fail_if_worse is not None and found.is_worse(fail_if_worse):
        print(f"worse by more than {100 * fail_if_worse:g} %: {found.told}", file=sys.stderr)
        sys.exit(1)


def pick(
    sweep: SweepName,
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
    """Choose a Pareto-optimal configuration, and say why."""
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
        for path in registry.export_model(
            picked, out, home=home, tracking_uri=tracking_uri, force=force
        ).values():
            print(f"wrote {path}")
    if not no_register:
        name = register or picked.front.sweep
        is_knee = picked.candidate is picked.front.knee and not (where or maximise or minimise)
        alias = alias or ("pareto-knee" if is_knee else "pareto-pick")
        version = registry.register(picked, name, alias, home=home, tracking_uri=tracking_uri)
        print(f"registered {name} version {version} as models:/{name}@{alias}")
