"""Trees of drafted tokens, verified in one pass (arXiv:2401.10774 sec. 2.1.2; arXiv:2406.07368 sec. 4.3)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recallfront.models.parts.state import Block

RANKS = 10  # drafted tokens of each head that a tree may name


class DraftTree:
    """A tree of drafts: node 0 is the next token, known for certain; every path of ranks is one node below
    it.

    A path (2, 0) is the likeliest token of the second head after the third likeliest of the first. Nodes are
    ordered by depth, then by path. Raises ValueError if a path is empty, appears twice, lacks its beginning
    or names a rank that is negative or not below RANKS.
    """

    def __init__(self, paths: Iterable[Sequence[int]]) -> None:
        self.paths = tuple(sorted((tuple(path) for path in paths), key=lambda path: (len(path), path)))
        nodes: dict[tuple[int, ...], int] = {(): 0}
        for path in self.paths:
            if not path or path in nodes or path[:-1] not in nodes or not 0 <= path[-1] < RANKS:
                raise ValueError(
                    f"the draft tree has the path {list(path)}; every path must be new, continue from another by one "
                    f"rank, and that rank must be from 0 to {RANKS - 1}"
                )
            nodes[path] = len(nodes)
        self.parents = (-1, *(nodes[path[:-1]] for path in self.paths))
        self.depths = (0, *(len(path) for path in self.paths))
        self.ranks = (0, *(path[-1] for path in self.paths))
        self._histories: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def max_depth(self) -> int:
        return max(self.depths)

    def ancestors(self, node: int) -> list[int]:
        """The node, its parent, and so on up to node 0."""
        line = [node]
        while self.parents[line[-1]] >= 0:
            line.append(self.parents[line[-1]])
        return line

    @cached_property
    def mask(self) -> Tensor:
        """Which nodes a node continues from, itself included (N, N)."""
        mask = torch.zeros(len(self), len(self), dtype=torch.bool)
        for node in range(len(self)):
            mask[node, self.ancestors(node)] = True
        return mask

    @cached_property
    def leaf_paths(self) -> Tensor:
        """Nodes from 0 to each leaf (leaves, depth + 1), deepest leaf first, -1 after the end."""
        leaves = [node for node in reversed(range(len(self))) if node not in self.parents]
        rows = torch.full((len(leaves), self.max_depth + 1), -1)
        for row, leaf in zip(rows, leaves, strict=True):
            line = self.ancestors(leaf)[::-1]
            row[: len(line)] = torch.tensor(line)
        return rows

    def history(self, reach: int) -> Tensor:
        """Where each node finds its last `reach` tokens and its own, oldest first (N, reach + 1).

        In a list of the last `reach` tokens before the tree, followed by the nodes: the convolution unfolded.
        """
        if reach not in self._histories:
            rows = []
            for node, depth in enumerate(self.depths):
                line = [reach + ancestor for ancestor in self.ancestors(node)]
                line += [reach - 1 - distance for distance in range(reach - depth)]
                rows.append(line[: reach + 1][::-1])
            self._histories[reach] = torch.tensor(rows)
        return self._histories[reach]

    def tokens(self, root: Tensor, drafts: Tensor) -> Tensor:
        """Tokens of the nodes (B, N), from the certain token (B) and the heads' likeliest (B, heads, RANKS)."""
        heads = torch.tensor([depth - 1 for depth in self.depths[1:]], device=root.device)
        ranks = torch.tensor(self.ranks[1:], device=root.device)
        return torch.cat([root[:, None], drafts[:, heads, ranks]], dim=1) if self.paths else root[:, None]


@dataclass
class Branches:
    """A draft tree that continues from a state, as the layers see it."""

    tree: DraftTree
    block: Block  # of as many tokens as the tree has nodes, at the state's end

    @cached_property
    def mask(self) -> Tensor:
        return self.tree.mask.to(self.block.offsets.device)

    @cached_property
    def depths(self) -> Tensor:
        return torch.tensor(self.tree.depths, device=self.block.offsets.device)

    @cached_property
    def positions(self) -> Tensor:
        """Position of each node in the text (B, N)."""
        return self.block.offsets[:, None] + self.depths

    def seen(self, there: Tensor, window_size: int | None) -> tuple[Tensor, Tensor]:
        """Distances (N, S + N) from each node to the S tokens before the tree, then to the nodes, and which of these
        it sees (B, N, S + N); there (B, S): which of the tokens exist.
        """
        before, nodes = there.shape[1], len(self.tree)
        back = torch.arange(before, 0, -1, device=there.device).expand(nodes, -1) + self.depths[:, None]
        distance = torch.cat([back, self.depths[:, None] - self.depths], dim=1)
        seen = torch.cat([there[:, None].expand(-1, nodes, -1), self.mask.expand(len(there), -1, -1)], dim=2)
        return distance, seen if window_size is None else seen & (distance < window_size)

    def history(self, reach: int) -> Tensor:
        """As `DraftTree.history`."""
        there: Tensor = self.block.once(
            ("history", reach), lambda: self.tree.history(reach).to(self.block.offsets.device)
        )
        return there
