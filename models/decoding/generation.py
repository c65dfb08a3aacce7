"""Generation: greedy or sampled, all at once or as a stream of tokens."""

from collections.abc import Collection, Iterator

import torch
from torch import Generator, Tensor

from recallfront.models.decoding.decode_graph import DecodeGraph
from recallfront.models.language_model import LanguageModel

_WORTH_A_GRAPH = 16  # new tokens: recording a step takes as long as a few of them


def choose_token(
    logits: Tensor,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """One token a row (B) from logits (B, vocab).

    temperature 0 takes the likeliest; top_k keeps the k likeliest, top_p the likeliest that reach that
    probability together (at least one); both may be given. Raises ValueError if a value makes no sense.
    """
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; it must be 0 (greedy) or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; it must be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}; it must be above 0 and at most 1")
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    ordered, index = probabilities.sort(dim=-1, descending=True, stable=True)
    dropped = torch.zeros_like(ordered, dtype=torch.bool)
    if top_k is not None:
        dropped[:, top_k:] = True
    if top_p is not None:  # a token stays where those before it have not reached top_p yet
        dropped |= ordered.cumsum(-1) - ordered >= top_p
    ordered = ordered.masked_fill(dropped, 0).cpu()
    picked = torch.multinomial(ordered, 1, generator=generator).to(index.device)
    return index.gather(1, picked)[:, 0]


def stream(
    model: LanguageModel,
    tokens: Tensor,
    *,
    max_new_tokens: int,
    lengths: Tensor | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Yield the next token of every row (B), `max_new_tokens` times, each as soon as it is known.

    tokens (B, T): the prompts, padded on the right if `lengths` (B) says so. The same seed gives the same
    tokens on the same machine. Raises ValueError if a value makes no sense.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    generator = Generator().manual_seed(seed)
    logits, state = model.prefill(tokens, model.init_state(tokens.shape[0]), lengths=lengths, last_only=True)
    row, read = logits[:, 0], state.longest
    graph, capacity = None, graph_capacity(model, read, max_new_tokens)
    if tokens.is_cuda and max_new_tokens >= _WORTH_A_GRAPH and capacity > read:
        graph = DecodeGraph(model, state, capacity)
    for count in range(max_new_tokens):
        chosen = choose_token(row, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
        yield chosen
        if count + 1 < max_new_tokens:
            if graph is None:
                row, state = model.step(chosen, state)
            else:
                model.check_length(read + count + 1)
                row = graph.step(chosen)


def graph_capacity(model: LanguageModel, read: int, new: int) -> int:
    """Tokens a row that a graph is made for, of `new` after `read`: no more than the model has positions."""
    return min(read + new - 1, model.config.learned_positions or read + new)


def generate(
    model: LanguageModel,
    tokens: Tensor,
    *,
    max_new_tokens: int,
    lengths: Tensor | None = None,
    stop_tokens: Collection[int] = (),
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """The new tokens of every row; a row ends with its first stop token, which is included.

    Arguments as in `stream`. Ends early when all rows have stopped.
    """
    new: list[list[int]] = [[] for _ in range(tokens.shape[0])]
    stopped = [False] * len(new)
    steps = stream(
        model,
        tokens,
        max_new_tokens=max_new_tokens,
        lengths=lengths,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    for chosen in steps:
        for row, token in enumerate(chosen.tolist()):
            if not stopped[row]:
                new[row].append(token)
                stopped[row] = token in stop_tokens
        if all(stopped):
            break
    return new
