"""The language model: embedding, residual layers, norm, unembedding; for training, prefill and decoding."""

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar, overload

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from recallfront.kernels.common.dropout import dropout
from recallfront.kernels.common.precision import outside_autocast
from recallfront.models.configs import Architecture
from recallfront.models.layer import Layer
from recallfront.models.parts.answers import Answered, answered, capped
from recallfront.models.parts.draft_tree import Branches
from recallfront.models.parts.layers import Drawn, LayerNorm, Linear, RMSNorm, sinusoids
from recallfront.models.parts.lean import lean_norm, runs_lean
from recallfront.models.parts.state import Block, LayerState, Layout, State, Step, ordinary_tensors

P = ParamSpec("P")
T = TypeVar("T")


def _decodes(method: Callable[P, T]) -> Callable[P, T]:
    """Without gradients, in the type of the weights as the state is, whatever autocast says, and with ordinary tensors
    in it: later steps change it, in whatever mode they run.
    """
    method = outside_autocast(method)

    @wraps(method)
    def run(*arguments: P.args, **keywords: P.kwargs) -> T:
        with ordinary_tensors():
            return method(*arguments, **keywords)

    return run


class Embedding(Drawn):
    """Token embeddings, normal with standard deviation `std`."""

    def __init__(self, vocab_size: int, width: int, *, std: float) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(vocab_size, width))

    def initialise(self, generator: Generator) -> None:
        nn.init.normal_(self.weight, std=self.std, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.weight)


class LanguageModel(nn.Module):
    """A causal language model of the architecture `config`. Made by `build`."""

    def __init__(
        self,
        config: Architecture,
        embedding: Embedding,
        layers: list[Layer],
        final_norm: RMSNorm | LayerNorm,
        unembedding: Linear | None,
        position_table: Embedding | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = embedding
        self.layers = nn.ModuleList(layers)
        self.final_norm = final_norm
        self.unembedding = unembedding  # None: tied to the embedding
        self.position_table = position_table
        self.checkpoint_activations = False  # True: layers are computed again in backward, to save memory
        # the released RecurrentGemma rounds this constant to bfloat16
        self._embedding_scale = float(torch.tensor(config.width**0.5, dtype=torch.bfloat16, device="cpu"))
        self._sinusoidal = config.adds_sinusoids
        self._name = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:16]

    @overload
    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor: ...
    @overload
    def forward(
        self, tokens: Tensor, positions: Tensor | None = None, *, at: Tensor, answers: Tensor
    ) -> Answered: ...
    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        *,
        at: Tensor | None = None,
        answers: Tensor | None = None,
    ) -> Tensor | Answered:
        """Logits (B, T, vocab) for tokens (B, T); positions (B, T) restart at 0 where a packed document
        starts. With `at` and `answers`, both (N,), no logits but the losses of these answers at these places
        of the B * T.

        Raises ValueError if shapes do not fit or positions neither increase by 1 nor restart at 0.
        """
        if at is None or answers is None:
            return self.unembed(self.encode(tokens, positions))
        asked = self.encode(tokens, positions, at=at)
        return answered(asked, self.unembedding_weight, answers, self.config.logits_soft_cap)

    def encode(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        *,
        at: Tensor | None = None,
        embedded: bool = False,
        residuals: list[Tensor] | None = None,
    ) -> Tensor:
        """As `forward`, but the hidden states (B, T, width) that `unembed` makes logits of; with `at` (N,) those of
        these places alone, (N, width).

        embedded: `tokens` are embeddings (B, T, width) already, as `embedding` gives them; residuals: takes the
        residual stream (B, T, width) before each layer.
        """
        _check_tokens(tokens[..., 0] if embedded else tokens, 2)
        if positions is not None:
            _check_positions(positions, tokens.shape[:2])
            if bool((positions == torch.arange(tokens.shape[1], device=positions.device)).all()):
                positions = None  # one document a row: nothing to keep apart
        layout = Layout(positions, tokens.shape[1] if positions is None else int(positions.max()) + 1)
        self.check_length(layout.longest)
        x = self._place(tokens if embedded else self.embedding(tokens), layout.positions)
        if self.training and self.config.embedding_dropout:
            x = dropout(x, self.config.embedding_dropout)
        for number, layer in enumerate(self.layers, start=1):
            if residuals is not None:
                residuals.append(x)
            asked = at if number == len(self.layers) else None
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(layer, x, layout, asked, use_reentrant=False)
            else:
                x = layer(x, layout, asked)
        hidden: Tensor = self.final_norm(x)
        return hidden

    def _embed(self, tokens: Tensor, positions: Tensor | None) -> Tensor:
        return self._place(self.embedding(tokens), positions)

    def _place(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Embeddings (B, T, width) scaled, with their positions added."""
        if self.config.scale_embeddings:
            x = x * self._embedding_scale
        if positions is None and (self._sinusoidal or self.position_table is not None):
            positions = torch.arange(x.shape[1], device=x.device)[None]
        if positions is not None and self._sinusoidal:
            x = x + sinusoids(positions, self.config.width, x.dtype)
        if positions is not None and self.position_table is not None:
            rows = self.config.learned_positions  # padding and drafts that no one reads may lie beyond
            x = x + self.position_table(positions.clamp(max=rows - 1))
        return x

    def check_length(self, length: int) -> None:
        """Raise ValueError if a text has more tokens than the table of positions has rows."""
        rows = self.config.learned_positions
        if rows and length > rows:
            raise ValueError(
                f"the text is {length} tokens long; learned_positions={rows} allows no more than that"
            )

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab) of hidden states (..., width) after the last norm."""
        return capped(F.linear(hidden, self.unembedding_weight), self.config.logits_soft_cap)

    @property
    def unembedding_weight(self) -> Tensor:
        """(vocab, width): the embedding's own if both are tied."""
        return (self.embedding if self.unembedding is None else self.unembedding).weight

    @_decodes
    def init_state(self, batch_size: int) -> State:
        """The decode state of `batch_size` rows that have seen nothing, on the model's device and in its
        type.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        weight = self.embedding.weight
        layers = [
            layer.mixer.init_state(batch_size, weight.device, weight.dtype)  # type: ignore[union-attr, operator]
            for layer in self.layers
        ]
        lengths = torch.zeros(batch_size, dtype=torch.long, device=weight.device)
        return State(layers, lengths, 0, self._state_name)

    @_decodes
    def prefill(
        self, tokens: Tensor, state: State, *, lengths: Tensor | None = None, last_only: bool = False
    ) -> tuple[Tensor, State]:
        """Read a block of tokens (B, T), from the start or continuing from `state`, which is used up.

        lengths (B): tokens of each row that count, at least 1; the others are padding on the right.
        Returns the logits (B, T, vocab), or (B, 1, vocab) after each row's last token, and the state.
        Raises ValueError if tokens, lengths or state do not fit together.
        """
        hidden, state = self.read(tokens, state, lengths=lengths)
        if last_only:
            rows = torch.arange(tokens.shape[0], device=tokens.device)
            hidden = hidden[:, -1:] if lengths is None else hidden[rows, lengths - 1][:, None]
        return self.unembed(hidden), state

    @_decodes
    def read(self, tokens: Tensor, state: State, *, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """As `prefill`, but the hidden states (B, T, width) that `unembed` makes logits of."""
        _check_tokens(tokens, 2)
        self.check_state(state, tokens.shape[0])
        batch, time = tokens.shape
        if lengths is not None:
            _check_lengths(lengths, batch, time)
        block = Block(state.lengths, state.longest, time, lengths, state.uniform)
        if self.position_table is not None:
            self.check_length(state.longest + time if lengths is None else int(block.ends.max()))
        state.spent = True
        x = self._embed(tokens, None if state.longest == 0 else block.positions)
        for layer, layer_state in zip(self.layers, state.layers, strict=True):
            x = x + layer.mixer.extend(layer.mixer_norm(x), layer_state, block)  # type: ignore[union-attr, operator]
            x = layer.add_mlp(x)  # type: ignore[operator]
        return self.final_norm(x), _at_end(state, block)

    @property
    def can_branch(self) -> bool:
        """Whether every layer can read a tree of drafts in one pass (`read_tree`)."""
        return all(layer.mixer.can_branch for layer in self.layers)  # type: ignore[union-attr]

    @_decodes
    def read_tree(self, tokens: Tensor, state: State, branches: Branches) -> tuple[Tensor, list[LayerState]]:
        """Hidden states (B, N, width) after each node of a draft tree whose tokens (B, N) continue from `state`, which
        stays, and what each node would leave in the state of each layer, for `follow`.
        """
        self.check_state(state, tokens.shape[0])
        x, left = self._embed(tokens, branches.positions), []
        for layer, layer_state in zip(self.layers, state.layers, strict=True):
            mixed, own = layer.mixer.branch(layer.mixer_norm(x), layer_state, branches)  # type: ignore[union-attr, operator]
            x = layer.add_mlp(x + mixed)  # type: ignore[operator]
            left.append(own)
        return self.final_norm(x), left

    @_decodes
    def follow(
        self, left: list[LayerState], path: Tensor, state: State, *, lengths: Tensor | None = None
    ) -> State:
        """The state at the end of a path through a tree that `read_tree` has read from `state`, which is used up.

        path (B, T): the nodes of each row, of which `lengths` (B), by default all, count.
        """
        self.check_state(state, len(path))
        block = Block(state.lengths, state.longest, path.shape[1], lengths, state.uniform)
        if self.position_table is not None:
            self.check_length(int(block.ends.max()))
        state.spent = True
        rows = torch.arange(len(path), device=path.device)[:, None]
        for layer, layer_state, own in zip(self.layers, state.layers, left, strict=True):
            taken = {name: tensor[rows, path] for name, tensor in own.items()}
            layer.mixer.follow(taken, layer_state, block)  # type: ignore[union-attr, operator]
        return _at_end(state, block)

    @_decodes
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token a row (B): logits (B, vocab) and the state; the given state is used up."""
        _check_tokens(tokens, 1)
        self.check_state(state, tokens.shape[0])
        self.check_length(state.longest + 1)
        state.spent = True
        step = Step(state.lengths, state.longest, state.uniform, state.kept)
        run = self._lean_step if runs_lean(self.embedding.weight) else self._step
        hidden = run(tokens, state, step)
        lengths, longest = state.lengths + 1, state.longest + 1
        state = State(state.layers, lengths, longest, state.model_name, state.uniform, state.kept)
        return self.unembed(hidden), state

    def _step(self, tokens: Tensor, state: State, step: Step) -> Tensor:
        x = self._embed(tokens[:, None], state.lengths[:, None])[:, 0]
        for layer, layer_state in zip(self.layers, state.layers, strict=True):
            x = layer.step(x, layer_state, step)  # type: ignore[operator]
        return self.final_norm(x)  # type: ignore[no-any-return]

    def _lean_step(self, tokens: Tensor, state: State, step: Step) -> Tensor:
        layers, norm = step.keep(
            (self, "lean"),
            lambda: ([layer.lean_step() for layer in self.layers], lean_norm(self.final_norm)),  # type: ignore[operator]
        )
        with torch.inference_mode():  # a tenth faster; no tensor made in here outlives the step
            x = self._embed(tokens[:, None], state.lengths[:, None])[:, 0]
            for run, layer_state in zip(layers, state.layers, strict=True):
                run(x, layer_state, step)
            return norm(x)  # type: ignore[no-any-return]

    def state_bytes(self, state: State) -> int:
        """Bytes that must survive to the next step, all rows together, measured from the live tensors."""
        return sum(
            tensor.numel() * tensor.element_size()
            for layer, layer_state in zip(self.layers, state.layers, strict=True)
            for tensor in layer.mixer.live(layer_state, state.longest)  # type: ignore[union-attr, operator]
        )

    def parameter_count(self) -> int:
        """Numbers that are trained; a tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def initialise(self, seed: int) -> None:
        """Draw all parameters again from a generator of their own."""
        generator = Generator(device="cpu").manual_seed(seed)
        for module in self.modules():
            if isinstance(module, Drawn):
                module.initialise(generator)

    @property
    def _state_name(self) -> str:
        """What a state must carry to be this model's: configuration and type."""
        return f"{self._name} {self.embedding.weight.dtype}"

    def check_state(self, state: State, batch_size: int) -> None:
        """Raise ValueError if a state is another model's, of other rows, or used up."""
        if state.model_name != self._state_name:
            raise ValueError(
                "the state belongs to a model of another configuration or type; use init_state of this one"
            )
        if state.batch_size != batch_size:
            raise ValueError(
                f"tokens have {batch_size} rows and the state {state.batch_size}; they must agree"
            )
        state.check_unspent()


def _at_end(state: State, block: Block) -> State:
    """The state whose layers have been brought up to the end of a block."""
    longest, uniform = state.longest + block.time, state.uniform
    if block.counts is not None:
        longest = int(block.ends.max())
        uniform = bool((block.ends == longest).all())
    return State(state.layers, block.ends, longest, state.model_name, uniform, state.kept)


def _check_tokens(tokens: Tensor, dimensions: int) -> None:
    wanted = "(batch, time)" if dimensions == 2 else "(batch,)"
    if tokens.ndim != dimensions or tokens.numel() == 0:
        raise ValueError(f"tokens have shape {tuple(tokens.shape)}; it must be {wanted}, and not empty")


def _check_positions(positions: Tensor, shape: torch.Size) -> None:
    if positions.shape != shape:
        raise ValueError(
            f"positions have shape {tuple(positions.shape)}; it must be {tuple(shape)}, the tokens'"
        )
    after, before = positions[:, 1:], positions[:, :-1]
    if not bool(((after == before + 1) | (after == 0)).all()) or int(positions.min()) < 0:
        raise ValueError(
            "positions must increase by 1 from token to token, or restart at 0 where a document starts"
        )


def _check_lengths(lengths: Tensor, batch: int, time: int) -> None:
    if lengths.shape != (batch,) or int(lengths.min()) < 1 or int(lengths.max()) > time:
        raise ValueError(f"lengths must be {batch} numbers between 1 and {time}, one a row of tokens")
