"""What a store, a cluster or a trial says obeys no terminal: its escape sequences are shown, and not sent."""

import json
from pathlib import Path

import pytest

from recallfront.__main__ import run
from recallfront.platform.errors import one_line, printable, printable_lines
from recallfront.platform.results.records import TAG
from recallfront.platform.sweep.log import SweepLog, log_path
from recallfront.platform.tracking.client import open_client
from recallfront.sweeps.load import parse_spec
from tests.platform.specs import tiny
from tests.platform.stores import ready_store

TITLE = "\x1b]0;forged\x07\r\nbegun"
KEY = "ab" * 32


def test_what_a_terminal_obeys_is_told_by_its_number() -> None:
    assert printable("a\tb\nc é 🦊") == "a\tb\\nc é 🦊"
    assert printable_lines("a\tb\nc é\x07 🦊\n") == "a\tb\nc é\\x07 🦊\n"
    assert printable(f"{TITLE}\x00\x7f\x9b2J\ud800") == r"\x1b]0;forged\x07\r\nbegun\x00\x7f\x9b2J\ud800"
    assert one_line("no\x1b[2K\r\nsuch run") == r"no\x1b[2K such run"


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A home whose store has a sweep with escape sequences wherever somebody may write them."""
    client = open_client(ready_store(tmp_path))
    experiment = client.create_experiment(f"mine{TITLE}", str(tmp_path / "mlartifacts"))
    claim = {"id": "c", "sentence": f"It is so{TITLE}.", "claim": "recall(architecture=attention) > 0.5"}
    spec = parse_spec(json.dumps(tiny()), source="x").model_dump(mode="json") | {"claims": [claim]}
    own = {"kind": "sweep", "sweep_key": KEY, "status": "running", "waiting": TITLE, "budget_left": TITLE}
    sweep = client.create_run(experiment, tags={f"{TAG}{name}": value for name, value in own.items()})
    client.log_text(sweep.info.run_id, json.dumps(spec), "spec.json")
    for status, knob in (("finished", f"L{TITLE}"), ("finished", "L"), ("error", "L")):
        config = {"model": {"architecture": f"att{TITLE}", "pattern": knob}, "seed": TITLE}
        tags = {"kind": "trial", "trial_key": KEY, "status": status, "config": json.dumps(config)}
        tags |= {"failure": f"no{TITLE}", "notice": TITLE, "node": TITLE}
        made = client.create_run(
            experiment,
            tags={f"{TAG}{name}": value for name, value in tags.items()}
            | {"mlflow.parentRunId": sweep.info.run_id},
        )
        for metric in ("validation_recall", "recall", "decode_tokens_per_second"):
            client.log_metric(made.info.run_id, metric, 0.5)
    SweepLog(log_path(KEY, tmp_path)).write(f"a trial prints\x1b[2J{TITLE}")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    ["status", f"status {KEY}", f"front {KEY} --all", f"front {KEY} --csv", f"logs {KEY}"]
    + [f"pick {KEY} --no-register", f"compare {KEY} {KEY} --all", "status nothing"],
)
def test_a_store_sends_nothing_to_the_terminal(
    planted: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code = run([*command.split(), "--home", str(planted)])
    out, err = capsys.readouterr()
    assert code == (2 if "nothing" in command else 0), err
    assert "forged" in out + err
    assert out + err == printable_lines(out + err)
    assert not any(line.startswith("begun") for line in (out + err).splitlines())
