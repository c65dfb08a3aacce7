"""The comparison with zoology's trainer, where a checkout of it is at hand (RECALLFRONT_ZOOLOGY)."""

import os
import sys
from pathlib import Path

import pytest

from recallfront.benchmarks.platform.zoology import against_zoology, why_not

CHECKOUT = os.environ.get("RECALLFRONT_ZOOLOGY", "")


def test_a_folder_without_it_is_told(tmp_path: Path) -> None:
    reason = why_not(tmp_path)
    assert reason is not None and "holds no zoology/train.py" in reason
    with pytest.raises(ValueError, match="name a checkout of HazyResearch/zoology at dbcb60d"):
        against_zoology(tmp_path)


@pytest.mark.skipif(not CHECKOUT, reason="RECALLFRONT_ZOOLOGY names no checkout of zoology")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_both_train_on_the_same_rows() -> None:
    (found,) = against_zoology(Path(CHECKOUT), cases=[("attention", 66)], steps=2, rounds=1)
    assert found.ours > 0 and found.theirs > 0 and found.ratio == found.theirs / found.ours
    assert not any(name.split(".")[0] in ("zoology", "wandb") for name in sys.modules)
