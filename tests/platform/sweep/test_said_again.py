"""A sweep that is run again, from its report or from what the store has of it, is the same sweep."""

from pathlib import Path

from recallfront.platform.front.pictures.report import write_report
from recallfront.platform.front.pictures.report_parts import SPECIFICATION, to_run
from recallfront.sweeps import SweepSpec
from recallfront.sweeps.load import load_study, studies
from tests.platform.specs import UNLIKE_ZOOLOGY
from tests.platform.sweep.stage import Stages


def test_a_report_and_the_store_tell_what_a_protocol_was_asked_to_leave(
    stage: Stages, tmp_path: Path
) -> None:
    sweep = stage(name="quickstart", protocol="zoology", training=UNLIKE_ZOOLOGY)
    sweep.start("a")
    sweep.end("a")
    assert SweepSpec.model_validate(sweep.stored().spec).key == sweep.spec.key
    paths = write_report(sweep.spec.key, tmp_path / "report", tracking_uri=sweep.uri)
    told, text = load_study(str(paths["specification"])), paths["markdown"].read_text()
    assert isinstance(told, SweepSpec) and told.training == sweep.spec.training
    assert told.key == sweep.spec.key
    assert f"recallfront run {SPECIFICATION}" in text, "the study of its name is another sweep"
    assert f"recallfront report {sweep.spec.key[:8]} --out report" in text


def test_a_study_is_run_by_its_name_as_long_as_it_is_the_same() -> None:
    for name in list(studies())[:4]:
        key = load_study(name).key
        assert to_run(name, key) == name
        assert to_run(name, key[::-1]) == to_run(f"{name}-of-mine", key) == SPECIFICATION
