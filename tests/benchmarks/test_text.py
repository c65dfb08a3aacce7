"""A text's memory and the bytes a second of its tokenizing, at a fortieth of the benchmark's size."""

from pathlib import Path

import pytest

from recallfront.benchmarks.platform.text import OURS, THEIRS, Peaks, TextCosts, text_costs


def test_a_ratio_is_of_pieces() -> None:
    rates = {OURS: [2.0, 4.0, 9.0], THEIRS: [4.0, 2.0, 3.0]}
    assert TextCosts(9, Peaks(0, 0), Peaks(0, 0), rates).ratio == 2.0


@pytest.mark.slow
def test_memory_stays_as_a_text_grows(tmp_path: Path) -> None:
    found = text_costs(tmp_path, size=5 * 10**6, pieces=1)
    driver, trial = (
        (getattr(found.large, name) - getattr(found.small, name)) / 2**20 for name in ("driver", "trial")
    )
    print(f"beyond a text of 1 MB: driver {driver:.0f} MiB, trial {trial:.0f} MiB")
    # of the driver: the words that the tokenizer is trained on, and a block of tokens whose pairs are counted
    assert found.large.driver <= 10**9 and driver <= 250
    # 5 MB of text are some 3 MB of tokens, which a trial maps into its memory; equal trials differ by 40 MiB
    assert trial <= 100
    assert found.rates.keys() == {OURS, THEIRS}
    assert all(len(rates) == 1 and rates[0] > 0 for rates in found.rates.values())
