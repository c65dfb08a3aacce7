"""docs/specification.md is what the models say, and says something about every key."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

import recallfront
from recallfront.models.configs import architectures
from recallfront.sweeps.documentation import specification_page
from recallfront.sweeps.objectives import Objective
from recallfront.sweeps.search import BudgetConfig, EarlyStopping, SearchConfig
from recallfront.sweeps.space import Range
from recallfront.sweeps.spec import SweepSpec
from recallfront.sweeps.start import LoRAConfig, StartConfig
from recallfront.sweeps.suite import TASKS
from recallfront.sweeps.tasks import registry as tasks
from recallfront.sweeps.trial import (
    DeploymentConfig,
    MeasurementConfig,
    PlateauConfig,
    ResourceConfig,
    StopAtConfig,
    TrainingConfig,
)

PAGE = Path(recallfront.__file__).parents[1] / "docs" / "specification.md"


def section(heading: str) -> dict[str, tuple[str, str, str]]:
    """Key -> type, default, meaning of a section's table."""
    text = PAGE.read_text()
    _, _, rest = text.partition(f"# {heading}\n")
    body = re.split(r"\n#+ ", rest)[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", body, re.MULTILINE)
    return {key: (kind, default, meaning) for key, kind, default, meaning in rows}


def test_the_page_is_of_this_version() -> None:
    written = "run: python -m recallfront.sweeps.documentation > docs/specification.md"
    assert PAGE.read_text() == specification_page(), written


def test_every_key_has_a_row_and_a_meaning() -> None:
    models: dict[str, type[BaseModel]] = {
        "Keys at the top": SweepSpec,
        "training": TrainingConfig,
        "measurement": MeasurementConfig,
        "measurement.deployment": DeploymentConfig,
        "resources": ResourceConfig,
        "start": StartConfig,
        "start.lora": LoRAConfig,
        "objectives": Objective,
        "search": SearchConfig,
        "budget": BudgetConfig,
        "training.stop_at": StopAtConfig,
        "training.plateau": PlateauConfig,
        "early_stopping": EarlyStopping,
        "A range": Range,
    }
    for heading, model in models.items():
        rows = section(heading)
        also = [TASKS] if model is SweepSpec else []
        assert list(rows) == [*model.model_fields, *also], heading
        assert all(meaning for _, _, meaning in rows.values()), heading


def test_a_key_that_another_stands_in_for_says_so() -> None:
    own = "forgetting_mqar.train, forgetting_mqar.validation, forgetting_mqar.test"
    for rows in (section("MQAR rows"), section(own)):
        assert rows["length"][2].endswith("; give one of the two.")
    assert section("Keys at the top")["task"][2].endswith("; required unless `tasks` is given.")


def test_rows_that_tasks_share_are_called_by_no_task() -> None:
    assert section("task mqar")["train"][0] == "list of [MQAR rows](#mqar-rows)"
    _, _, shared = PAGE.read_text().partition("\n## MQAR rows\n")
    assert "\nOf the tasks compositional_mqar, mqar.\n" in shared.partition("\n## ")[0]
    text = PAGE.read_text()
    for task in re.findall(r"^## task (\w+)$", text, re.MULTILINE):
        named = re.match(r"(?:list of )?\[(\w+)\.train\]", section(f"task {task}")["train"][0])
        assert named is None or named[1] == task


def test_the_form_of_a_text_is_a_text() -> None:
    assert section("objectives")["metric"][0].endswith(", `decode_joules_per_token` or text")


def test_every_row_of_the_page_has_a_meaning() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| .*? \| .*? \| (.*?) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 300
    assert not [key for key, meaning in rows if not meaning]


@pytest.mark.parametrize("name", tasks.names())
def test_every_key_of_a_task_has_a_row(name: str) -> None:
    assert list(section(f"task {name}")) == list(tasks.find(name).model_fields)


def test_every_knob_has_a_row() -> None:
    shared = section("Knobs of every architecture")
    for name, config in architectures().items():
        knobs = set(config.model_fields) - {"architecture", "vocab_size"}
        assert set(section(name)) | set(shared) == knobs, name
        for knob, (_, _, meaning) in (shared | section(name)).items():
            assert meaning.endswith("."), f"{name}: {knob} says {meaning!r}"


def test_types_and_defaults_are_shown() -> None:
    training = section("training")
    assert training["steps"][:2] == ("integer ≥ 0, ≤ 1,000,000,000", "`1000`")
    assert training["betas"][:2] == ("list of 2 x number ≥ 0, < 1", "`[0.9, 0.999]`")
    assert section("Keys at the top")["name"][1] == "", "a required key has no default"
    assert section("search")["trials"][:2] == ("integer ≥ 1 or null", "`null`")
    assert section("window")["window_size"][:2] == ("integer ≥ 1", "`16`"), (
        "a list or a range is said once, above"
    )
    assert section("resources")["gpus"][0] == "number ≥ 0"


def test_links_lead_to_headings() -> None:
    text = PAGE.read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert len(links) > 8 and set(links) <= headings
