"""Secrets in the environment, in `.env` and in URIs: used where they are needed, and found nowhere afterwards."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from recallfront.__main__ import run
from recallfront.platform.errors import (
    UsageError,
    refuse_credentials,
    refuse_secrets,
    secret_in,
    without_secrets,
)
from recallfront.platform.lineage.source import changes_code, left_out, looks_secret
from recallfront.platform.results.reports import Report
from recallfront.platform.results.status import Status
from recallfront.platform.sweep.log import SweepLog
from recallfront.platform.sweep.run import run_sweep
from recallfront.platform.tracking.ledger import read_artifact, read_sweep, reading
from recallfront.platform.trial.output import Output
from tests.platform.checkouts import ROOT, clean_checkout, git
from tests.platform.planted import BASIC, MARK, SECRETS, holding
from tests.platform.specs import tiny, tiny_spec
from tests.platform.stores import ready_store


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"the key is {MARK}-aws-key.", "the key is ...."),
        (f"GET postgresql://me:{MARK}@h/d failed", "GET postgresql://...@h/d failed"),
        (f"s3://KEY:a/{MARK}/b@bucket/x", "s3://...@bucket/x"),
        (f"https://{MARK}@host:1/x", "https://...@host:1/x"),
        (f"http://h/x?a=1&token={MARK}&b=2", "http://h/x?a=1&token=...&b=2"),
        (f"Authorization: Basic {BASIC}", "Authorization: Basic ..."),
        (f"-----BEGIN RSA PRIVATE KEY-----\n{MARK}\n-----END RSA PRIVATE KEY----- z", "... z"),
        *(
            (f"GET postgresql://u:{secret}@h/d failed", "GET postgresql://...@h/d failed")
            for secret in (
                f"pa$$w0rd1{MARK}",
                f"it's{MARK}",
                f"{{{MARK}",
                f"{MARK}}}",
                f"$1{MARK}",
                f"a<{MARK}>",
            )
        ),
        (f"redis://:s3cr$t99{MARK}@h/0", "redis://...@h/0"),
        *(
            (code, code)
            for code in (
                "'postgresql://u:'+pw+'@h'",
                "['http://a:b','x@y']",
                "dict(a='s3://b:c',d='e@f')",
                "<a href='http://h:x'>m@n</a>",
                "http://h:${PORT}/x@y",
            )
        ),
        *(
            (f"http://h/x?a=1&{name}={MARK}&b=2", f"http://h/x?a=1&{name}=...&b=2")
            for name in ("Signature", "X-Amz-Security-Token", "client_secret", "sslpassword")
        ),
        *(
            (f"postgresql://u:{template}@h/d", f"postgresql://u:{template}@h/d")
            for template in (
                "$DB_PASS",
                "${DB_PASS}",
                "$1",
                "$(cat x)",
                "{password}",
                "{password}-db",
                "<password>",
            )
        ),
        ("AKIA0123456789ABCDEF", "..."),
        ("ghp_0123456789abcdefghij", "..."),
        (
            "s3://bucket/file@v1, me@example.org, http://h:1/, hdfs://h:9000/me@work, docker://h/a:b@c",
            "s3://bucket/file@v1, me@example.org, http://h:1/, hdfs://h:9000/me@work, docker://h/a:b@c",
        ),
        ('f"http://{user}:{password}@{host}"', 'f"http://{user}:{password}@{host}"'),
        ("RAY_AUTH_TOKEN_PATH=/a/token: cannot be read", "RAY_AUTH_TOKEN_PATH=/a/token: cannot be read"),
        ("['http://h:80','me@example.org']", "['http://h:80','me@example.org']"),
        ("PATH=/usr/bin:/bin:/opt/python@3.11/bin", "PATH=/usr/bin:/bin:/opt/python@3.11/bin"),
        ("http://[::1]:5000/a@b", "http://[::1]:5000/a@b"),
    ],
)
def test_secrets_are_not_shown_and_the_rest_is(planted: None, text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert (secret_in(text) is not None) == (text != shown)
    assert str(UsageError(text)) == shown


def test_a_plain_word_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "recallfront")
    monkeypatch.setenv("SHORT_TOKEN", "a1")
    assert without_secrets("recallfront a1") == "recallfront a1"


@pytest.mark.parametrize("name", ["DB_PASS", "MYSQL_PWD", "REGISTRY_CREDENTIALS", "MLFLOW_TRACKING_PASSWORD"])
@pytest.mark.parametrize(
    "value", ["tr0ub4dor", "correcthorsebattery", "RandomLetters", "correcthorse", "trombone", "TROMBONE"]
)
def test_the_value_of_a_secret_variable_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert without_secrets(f"it is {value}.") == "it is ...."


@pytest.mark.parametrize("given", ["correcthorse", "correct%40horse", "tr0ub4dor"])
def test_the_password_of_a_uri_in_a_variable_is_not_shown_without_the_uri(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("DATABASE", f"postgresql://me:{given}@h/d")
    for form in (given, given.replace("%40", "@")):
        assert without_secrets(f"no '{form}' for me") == "no '...' for me"


def test_a_secret_of_letters_is_no_part_of_another_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """In what is stored it may stand by chance: a study is not refused for a word."""
    monkeypatch.setenv("DB_PASSWORD", "attention")
    assert without_secrets("attentions, x=attention, attention1") == "attentions, x=..., ...1"
    assert secret_in("architecture: attention") is None
    monkeypatch.setenv("DB_PASSWORD", "admin")
    assert without_secrets("admin administrates") == "admin administrates"


def test_a_file_that_holds_the_secret_and_the_working_directory_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key-1.json"
    file.touch()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setenv("PWD", "/somewhere/1")
    assert without_secrets(f"{file} /somewhere/1") == f"{file} /somewhere/1"


@pytest.mark.parametrize("name", ["sslpassword", "password"])
def test_an_address_with_a_password_among_its_options_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="has a password in it"):
        refuse_credentials("address", f"postgresql://h/d?{name}={MARK}", "set it elsewhere")


def test_what_a_trial_prints_is_reported_without_its_own_secrets(planted: None) -> None:
    output = Output()
    with output.heard():
        print(f"the key is {MARK}-aws-key")
    assert output.take() == ["the key is ..."]


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (
            f"-----BEGIN RSA PRIVATE KEY-----\n{MARK}1\n{MARK}2\n-----END RSA PRIVATE KEY-----\ndone",
            "...\ndone",
        ),
        (f"{MARK}1\n{MARK}2\n-----END PRIVATE KEY-----\ndone", "...\ndone"),
        (f"at first\n{MARK}1\n{MARK}2\ndone", "at first\n...\ndone"),
        (
            f"-----BEGIN PRIVATE KEY-----\n{'MIIEowIBAA' * 6}\nstep 1, loss 2",
            "...\nstep 1, loss 2",
        ),
    ],
    ids=["key", "end of a key", "variable", "beginning of a key"],
)
def test_a_secret_of_several_lines_that_a_trial_prints_is_in_no_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, printed: str, shown: str
) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", f"{MARK}1\n{MARK}2")
    output = Output()
    with output.heard():
        print(printed)
    report = Report(step=0, output=output.take())
    monkeypatch.delenv("DEPLOY_TOKEN")  # the driver has others
    log = SweepLog(tmp_path / "a.log")
    log.report("ab" * 32, report)
    assert [line.split("  ", 2)[2] for line in log.path.read_text().splitlines()] == shown.split("\n")


def test_a_refusal_names_the_variable_alone(planted: None) -> None:
    with pytest.raises(
        UsageError, match="plug-in 'x.py' holds the value of HF_TOKEN, and is stored"
    ) as refusal:
        refuse_secrets("plug-in 'x.py'", f"TOKEN = '{MARK}-hf'")
    assert MARK not in str(refusal.value)


@pytest.mark.parametrize("name", ["password", "db_Passwd", "api-key", "client_secret", "hf_token"])
@pytest.mark.parametrize(
    "form", ['{"%s":"correcthorse"}', "%s: correcthorse", "of host=h %s=correcthorse", '\\"%s\\" = \\"horse']
)
def test_what_a_specification_calls_a_password_is_a_secret_though_a_plain_word(form: str, name: str) -> None:
    refuse_secrets("plug-in 'x.py'", form % name, is_code=True)
    with pytest.raises(
        UsageError, match=r"specification holds a secret named '[\w-]+', and is stored"
    ) as told:
        refuse_secrets("the specification", form % name)
    assert "horse" not in str(told.value)


def test_a_sweep_with_a_named_password_does_not_begin(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="^sweep tiny: the specification holds a secret named 'password'"):
        run_sweep(tiny_spec(description="host=h password=correcthorse"), home=tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_is_no_secret_may_have_a_name_like_one() -> None:
    for text in (
        '{"password":null,"end_token":"end","key":"word","password_length":8,"max_secret":1e-05}',
        "password: $PASSWORD, password: {password}, password: <password>, password: 4, max_secret: -2.5E+10",
        "password:\n  length: 4",
        "task: {name: password}, of tokens: words, a secret: words, passkey: word",
    ):
        refuse_secrets("the specification", text)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *(
            (name, True)
            for name in (".env", "a/.env.local", "prod.env", "id_rsa", "tls.KEY", "a/.aws/config")
        ),
        *(
            (name, True)
            for name in ("client_secret.json", "secrets/prod.yaml", "db-credentials.toml", ".netrc")
        ),
        *(
            (name, True)
            for name in (".envrc", "a/.env-local", ".env_prod", "prod.tfvars", "a.auto.tfvars.json")
        ),
        *(
            (name, False)
            for name in (
                ".environment",
                "environment.py",
                "tests/test_secrets.py",
                "kernels/key.cu",
                "a.yaml",
            )
        ),
        *((name, False) for name in ("platform/cluster/tokens.py", "monkey.py", "lineage/environment.yaml")),
    ],
)
def test_names_of_files_with_secrets(name: str, secret: bool) -> None:
    assert looks_secret(name) == secret


def test_no_source_of_ours_is_taken_for_a_secret() -> None:
    names = git(ROOT, "ls-files", "kernels", "models", "sweeps", "platform", "dashboards").splitlines()
    assert names and not [name for name in names if looks_secret(name)]


FAILING: list[tuple[str, ...]] = [
    ("run", "quickstart", "--tracking-uri", f"http://me:{MARK}@127.0.0.1:1"),
    ("run", "quickstart", "--tracking-uri", f"http://{MARK}@127.0.0.1:1"),
    ("run", "quickstart", "--tracking-uri", f"http://127.0.0.1:1/?token={MARK}"),
    ("run", "quickstart", "--tracking-uri", f"postgresql://me:{MARK}/with@slash@h/d"),
    ("run", "quickstart", "--home", f"s3://key:{MARK}@bucket/x"),
    ("run", "quickstart", "--home", f"s3://key:{MARK}/{MARK}@bucket/x"),
    (
        "submit",
        "quickstart",
        "--address",
        "http://h",
        "--tracking-uri",
        "http://h",
        "--home",
        f"s3://k:a/{MARK}@b",
    ),
    ("run", "quickstart", "--address", f"ray://me:{MARK}@127.0.0.1:1"),
    ("run", "leaky.yaml"),
    ("run", "quickstart", "--plugin", "holding.py"),
    ("run", "quickstart", "--plugin", "raising.py"),
    ("front", "x", "--tracking-uri", f"sqlite://me:{MARK}@h/x.db"),
    ("pick", "x"),
    ("status", "--address", f"http://me:{MARK}@127.0.0.1:1"),
    ("submit", "quickstart", "--address", f"http://me:{MARK}@127.0.0.1:1", "--tracking-uri", "http://h"),
    ("submit", "quickstart", "--address", "http://127.0.0.1:1", "--tracking-uri", f"http://me:{MARK}@h"),
    ("submit", "leaky.yaml", "--address", "http://127.0.0.1:1", "--tracking-uri", "http://127.0.0.1:2"),
]


@pytest.mark.parametrize("command", FAILING, ids=lambda command: " ".join(command).replace(MARK, "_"))
def test_commands_that_fail_say_so_without_the_secret(
    planted: None,
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{MARK}@127.0.0.1:1")
    leaky = tiny(description=f"data of https://me:{MARK}@example.org")
    Path("leaky.yaml").write_text(yaml.safe_dump(leaky))
    Path("holding.py").write_text(f"TOKEN = '{MARK}-hf'\n")
    Path("raising.py").write_text("import os\nraise ValueError(os.environ['HF_TOKEN'])\n")
    assert run(list(command)) != 0
    output = capfd.readouterr()
    assert MARK not in output.out + output.err
    assert "Traceback" not in output.err and output.err
    assert {path.name for path in tmp_path.iterdir()} == {"leaky.yaml", "holding.py", "raising.py"}


PLUGIN = """
import os
from typing import Literal
from recallfront.models.mixers.retnet import RetNetConfig
class Leaking(RetNetConfig):
    mixer: Literal["leaking"] = "leaking"
    def build(self):
        raise RuntimeError(f"{os.environ['AWS_SECRET_ACCESS_KEY']} at {os.environ['DATABASE_URL']}")
"""


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="rf-") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_nothing_that_a_sweep_leaves_behind_holds_a_secret(tmp_path: Path, short_folder: Path) -> None:
    checkout, home = clean_checkout(tmp_path / "checkout"), tmp_path / "home"
    uri = ready_store(home)
    (checkout / "settings.toml").write_text("region = 'here'\n")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-q", "-m", "settings")
    env = "".join(f"{name}={value}\n" for name, value in SECRETS.items())
    (checkout / ".env").write_text(env)
    (checkout / "settings.toml").write_text(f"password = '{SECRETS['HF_TOKEN']}'\n")
    (checkout / "models" / "brand_new.py").write_text("NEW = 1\n")
    (checkout / "recallfront" / "credentials.yaml").write_text(env)
    (tmp_path / "leaking.py").write_text(PLUGIN)
    spec = tiny(
        name="leaks",
        space=[
            {"architecture": "attention"},
            {"architecture": "hybrid", "mixers": {"L": {"mixer": "leaking"}}, "pattern": "L"},
        ],
        training={"steps": 2, "evaluate_every": 2},
        concurrent=1,
    )
    (tmp_path / "leaks.yaml").write_text(yaml.safe_dump(spec))
    done = subprocess.run(
        [sys.executable, "-m", "recallfront", "run", str(tmp_path / "leaks.yaml"), "--home", str(home)]
        + ["--plugin", str(tmp_path / "leaking.py")],
        env=os.environ
        | SECRETS
        | {"PYTHONPATH": str(checkout), "RAY_TMPDIR": str(short_folder), "OMP_NUM_THREADS": "1"}
        | {"PYTHONDONTWRITEBYTECODE": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = read_sweep(uri, "leaks")
    statuses = {trial.status for trial in record.trials}
    assert statuses == {Status.FINISHED, Status.ERROR}, [trial.failure for trial in record.trials]
    with reading(uri) as client:
        diff = read_artifact(client, record.run_id, "lineage/diff.patch") or ""
    assert "brand_new" in diff and changes_code(diff)
    assert left_out(diff) == [
        ".env: files with this name usually hold secrets",
        "recallfront/credentials.yaml: files with this name usually hold secrets",
        "settings.toml: it holds the value of HF_TOKEN",
    ]
    assert "the recorded diff leaves out .env" in done.stdout
    said = {"stdout": done.stdout, "stderr": done.stderr}
    assert not {where for where, text in said.items() if MARK in text or BASIC in text}
    assert holding(home) == holding(short_folder) == []
    private = [home / "spool", home / "sweeps", home / "tune"]
    files = [path for folder in private[:2] for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 1 and not [path for path in files if path.stat().st_mode & 0o077]
    assert not [folder for folder in private if folder.stat().st_mode & 0o077]


def test_what_a_trial_prints_in_one_line_is_read_in_proportion_to_it() -> None:
    """Seconds of the processor; 400 kB took minutes when a password had no greatest length."""
    started = time.process_time()
    assert without_secrets("http://h:x/" * 40_000)
    assert time.process_time() - started < 5.0
