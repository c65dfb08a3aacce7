"""Speculative decoding that changes nothing: drafts are verified together, and only what greedy would say is
kept.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from recallfront.models.language_model import LanguageModel
from recallfront.models.parts.draft_tree import RANKS, Branches, DraftTree
from recallfront.models.parts.layers import Linear
from recallfront.models.parts.state import Block, State


class DraftHeads(nn.Module):
    """Heads that guess the tokens after the next one from the last hidden state (arXiv:2401.10774 sec.
    2.1.1).

    Head k is a residual block, x + silu(W x + b) with W from zero, and an unembedding that starts as the
    model's own.
    """

    def __init__(self, model: LanguageModel, num_heads: int, seed: int = 0) -> None:
        super().__init__()
        width, vocab_size = model.config.width, model.config.vocab_size
        self.blocks = nn.ModuleList(Linear(width, width, bias=True, std=0.0) for _ in range(num_heads))
        self.unembeddings = nn.ModuleList(Linear(width, vocab_size, std=0.0) for _ in range(num_heads))
        generator = Generator().manual_seed(seed)
        own = model.embedding if model.unembedding is None else model.unembedding
        for block, unembedding in zip(self.blocks, self.unembeddings, strict=True):
            assert isinstance(block, Linear) and isinstance(unembedding, Linear)
            block.initialise(generator)
            unembedding.weight = nn.Parameter(own.weight.detach().clone())
        self.to(own.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., heads, vocab) for hidden (..., width): head 0 guesses the token after the next."""
        return torch.stack([self.guess(hidden, head) for head in range(len(self.blocks))], dim=-2)

    def guess(self, hidden: Tensor, head: int) -> Tensor:
        """Logits (..., vocab) of one head."""
        logits: Tensor = self.unembeddings[head](hidden + F.silu(self.blocks[head](hidden)))
        return logits


@dataclass
class Speculation:
    """What speculative decoding wrote, and how often it read the model."""

    tokens: list[list[int]]
    rounds: int  # verifications: without drafts there would be one a token


@torch.no_grad()
def generate_speculative(
    model: LanguageModel,
    heads: DraftHeads,
    tokens: Tensor,
    *,
    tree: DraftTree,
    max_new_tokens: int,
    lengths: Tensor | None = None,
    stop_tokens: Collection[int] = (),
) -> Speculation:
    """The tokens that greedy `generate` gives, several a round where the drafts are right.

    tokens (B, T), padded on the right where `lengths` (B) says so. Raises ValueError where the tree is deeper
    than there are heads, or max_new_tokens is below 1.
    """
    if tree.max_depth > len(heads.blocks):
        raise ValueError(f"the draft tree is {tree.max_depth} deep and there are {len(heads.blocks)} heads")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    hidden, state = model.read(tokens, model.init_state(tokens.shape[0]), lengths=lengths)
    last = _at(hidden, lengths)
    new: list[list[int]] = [[] for _ in range(tokens.shape[0])]
    rows, rounds = list(range(len(new))), 0  # rows that have not ended: the others are read no further
    while rows:
        drafts = heads(last).topk(min(RANKS, model.config.vocab_size), dim=-1).indices
        # a rank beyond the vocabulary only guesses wrong
        drafts = F.pad(drafts, (0, RANKS - drafts.shape[-1]))
        nodes = tree.tokens(model.unembed(last).argmax(-1), drafts)
        accepted, counts = accept(tree, nodes, tree_logits(model, nodes, state, tree).argmax(-1))
        rounds += 1
        lines = zip(rows, accepted.tolist(), counts.tolist(), strict=True)
        going_on = [
            place
            for place, (row, line, count) in enumerate(lines)
            if not _extend(new[row], line[:count], max_new_tokens, stop_tokens)
        ]
        if going_on and len(going_on) < len(rows):
            places = torch.tensor(going_on, device=tokens.device)
            accepted, counts, state = accepted[places], counts[places], state.select(places)
        rows = [rows[place] for place in going_on]
        if rows:
            hidden, state = model.read(accepted, state, lengths=counts)
            last = _at(hidden, counts)
    return Speculation(new, rounds)


def _at(hidden: Tensor, lengths: Tensor | None) -> Tensor:
    """The hidden state after each row's last token."""
    if lengths is None:
        return hidden[:, -1]
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), lengths - 1]


def _extend(row: list[int], accepted: list[int], most: int, stop_tokens: Collection[int]) -> bool:
    """Append accepted tokens; whether the row has ended."""
    for token in accepted:
        row.append(token)
        if len(row) == most or token in stop_tokens:
            return True
    return False


def accept(tree: DraftTree, nodes: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """The longest path of each row that greedy decoding would have taken.

    nodes (B, N): tokens of the tree; following (B, N): the model's likeliest token after each. Returns the
    tokens (B, longest), padded by anything, and how many of each row count: 1 at least, for node 0 is
    certain.
    """
    paths = tree.leaf_paths.to(nodes.device)
    index = paths.clamp(min=0)
    guessed, right = nodes[:, index[:, 1:]], following[:, index[:, :-1]]  # (B, leaves, depth)
    agree = (guessed == right) & (paths[:, 1:] >= 0)
    counts = 1 + agree.cumprod(-1).sum(-1)
    best = counts.argmax(-1)
    count = counts.gather(1, best[:, None])[:, 0]
    return nodes.gather(1, index[best])[:, : int(count.max())], count


def tree_logits(model: LanguageModel, nodes: Tensor, state: State, tree: DraftTree) -> Tensor:
    """Logits (B, N, vocab) after each node; the state stays as it is.

    In one pass over the tree where every layer can branch; where one cannot, each path is read as a row of
    its own.
    """
    if model.can_branch:
        branches = Branches(tree, Block(state.lengths, state.longest, len(tree), None, state.uniform))
        return model.read_tree(nodes, state, branches)
    paths = tree.leaf_paths.to(nodes.device)
    leaves, depth = paths.shape
    rows = torch.arange(nodes.shape[0], device=nodes.device).repeat_interleave(leaves)
    lines = nodes[:, paths.clamp(min=0)].flatten(0, 1)
    copies, table, room = state.select(rows), model.config.learned_positions, None
    if table:  # what lies beyond the table of positions counts for no one
        room = (table - copies.lengths).clamp(1, depth)
    logits, _ = model.prefill(lines, copies, lengths=room)
    places = torch.zeros(len(tree), dtype=torch.long, device=nodes.device)
    leaf, level = (paths >= 0).nonzero(as_tuple=True)
    places[paths[leaf, level]] = leaf * depth + level
    return logits.view(nodes.shape[0], leaves * depth, -1)[:, places]
