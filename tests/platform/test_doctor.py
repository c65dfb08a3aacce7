"""The doctor: what is well, what is not, and how to fix it."""

import io
import socket
from pathlib import Path

import pytest
from rich.console import Console

from recallfront.__main__ import run
from recallfront.platform import doctor
from recallfront.platform.doctor import Examination, Finding, examine


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def finding(report: Examination, what: str) -> Finding:
    (found,) = (finding for finding in report.findings if finding.what == what)
    return found


def test_what_does_not_answer_is_to_fix(tmp_path: Path) -> None:
    report = examine(home=tmp_path / "home", tracking_uri=f"http://{nobody()}", address=nobody())
    assert not report.healthy
    assert {f.what for f in report.findings if not f.fine} == {"MLflow", "Ray"}
    assert "does not answer" in finding(report, "MLflow").said
    assert (
        "no Ray cluster answers there" in finding(report, "Ray").said
        and "HOST:PORT" in finding(report, "Ray").said
    )
    text = io.StringIO()
    Console(file=text, width=200).print(report.table())
    assert text.getvalue().count("fix") == 2 and "torch" in text.getvalue()


def test_storage_that_cannot_be_written_is_to_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    storage = finding(examine(home=tmp_path / "file" / "home", address=nobody()), "storage")
    assert not storage.fine and "file" in storage.said


def test_a_package_that_is_missing_is_to_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "LIBRARIES", {"torch": True, "no-such-package": False})
    report = examine(home=tmp_path, address=nobody())
    assert finding(report, "torch").fine
    assert finding(report, "no-such-package").said == "not installed: pip install no-such-package"


@pytest.mark.slow
def test_all_is_well_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["doctor", "--home", str(tmp_path / "home")])
    shown = capsys.readouterr().out
    assert code == 0 and "fix" not in shown, shown
    for what in ("Python", "torch", "ray", "mlflow", "devices", "kernels", "storage", "MLflow", "Ray"):
        assert what in shown
    assert "linear_scan" in shown and "window_attention" in shown
