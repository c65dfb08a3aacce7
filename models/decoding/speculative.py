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
from recallfront.models.parts.state import Block, LayerState, State


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
    """The tokens that greedy `generate` gives, several a round if the drafts are right.

    tokens (B, T), padded on the right if `lengths` (B) says so. Raises ValueError if the tree is deeper
    than there are heads, or max_new_tokens is below 1.
    """
    if tree.max_depth > len(heads.blocks):
        raise ValueError(f"the draft tree is {tree.max_depth} deep and there are {len(heads.blocks)} heads")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    hidden, state = model.read(tokens, model.init_state(tokens.shape[0]), lengths=lengths)
    last = _at(hidden, None if lengths is None else lengths - 1)
    root = model.unembed(last).argmax(-1)
    new: list[list[int]] = [[] for _ in range(tokens.shape[0])]
    rows, rounds = list(range(len(new))), 0  # rows that have not ended: the others are read no further
    while rows:
        nodes = tree.tokens(root, _ranked(heads(last)))
        reading = read_tree(model, nodes, state, tree)
        following = model.unembed(reading.hidden).argmax(-1)
        path, counts = accept(tree, nodes, following)
        rounds += 1
        lines = zip(rows, nodes.gather(1, path).tolist(), counts.tolist(), strict=True)
        going_on = [
            place
            for place, (row, line, count) in enumerate(lines)
            if not _extend(new[row], line[:count], max_new_tokens, stop_tokens)
        ]
        if going_on and len(going_on) < len(rows):
            places = torch.tensor(going_on, device=tokens.device)
            reading, state = reading.select(places), state.select(places)
            following, path, counts = following[places], path[places], counts[places]
        rows = [rows[place] for place in going_on]
        if rows:
            end = path.gather(1, counts[:, None] - 1)[:, 0]
            last, root = _at(reading.hidden, end), _at(following, end)
            state = reading.follow(model, path, counts, state)
    return Speculation(new, rounds)


def _ranked(logits: Tensor) -> Tensor:
    """The likeliest tokens of each head (B, heads, RANKS); a rank beyond the vocabulary only guesses wrong."""
    drafts = logits.topk(min(RANKS, logits.shape[-1]), dim=-1).indices
    return F.pad(drafts, (0, RANKS - drafts.shape[-1]))


def _at(entries: Tensor, places: Tensor | None) -> Tensor:
    """Each row's entry at its place in (B, T, ...); by default the last one."""
    if places is None:
        return entries[:, -1]
    return entries[torch.arange(entries.shape[0], device=entries.device), places]


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
    path's nodes (B, depth + 1), of any kind after its end, and how many of each row count: 1 at least, for node 0
    is certain.
    """
    paths = tree.leaf_paths.to(nodes.device)
    index = paths.clamp(min=0)
    guessed, right = nodes[:, index[:, 1:]], following[:, index[:, :-1]]  # (B, leaves, depth)
    agree = (guessed == right) & (paths[:, 1:] >= 0)
    counts = 1 + agree.cumprod(-1).sum(-1)
    count, best = counts.max(-1)
    return index[best], count


@dataclass
class TreeReading:
    """What reading a draft tree gave, while the state stayed as it was."""

    nodes: Tensor  # (B, N) tokens
    hidden: Tensor  # (B, N, width) after each node
    left: list[LayerState] | None  # in the state of each layer; None if a layer cannot branch

    def select(self, rows: Tensor) -> "TreeReading":
        """That of some rows."""
        left = self.left
        if left is not None:
            left = [{name: tensor[rows] for name, tensor in layer.items()} for layer in left]
        return TreeReading(self.nodes[rows], self.hidden[rows], left)

    def follow(self, model: LanguageModel, path: Tensor, counts: Tensor, state: State) -> State:
        """The state after a path's nodes (B, T), of which `counts` (B) count: read again only where it must be."""
        path = path[:, : int(counts.max())]
        # the path of a single row has no padding; the state of the last of several still has the bound of all
        lengths = None if len(counts) == 1 and state.uniform else counts
        if self.left is not None:
            return model.follow(self.left, path, state, lengths=lengths)
        return model.read(self.nodes.gather(1, path), state, lengths=lengths)[1]


def read_tree(model: LanguageModel, nodes: Tensor, state: State, tree: DraftTree) -> TreeReading:
    """Read a draft tree of tokens (B, N); the state stays as it is.

    In one pass over the tree where every layer can branch; where one cannot, each path is read as a row of
    its own.
    """
    if model.can_branch:
        branches = Branches(tree, Block(state.lengths, state.longest, len(tree), None, state.uniform))
        return TreeReading(nodes, *model.read_tree(nodes, state, branches))
    paths = tree.leaf_paths.to(nodes.device)
    leaves, depth = paths.shape
    rows = torch.arange(nodes.shape[0], device=nodes.device).repeat_interleave(leaves)
    lines = nodes[:, paths.clamp(min=0)].flatten(0, 1)
    copies, table, room = state.select(rows), model.config.learned_positions, None
    if table:  # what lies beyond the table of positions counts for no one
        room = (table - copies.lengths).clamp(1, depth)
    hidden, _ = model.read(lines, copies, lengths=room)
    places = torch.zeros(len(tree), dtype=torch.long, device=nodes.device)
    leaf, level = (paths >= 0).nonzero(as_tuple=True)
    places[paths[leaf, level]] = leaf * depth + level
    return TreeReading(nodes, hidden.view(nodes.shape[0], leaves * depth, -1)[:, places], None)
