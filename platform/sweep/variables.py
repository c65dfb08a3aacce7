"""Environment variables that other tools of this ecosystem obey and a sweep does not: each is told, in a sentence."""

import os
from collections.abc import Mapping
from typing import Final

_OWN_EXPERIMENT: Final = "the experiment of a sweep has the sweep's name"
_TRIED_ONCE: Final = (
    "a request is tried once, for at most a minute; what fails waits in the spool and is sent again"
)
_OWN_ARTIFACTS: Final = "artifacts lie beside a SQLite store, or where the tracking server keeps them"
_PASSED_OVER: Final[Mapping[str, str]] = {
    "MLFLOW_EXPERIMENT_NAME": _OWN_EXPERIMENT,
    "MLFLOW_EXPERIMENT_ID": _OWN_EXPERIMENT,
    "MLFLOW_RUN_ID": "a sweep and its trials are runs of their own",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": _TRIED_ONCE,
    "MLFLOW_HTTP_REQUEST_TIMEOUT": _TRIED_ONCE,
    "MLFLOW_BACKEND_STORE_URI": "the store is named by --tracking-uri or MLFLOW_TRACKING_URI",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT": _OWN_ARTIFACTS,
    "MLFLOW_ARTIFACTS_DESTINATION": _OWN_ARTIFACTS,
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "system metrics are not recorded",
    "TUNE_RESULT_DIR": "what Ray Tune writes lies in the sweep's home",
    "RAY_AIR_LOCAL_CACHE_DIR": "what Ray Tune writes lies in the sweep's home",
}


def passed_over(environment: Mapping[str, str] | None = None) -> list[str]:
    """A sentence for each variable that is set and not obeyed."""
    given = os.environ if environment is None else environment
    return [f"{name} is not used: {why}" for name, why in _PASSED_OVER.items() if given.get(name)]
