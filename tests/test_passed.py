"""What `make test` leaves out: long files of tests that passed as they are now."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.passed import AREAS, areas, draw, time_limit


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project with a test of kernels/, which counts as long however quick it is."""
    plugin = Path(__file__).with_name("passed.py").read_text()
    files = {f"{area}/part.py": "" for area in AREAS} | {"pyproject.toml": "", "constraints.txt": ""}
    files["tests/passed.py"] = plugin.replace("LONG: Final = 4.0", "LONG: Final = 0.0")
    files["tests/kernels/test_part.py"] = "def test_part() -> None:\n    assert True\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def told(checkout: Path, *options: str) -> str:
    """What pytest says last of that project's test."""
    command = [
        sys.executable,
        "-B",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.passed",
        *options,
    ]
    found = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60)
    assert found.returncode in (0, 1, 5), found.stdout + found.stderr
    return found.stdout.splitlines()[-1]


def test_what_passed_is_left_out_until_something_that_it_tests_changes(checkout: Path) -> None:
    assert told(checkout, "--share=0").startswith("1 passed"), "nothing is recorded yet"
    assert told(checkout, "--record").startswith("1 passed")
    assert told(checkout, "--share=0").startswith("1 deselected")
    assert told(checkout, "--share=1").startswith("1 passed")
    assert told(checkout).startswith("1 passed"), "without a share all run"
    (checkout / "models" / "part.py").write_text("changed = True\n")
    assert told(checkout, "--share=0").startswith("1 deselected"), "kernels import nothing of models"
    (checkout / "kernels" / "part.py").write_text("changed = True\n")
    assert told(checkout, "--share=0").startswith("1 passed")


def test_what_failed_is_run_again(checkout: Path) -> None:
    test = checkout / "tests" / "kernels" / "test_part.py"
    assert told(checkout, "--record").startswith("1 passed")
    passing = test.read_text()
    test.write_text(passing.replace("True", "False"))
    assert told(checkout, "--record").startswith("1 failed")
    test.write_text(passing)
    assert told(checkout, "--share=0").startswith("1 passed"), "the last that is known is that it failed"


def test_what_a_file_takes_is_known_also_if_it_fails(checkout: Path) -> None:
    test, table = checkout / "tests" / "kernels" / "test_part.py", checkout / "tests" / "passed.json"
    assert told(checkout, "--record").startswith("1 passed")
    recorded = json.loads(table.read_text())
    recorded["tests/kernels/test_part.py"]["seconds"] = 500
    table.write_text(json.dumps(recorded))
    test.write_text(test.read_text().replace("True", "False"))
    assert told(checkout, "--record").startswith("1 failed")
    assert json.loads(table.read_text())["tests/kernels/test_part.py"]["seconds"] == 500


def test_how_long_a_test_may_take_is_said_in_one_place(request: pytest.FixtureRequest) -> None:
    tests = Path(__file__).parent
    own = {
        path.relative_to(tests).as_posix()
        for path in tests.rglob("*.py")
        if "mark.timeout" in path.read_text() and path != Path(__file__)
    }
    assert own == {"passed.py"}
    assert request.node.get_closest_marker("timeout"), "however pytest is started"


def test_how_long_a_test_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    assert time_limit(100.0) == 600.0
    assert time_limit(10.0) == 240.0, "what is quick alone waits beside others"
    assert time_limit(None) == 120.0, "what is not in the table is quick"
    assert time_limit(None, ["slow"]) == time_limit(None, ["attack"]) == 600.0, "what is new may be long"
    assert time_limit(None, ["slow", "gpu"]) == 1800.0, "and compiles on a GPU"
    monkeypatch.setenv("ATTACK_SECONDS", "7200")
    assert time_limit(10.0) == 0, "an attack goes on for as long as it is asked to"


def test_the_longest_test_of_a_file_is_recorded(checkout: Path) -> None:
    """With what sets it up: another of its tests may do that."""
    (checkout / "tests" / "kernels" / "test_part.py").write_text(
        "import time\n\nimport pytest\n\n\n"
        "@pytest.fixture(scope='module')\ndef slow() -> None:\n    time.sleep(1.0)\n\n\n"
        "def test_first(slow: None) -> None:\n    pass\n\n\n"
        "def test_second(slow: None) -> None:\n    time.sleep(1.0)\n\n\n"
        "def test_third(slow: None) -> None:\n    time.sleep(1.0)\n"
    )
    assert told(checkout, "--record").startswith("3 passed")
    (found,) = json.loads((checkout / "tests" / "passed.json").read_text()).values()
    assert (found["seconds"], found["longest"]) == (3, 2)


def test_attacks_are_never_left_out(checkout: Path) -> None:
    attack = checkout / "tests" / "attack" / "test_part.py"
    attack.parent.mkdir()
    (checkout / "tests" / "kernels" / "test_part.py").rename(attack)
    assert told(checkout, "--record").startswith("1 passed")
    assert told(checkout, "--share=0").startswith("1 passed")


def test_a_share_of_the_time_is_drawn_anew_each_time() -> None:
    """Whatever is drawn, it takes no more; and each file is drawn at times, the longest as well."""
    lengths = random.Random(0)
    seconds = {f"tests/models/test_{number}.py": lengths.choice([5, 20, 60, 200]) for number in range(90)}
    seconds |= {f"tests/platform/test_{number}.py alone": 150 for number in range(10)}
    draws = [draw(seconds, 0.1, seed) for seed in range(200)]
    most = 0.1 * sum(length * (2 if "alone" in key else 1) for key, length in seconds.items())
    taken = [sum(seconds[key] * (2 if "alone" in key else 1) for key in drawn) for drawn in draws]
    assert 0.9 * most <= min(taken) and max(taken) <= most
    assert set().union(*draws) == seconds.keys()
    assert draw(seconds, 0.1, 7) == draw(dict(reversed(seconds.items())), 0.1, 7) == draws[7]
    assert draw(seconds, 0.0, 1) == set() and draw(seconds, 1.0, 1) == seconds.keys()
    assert len(draw(seconds, 0.0001, 1)) == 1, "a single one may take longer than the share"


def test_what_a_file_names_is_an_input() -> None:
    root = Path(__file__).parents[1]
    code = {path.parent.name for path in root.glob("*/*.py") if path.parent.name != "tests"}
    assert code <= {*AREAS}
    assert areas(root / "tests" / "kernels" / "test_dropout.py") == ("kernels",)
    # through tests.models.cases
    assert areas(root / "tests" / "models" / "test_state.py") == ("kernels", "models")
    assert areas(root / "tests" / "models" / "test_zoology.py") == AREAS, "of a benchmark"
    assert areas(root / "tests" / "platform" / "test_pareto.py") == AREAS, "whose neighbours start commands"


def test_a_test_that_takes_many_times_what_the_longest_took_is_ended(checkout: Path) -> None:
    assert told(checkout, "--record").startswith("1 passed")
    plugin = checkout / "tests" / "passed.py"
    plugin.write_text(plugin.read_text().replace("LEAST: Final = 240", "LEAST: Final = 1"))
    test = checkout / "tests" / "kernels" / "test_part.py"
    test.write_text("import time\n\n\ndef test_part() -> None:\n    time.sleep(30)\n")
    assert told(checkout, "--share=0").startswith("1 failed")
