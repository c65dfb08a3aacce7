"""Learning curves: what trials reported step by step.

MLflow is imported where it is first used, so that the command starts fast.
"""

from collections.abc import Iterable

from recallfront.platform.errors import UsageError, root_cause
from recallfront.platform.tracking.client import fail_fast, open_client

Curve = list[tuple[int, float]]  # (step, value), in the order of the steps
_REQUEST_SECONDS = 60


def read_curves(
    tracking_uri: str, run_ids: Iterable[str], metrics: Iterable[str]
) -> dict[str, dict[str, Curve]]:
    """Run id -> metric -> its values by step; a metric that a run has never reported is an empty curve.

    Raises:
        UsageError: the store cannot be read, or has no such run.
    """
    from mlflow.exceptions import MlflowException

    wanted = list(metrics)
    try:
        with fail_fast(_REQUEST_SECONDS):
            client = open_client(tracking_uri)
            return {
                run: {
                    # a step that a resumed trial reports again counts once, as it was told last
                    name: sorted({m.step: m.value for m in client.get_metric_history(run, name)}.items())
                    for name in wanted
                }
                for run in run_ids
            }
    except (MlflowException, OSError) as error:
        raise UsageError(f"the MLflow store {tracking_uri!r} cannot be read: {root_cause(error)}") from error
