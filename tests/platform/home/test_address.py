"""Where the home is, as a shell's user expects; and which addresses can be one."""

from pathlib import Path

import pytest

from recallfront.__main__ import run
from recallfront.platform.errors import UsageError
from recallfront.platform.home import home_folder
from recallfront.platform.home.address import address_behind, home_name, remote_name
from recallfront.platform.home.vault import check_home
from recallfront.platform.sweep.lock import only_driver_of


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECALLFRONT_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def test_a_tilde_is_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert home_folder("~/x") == tmp_path / "x"
    assert home_folder(Path("~/x")) == tmp_path / "x"
    monkeypatch.setenv("RECALLFRONT_HOME", "~/y")
    assert home_folder() == tmp_path / "y"
    with pytest.raises(UsageError, match="there is no such user"):
        home_folder("~nobody-of-that-name/x")


@pytest.mark.parametrize(
    "home",
    [
        "s3://bucket/a=b/c%20d",
        "s3://bucket/me@work/x:y@z",
        "gs://b",
        "file:///x/y:z@v",
        "memory://m",
        "hdfs://h:9000/me@work",
    ],
)
def test_an_address_has_a_folder_that_tells_it(home: str, state: Path) -> None:
    for given in (home, f"{home}/", Path(home), home.replace("://", "://", 1)):
        folder = home_folder(given)
        assert folder.parent == state and folder == home_folder(home)
        assert address_behind(folder.resolve()) == home_name(folder) == home
        assert remote_name(folder / "trials" / "x") == (home, "trials/x")
        # a store that lies in it has an address of its own
        assert not set("?#%") & set(str(folder))
    assert not state.exists()


def test_a_folder_has_no_address(tmp_path: Path, state: Path) -> None:
    local = tmp_path / "home"
    assert address_behind(local) is None and home_name(local) == str(local)
    for path in (tmp_path, tmp_path / "home" / "trials" / "x", state, state / "s3=3A=2F=2Fb"):
        assert remote_name(path) is None


@pytest.mark.parametrize(
    "home, sentence",
    [
        (
            "s3://me:hidden@bucket/x",
            r"home s3://\.\.\.@bucket/x: has a user in it: credentials are read from",
        ),
        ("s3://KEY:hid/hidden@bucket/x", r"home s3://\.\.\.@bucket/x: has a user in it"),
        ("s3:/KEY:1/hidden/x@y@bucket/x", r"home s3://\.\.\.@bucket/x: has a user in it"),
        ("hdfs://me:hid/hidden@host:9000/x", r"home hdfs://\.\.\.@host:9000/x: has a user in it"),
        ("s3://KEY:hidden/a?b@bucket/x", r"home s3://\.\.\.@bucket/x: has a user in it"),
        ("s3://bucket/x?secret_key=hidden", "home s3://bucket/x: must not have a query"),
        ("s3:///x", "names no bucket: write s3://BUCKET/FOLDER"),
        ("file://x", "names no folder: write file:///FOLDER"),
        ("file://", "names no folder"),
        (f"s3://bucket/{'x' * 300}", "is too long an address"),
    ],
)
def test_addresses_that_can_be_no_home(home: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        home_folder(home)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "home, sentence",
    [
        (
            "nope://x/y",
            r"nothing opens nope:// addresses: give a folder, or .* s3://, gs://, az:// or file://",
        ),
        ("az://container/x", "needs a package that is not installed: .*adlfs"),
    ],
)
def test_addresses_that_nothing_opens_are_refused(home: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check_home(home_folder(home))


def test_a_home_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    check_home(home_folder((tmp_path / "kept").as_uri()))
    assert not any((tmp_path / "kept").iterdir())
    here = home_folder((tmp_path / "kept").as_uri())
    assert here.stat().st_mode & 0o777 == 0o700, "what this machine has of it is for its user alone"
    with only_driver_of("ab" * 32, "mine", here):
        (lease,) = here.rglob("*.driver")
        assert lease.stat().st_mode & 0o777 == 0o600
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="home 'file://.*/file/x': cannot be written to"):
        check_home(home_folder((tmp_path / "file" / "x").as_uri()))


def test_an_empty_home_scatters_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["status", "--home", ""]) == 2
    assert "--home" in capsys.readouterr().err and not list(tmp_path.iterdir())
