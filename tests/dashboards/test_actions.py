"""What may be done from a page, and by whom."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from recallfront.dashboards import actions
from recallfront.dashboards.choices import Constraint, choice, picked_before
from recallfront.dashboards.views import view_of
from recallfront.platform.errors import UsageError
from recallfront.platform.results.cancellation import CancelRequest
from recallfront.platform.results.records import TAG, SweepRecord
from recallfront.platform.tracking.client import open_client
from tests.platform.stores import ready_store


def test_nothing_may_be_done_unless_the_server_was_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(actions.ALLOWED, raising=False)
    assert actions.token() == ""
    with pytest.raises(UsageError, match="start it with `recallfront ui --allow-actions`"):
        actions.check("")
    monkeypatch.setenv(actions.ALLOWED, "1")
    assert len(actions.token()) >= 40
    actions.check(actions.token())
    for wrong in (None, "", actions.token() + "x", "é"):
        with pytest.raises(UsageError, match="load it again"):
            actions.check(wrong)


@pytest.mark.parametrize(
    ("sent", "allowed"),
    [
        ({}, True),  # of no browser
        ({"origin": "http://127.0.0.1:5000"}, True),
        ({"origin": "http://127.0.0.1:8888"}, False),
        ({"origin": "http://localhost:5000"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:5000"}, False),
        ({"sec-fetch-site": "none"}, True),
        # a proxy that asks for a password calls this server by another name
        ({"sec-fetch-site": "same-origin", "origin": "https://recall.example"}, True),
    ],
)
def test_a_page_of_another_origin_may_do_nothing(sent: dict[str, str], allowed: bool) -> None:
    headers = {"host": "127.0.0.1:5000"} | sent
    if allowed:
        return actions.check_origin(headers)
    with pytest.raises(UsageError, match="a page of another site asks"):
        actions.check_origin(headers)


def test_only_a_trial_of_the_sweep_is_run_again(record: SweepRecord) -> None:
    view = view_of(record, "7")
    for run in ("f" * 32, "; rm -rf .", "--home=x", ""):
        with pytest.raises(UsageError, match="the sweep has no trial of run"):
            actions.rerun(view, run, "uri", "http://h:1")


def test_a_trial_that_needs_files_of_plug_ins_is_run_again_by_its_command_alone(record: SweepRecord) -> None:
    view = view_of(record, "7", plugins_of=lambda run_id: ["my mixer.py"])
    run = str(record.trials[0].run_id)
    command = f"`recallfront rerun {run[:8]} --plugin 'my mixer.py' --tracking-uri http://h:1`"
    with pytest.raises(UsageError, match=re.escape(command)):
        actions.rerun(view, run, "uri", "http://h:1")


def test_a_sweep_that_runs_is_cancelled_and_another_is_not(record: SweepRecord, tmp_path: Path) -> None:
    uri = ready_store(tmp_path)
    client = open_client(uri)
    run = client.create_run(
        client.create_experiment("x"),
        tags={
            TAG + name: value
            for name, value in {
                "kind": "sweep",
                "sweep_key": "ab" * 32,
                "status": "running",
                "driver": "d1",
            }.items()
        },
    )
    view = view_of(replace(record, run_id=run.info.run_id), "7")
    assert actions.cancel(view, uri).startswith("asked the driver of x: ")
    tags = client.get_run(run.info.run_id).data.tags
    asked = CancelRequest.read({name: tags[TAG + name] for name in ("driver", "cancel")})
    assert asked is not None and "@" in asked.by
    client.set_tag(run.info.run_id, TAG + "status", "finished")
    with pytest.raises(UsageError, match="does not run: it is finished"):
        actions.cancel(view, uri)


def test_a_choice_has_its_reason_and_its_command(record: SweepRecord) -> None:
    view = view_of(record, "7")
    found = choice(
        view, Constraint.read({"where": "recall >= 0.9", "by": "max decode_tokens_per_second"}), "http://h:1"
    )
    assert found["reason"].startswith("based · window_size 8 · feature_dim 8 has the highest decode tokens/s")
    command = "recallfront pick 5eed0000 --where 'recall >= 0.9' --max decode_tokens_per_second"
    assert found["command"] == command + " --tracking-uri http://h:1"
    assert choice(view, Constraint.read({"by": "knee"}), "u")["reason"].startswith(
        "griffin · window_size 16 is the knee"
    )
    with pytest.raises(UsageError, match="what is chosen by the test split"):
        choice(view, Constraint.read({"by": "max test_recall"}), "u")
    with pytest.raises(UsageError, match="at most 2000 characters"):
        Constraint.read({"where": "x" * 2001})


def test_what_was_picked_is_asked_by_the_id_of_a_run_alone() -> None:
    with pytest.raises(UsageError, match="is not the id of a run"):
        picked_before("uri", "x' or '1' = '1")


def test_only_the_configuration_that_was_shown_is_registered(record: SweepRecord) -> None:
    view, asked = view_of(record, "7"), Constraint(by="max recall")
    shown = choice(view, asked, "uri")["key"]
    better = {trial.trial_key for trial in record.trials if trial.trial_key.startswith(shown)}
    left = tuple(t for t in record.trials if t.config["model"]["architecture"] != "attention")
    assert better and not better & {trial.trial_key for trial in left}
    changed = view_of(replace(record, trials=left), "7")
    for key in (shown, "", shown[:4]):
        with pytest.raises(UsageError, match="the choice is now grouped · group_size 16: choose again"):
            actions.register(changed, asked, key, "uri")
