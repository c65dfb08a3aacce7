"""Environment variables that a sweep does not obey."""

from recallfront.platform.sweep.variables import passed_over


def test_variables_that_a_sweep_passes_over_are_told() -> None:
    told = passed_over(
        {"MLFLOW_EXPERIMENT_NAME": "mine", "TUNE_RESULT_DIR": "/x", "MLFLOW_RUN_ID": "", "HF_HOME": "/y"}
    )
    assert told == [
        "MLFLOW_EXPERIMENT_NAME is not used: the experiment of a sweep has the sweep's name",
        "TUNE_RESULT_DIR is not used: what Ray Tune writes lies in the sweep's home",
    ]
