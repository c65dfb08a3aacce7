"""The pages, served by a real `mlflow server` from a real SQLite store."""

import json
import os
import re
import shlex
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from html import escape, unescape
from importlib import import_module, resources
from pathlib import Path

import pytest

from recallfront.__main__ import run
from recallfront.dashboards.serving import serve, server_command
from recallfront.platform.errors import UsageError
from recallfront.platform.results.records import SweepRecord
from recallfront.platform.tracking.client import open_client
from recallfront.platform.trial.body import run_trial
from recallfront.platform.trial.workplace import TRIALS
from tests.dashboards.played import played
from tests.dashboards.served import EVIL, Served, write
from tests.platform.servers import free_port
from tests.platform.stores import ready_store
from tests.platform.sweeps import workplace

pytestmark = [
    pytest.mark.slow,
    # SQLAlchemy 2.1 finds fault with MLflow's models as they are imported
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]
MakeRecord = Callable[..., SweepRecord]
CODE = re.compile(r'<div class="command"><code tabindex="0">([^<]+)</code>')


def test_it_says_where_the_pages_are(served: Served) -> None:
    assert f"{served.uri}/recallfront/" in served.told


def test_every_sweep_is_listed(served: Served) -> None:
    page = served.get("/recallfront/")
    for name in ("finished", "running"):
        assert f'href="/recallfront/sweeps/{served.sweeps[name]}"' in page
    assert "<b>24</b> of 24 finished" in page and "5,296" in page
    assert "running-study" in page and "<b>2</b> failed" in page and "new-study" in page
    assert served.get("/recallfront") == page
    running = served.get("/recallfront/?search=STUDY&state=running&sort=hypervolume")
    assert running.index("running-study") < running.index("new-study") and "5,296" not in running
    sparks = json.loads(served.get(f"/recallfront/sparklines?sweep={served.sweeps['finished']}"))
    assert len(sparks[served.sweeps["finished"]]) == 24


def test_a_sweeps_page_shows_its_configurations_trials_and_commands(served: Served) -> None:
    page = served.get(f"/recallfront/sweeps/{served.sweeps['finished']}")
    assert 'data-running="no"' in page
    assert page.count("/#/experiments/") == 1 + 24  # the sweep's run, trials
    assert f"recallfront pick 5eed0000 --knee --out model --tracking-uri {served.uri}" in page
    inline = re.search(r'<script type="application/json" id="shown">(.*?)</script>', page, re.S)
    assert inline is not None
    shown = json.loads(inline[1])
    assert {row["label"] for row in shown["explore"]["rows"] if row["knee"]} == {"griffin · window_size 16"}
    assert len(shown["figures"]["history"]["data"][0]["y"]) == 24


@pytest.mark.usefixtures("quick_collections")
def test_every_command_of_a_page_and_of_its_panels_works(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a sweep whose trials were really trained; `rerun` reads how they ended, in place of training them again."""
    store = f"sqlite:///{served.home / 'mlflow.db'}"
    with played(served.home, store, "commands", budget={"trials": 2}) as sweep:
        place = workplace(sweep.conductor.spec, served.home)
        runs = {sweep.train(name, place)[:8] for name in ("a", "b")}
        sweep.conductor.recorder.close_sweep(finished=True, exhausted=True)
        sweep.tell()
        path = f"/recallfront/sweeps/{sweep.run_id}"
    monkeypatch.setattr(
        import_module("recallfront.platform.rerun"),
        "run_trial",
        lambda config, place: run_trial(config, replace(place, scratch=TRIALS)),
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECALLFRONT_HOME", str(served.home))
    (tmp_path / "commands.yaml").write_text(served.get(f"{path}/specification"))
    keys = [row["key"] for row in json.loads(served.get(f"{path}/configurations"))["rows"]]
    panels = [json.loads(served.get(f"{path}/configurations/{key}"))["html"] for key in keys]
    told = [unescape(text) for page in (served.get(path), *panels) for text in CODE.findall(page)]
    told += [json.loads(served.get(f"{path}/choice?by=min+state_bytes&where=recall+%3E%3D+0"))["command"]]
    commands = [shlex.split(line) for line in dict.fromkeys(told)]
    assert {command[1] for command in commands} == {"front", "pick", "rerun", "run", "report"}
    assert {command[2] for command in commands if command[1] == "rerun"} == runs
    assert {"--where", "--min"} <= {word for command in commands for word in command}
    for command in commands:
        assert command[-2:] == ["--tracking-uri", served.uri]
        assert run(command[1:]) == 0, (command, capsys.readouterr().err)
    assert (tmp_path / "report" / "report.html").is_file()


def test_the_specification_of_a_sweep_is_a_file(served: Served) -> None:
    path = f"/recallfront/sweeps/{served.sweeps['finished']}/specification"
    assert json.loads(served.get(path))["seeds"] == [0, 1]


def test_a_running_sweeps_page_is_kept_fresh(served: Served) -> None:
    path = f"/recallfront/sweeps/{served.sweeps['running']}"
    assert 'data-running="yes"' in served.get(path)
    live = json.loads(served.get(path + "/live"))
    assert live["running"] is True
    assert set(live["figures"]) == {"history"} and len(live["explore"]["rows"]) == 14
    assert "out of memory" not in live["html"] and "diverged" in live["html"]
    assert "loss is nan at step 120" in live["html"]


def test_two_sweeps_are_compared_and_one_is_explained(served: Served) -> None:
    first, second = served.sweeps["finished"], served.sweeps["running"]
    page = served.get(f"/recallfront/compare?sweep={first}&sweep={second}")
    assert "hypervolume 5,296 -&gt; " in page and "running-study" in page and "<img" not in page
    page = served.get(f"/recallfront/sweeps/{second}/understand")
    assert "What each knob does" in page and "When the trials ran" in page and "<img" not in page
    chooser = served.get(f"/recallfront/compare?sweep={first}")
    assert "Choose two to 6 sweeps" in chooser
    # a browser sends what is ticked in this order; the oldest is what the others are compared with
    assert first in chooser.split('type="checkbox"')[1] and "checked" in chooser.split('type="checkbox"')[1]
    again = served.get(f"/recallfront/compare?sweep={first}&sweep={second}&with={second}")
    assert "quickstart against running-study" in again and "recall, running-study" in again
    chooser = served.get(f"/recallfront/compare?sweep={first}&sweep={second}&page=1&search=new")
    assert chooser.count(" checked") == 2 and "1 of " in chooser and "new-study" in chooser
    many = "&".join(f"sweep={number}" for number in range(7))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{served.uri}/recallfront/compare?{many}")
    with caught.value:
        assert "7 sweeps are too many for one picture" in caught.value.read().decode()


def refusal(served: Served, path: str, headers: dict[str, str]) -> str:
    """Why an action is refused."""
    request = urllib.request.Request(served.uri + path, method="POST", headers=headers)
    with pytest.raises(urllib.error.HTTPError, match="422") as caught:
        urllib.request.urlopen(request)
    with caught.value:
        return caught.value.read().decode()


@pytest.mark.parametrize("token", [None, "", "another"])
def test_nothing_is_done_for_a_page_of_another_site(served: Served, token: str | None) -> None:
    headers = {} if token is None else {"X-Recallfront-Token": token}
    path = f"/recallfront/sweeps/{served.sweeps['finished']}/actions/pick"
    assert "this page is of an earlier server" in refusal(served, path, headers)


def test_the_token_is_no_use_to_a_page_of_another_port(served: Served) -> None:
    """Which may read it: MLflow lets pages of this machine read what it answers."""
    path = f"/recallfront/sweeps/{served.sweeps['finished']}"
    token = re.search('data-token="([^"]+)"', served.get(path))
    assert token is not None
    headers = {"X-Recallfront-Token": token[1], "Origin": "http://localhost:8888"}
    assert "a page of another site asks" in refusal(served, f"{path}/actions/cancel", headers)


def test_behind_a_proxy_with_a_certificate_the_server_still_reaches_itself(served: Served) -> None:
    path = f"/recallfront/sweeps/{served.sweeps['finished']}"
    headers = {"X-Forwarded-Proto": "https"}
    with urllib.request.urlopen(urllib.request.Request(served.uri + path, headers=headers)) as answer:
        page = answer.read().decode()
    assert f"--tracking-uri {served.uri.replace('http', 'https')}" in page
    (key,) = re.findall(r'"key":"([0-9a-z]{12})"', page.replace('": "', '":"'))[:1]
    panel = urllib.request.Request(f"{served.uri}{path}/configurations/{key}", headers=headers)
    with urllib.request.urlopen(panel) as answer:
        assert json.loads(answer.read())["curves"]


def test_what_a_trial_says_stays_text(served: Served) -> None:
    path = f"/recallfront/sweeps/{served.sweeps['running']}"
    page, live = served.get(path), json.loads(served.get(path + "/live"))["html"]
    for html in (page, live):
        assert "<img" not in html and "<script>alert" not in html
        assert "&lt;script&gt;alert" in html and "&lt;img src=x" in html
    assert page.count("</script>") == 3  # the figures, the page's own script, and Plotly's


def test_the_name_and_the_description_of_a_sweep_stay_text(served: Served) -> None:
    first, second = served.sweeps["finished"], served.sweeps["running"]
    own = f"sweeps/{second}"
    paths = ("", own, f"{own}/understand", f"compare?sweep={second}", f"compare?sweep={first}&sweep={second}")
    for path in paths:
        page = served.get(f"/recallfront/{path}")
        assert f"running-study {escape(EVIL)}" in page, path
        assert "<img" not in page and page.count("</script>") == page.count("<script"), path
    assert f"Why {escape(EVIL)} was run" in served.get(f"/recallfront/{own}")
    live = json.loads(served.get(f"/recallfront/{own}/live"))["html"]
    assert f"Why {escape(EVIL)} was run" in live and "<img" not in live and "<script" not in live


def test_pages_load_nothing_from_elsewhere(served: Served) -> None:
    with urllib.request.urlopen(served.uri + "/recallfront/") as answer:
        policy = answer.headers["Content-Security-Policy"]
        page = answer.read().decode()
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "http" not in policy
    assert not re.search(r'(src|href)="(https?:)?//', page)
    for name, start in (("style.css", ":root"), ("page.js", "//"), ("explore.js", "//")):
        assert served.get(f"/recallfront/static/{name}").startswith(start)
    request = urllib.request.Request(served.uri + "/recallfront/static/plotly.js")
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Content-Encoding"] == "gzip" and len(answer.read()) < 2_500_000


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/recallfront/sweeps/0123456789abcdef", "there is no sweep &#39;0123456789abcdef&#39;"),
        ("/recallfront/sweeps/%3Cb%3E", "there is no sweep &#39;&lt;b&gt;&#39;"),
        ("/recallfront/sweeps/new", "no specification in the store yet"),
        ("/recallfront/static/..%2Fapp.py", ""),
        ("/recallfront/static/base.html", ""),
    ],
)
def test_what_is_not_there_is_said(served: Served, path: str, message: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        served.get(path.replace("sweeps/new", f"sweeps/{served.sweeps['new']}"))
    with caught.value:
        assert caught.value.code == 404
        assert message in caught.value.read().decode()


def test_a_script_is_told_what_is_wrong_as_json(served: Served) -> None:
    for path in ("0123456789abcdef/live", "0123456789abcdef/choice"):
        address = f"{served.uri}/recallfront/sweeps/{path}"
        request = urllib.request.Request(address, headers={"Accept": "application/json"})
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            urllib.request.urlopen(request)
        with caught.value:
            told = caught.value.read().decode()
        assert json.loads(told)["error"].startswith("there is no sweep '0123456789abcdef'")


def test_mlflow_itself_is_served_beside_the_pages(served: Served) -> None:
    assert '<div id="root"' in served.get("/")
    assert open_client(served.uri).get_run(served.sweeps["finished"]).info.status == "FINISHED"


def test_a_sweep_written_through_the_server_is_shown(served: Served, make_record: MakeRecord) -> None:
    """Its artifacts are the server's, under `mlflow-artifacts:`."""
    run_id = write(make_record(5, name="remote"), served.uri, "finished")
    assert open_client(served.uri).get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    assert "on the front" in served.get(f"/recallfront/sweeps/{run_id}")


@pytest.mark.usefixtures("no_such_host")
def test_a_port_that_is_taken_is_one_clear_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"127.0.0.1 port {port} \(Address already in use\): .* --port"):
            serve(tmp_path, port=port)
    with pytest.raises(UsageError, match="--allow-actions with --host 0.0.0.0: anyone who reaches it"):
        serve(tmp_path, host="0.0.0.0", port=free_port(), allow_actions=True)
    with pytest.raises(UsageError, match="port 70000: must be from 1 to 65535"):
        serve(tmp_path, port=70000)
    with pytest.raises(UsageError, match="host 'no.such.host.invalid': is not an address of this machine"):
        serve(tmp_path, host="no.such.host.invalid")
    with pytest.raises(UsageError, match="is a server already: open it in a browser"):
        serve(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(UsageError, match="there is no MLflow store at"):
        serve(tmp_path / "nowhere", port=free_port())
    assert not (tmp_path / "nowhere").exists()


def test_it_listens_on_loopback_alone_unless_told(tmp_path: Path) -> None:
    command = server_command("sqlite:///x.db", tmp_path, host="127.0.0.1", port=5000)
    assert command[1:6] == ["-m", "mlflow", "server", "--app-name", "recallfront"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--artifacts-destination") + 1] == str(tmp_path / "mlartifacts")


def test_a_stop_ends_the_server_and_all_of_its_processes(tmp_path: Path) -> None:
    ready_store(tmp_path)
    found = Served(tmp_path, {})
    children = _descendants(found.process.pid)
    assert children
    assert found.stop(signal.SIGTERM) == 0
    deadline = time.monotonic() + 10
    while any(_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [child for child in children if _alive(child)]


def _descendants(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_no_script_is_longer_than_one_can_read() -> None:
    pages = Path(str(resources.files("recallfront.dashboards") / "pages"))
    lines = {path.name: len(path.read_text().splitlines()) for path in pages.glob("*.js")}
    assert "table.js" in lines and not {name: n for name, n in lines.items() if n > 300}
