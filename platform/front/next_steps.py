"""What to do next with a sweep, as commands: the terminal and the sweep's page show the same."""

from recallfront.platform.front.front import Front


def next_commands(
    front: Front, sweep: str, *, program: str = "recallfront", options: str = ""
) -> list[tuple[str, str]]:
    """(what it does, command) for a sweep that `sweep` names; `options` say where its store is."""
    commands = [("The front as a table", f"front {sweep}")]
    recalls = [c.metrics["validation_recall"] for c in front.candidates if "validation_recall" in c.metrics]
    if front.knee is not None and recalls:
        floor = int(10 * max(recalls)) / 10  # the best reaches it
        fastest = next((o for o in front.objectives if o.metric != "recall"), front.objectives[0])
        best = f"--where 'recall >= {floor:g}' --{fastest.direction} {fastest.metric}"
        commands += [
            ("Pick the knee, register it, write its weights", f"pick {sweep} --knee --out model"),
            ("Pick the best with enough recall", f"pick {sweep} {best}"),
            ("Run the knee again from its lineage", f"rerun {front.knee.run_ids[0][:12]}"),
        ]
    return [(what, f"{program} {command}{options}") for what, command in commands]
