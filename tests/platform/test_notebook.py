"""Sweeps in a notebook, off a real store."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recallfront.platform import front, sweep
from recallfront.platform.errors import UsageError
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.results.status import Status
from tests.dashboards.served import EVIL, write
from tests.platform.stores import ready_store

# a sweep of two trials, one of which ends while a cell shows its progress
PROGRESS = """
import time
from types import SimpleNamespace
from recallfront.platform.sweep.progress import Progress
from recallfront.platform.sweep.run import _console
from tests.platform.specs import tiny_spec
from recallfront.platform.results.status import COUNTED
counts = dict.fromkeys(COUNTED, 0) | {"running": 1}
conductor = SimpleNamespace(spec=tiny_spec(), started=time.time(), counts=lambda: counts, best=lambda: None,
                            mean_seconds=lambda: None, budget_left=lambda: "<i>", waiting="")
with Progress(conductor, _console(), total=2, concurrent=1):
    time.sleep(0.2)
    counts["finished"] = 1
"""

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"
MakeRecord = Callable[..., SweepRecord]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory, make_record: MakeRecord) -> str:
    store = ready_store(tmp_path_factory.mktemp("home"))
    write(make_record(12, (Status.DIVERGED,)), store, "finished")
    return store


def test_a_sweep_s_results_are_frames(uri: str) -> None:
    found = sweep("quickstart", tracking_uri=uri)
    trials, configurations = found.trials(), found.configurations()
    assert len(repr(found)) < 400 and "spec" not in repr(found.front)
    assert len(trials) == 13 and set(trials["status"]) == {"finished", "diverged"}
    assert trials["failure"].dropna().tolist() == ["loss is nan at step 120"]
    assert len(configurations) == 12 and configurations["on_front"].sum() == len(found.front.members)
    best = configurations.sort_values("validation_recall").iloc[-1]
    assert best["architecture"] == "attention" and best["decode_tokens_per_second_spread"] == 29
    curves = found.curves()
    assert len(curves) == 12 * 7 and curves.groupby("run_id")["loss"].last().round(2).unique().tolist() == [
        0.57
    ]
    with pytest.raises(UsageError, match="no trial of quickstart has 'los'; known are decode_tokens"):
        found.curves("los")
    assert found._repr_mimebundle_()["text/plain"] == found.front._repr_mimebundle_()["text/plain"]


def test_a_front_shows_its_picture_and_its_table(uri: str, make_record: MakeRecord, tmp_path: Path) -> None:
    shown = front("quickstart", tracking_uri=uri)._repr_mimebundle_()
    assert "Plotly.newPlot" in shown["text/html"] and "<td>attention</td>" in shown["text/html"]
    assert 'src="http' not in shown["text/html"] and "8 of 12 configurations" in shown["text/plain"]
    hostile = make_record()
    hostile.trials[1].config["model"]["window_size"] = EVIL
    html = front(hostile)._repr_html_()
    assert "&lt;/script&gt;" in html and EVIL not in html
    with pytest.raises(UsageError, match="there is no MLflow store"):
        sweep("quickstart", home=tmp_path)


def test_the_notebook_of_the_documents_runs(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its outputs are stripped, and each cell gives what it promises."""
    import nbclient
    import nbformat
    from traitlets.config import Config

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("RECALLFRONT_HOME", uri.removeprefix("sqlite:///").rpartition("/")[0])
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]
    notebook.cells.append(nbformat.v4.new_code_cell(PROGRESS))
    sockets = tmp_path_factory.mktemp("k") / "s"
    files = Config(ConnectionFileMixin={"transport": "ipc", "ip": str(sockets)})
    nbclient.NotebookClient(notebook, timeout=120, config=files).execute()
    (bar,) = notebook.cells.pop().outputs
    assert '<progress value="1" max="2">' in bar.data["text/html"] and "&lt;i&gt;" in bar.data["text/html"]
    shown = [cell.outputs[-1].data for cell in notebook.cells if cell.get("outputs")]
    assert len(shown) == 6 and "Plotly.newPlot" in shown[0]["text/html"]
    assert all("<table" in one["text/html"] for one in shown[:3]) and "hypervolume" in shown[-1]["text/plain"]
