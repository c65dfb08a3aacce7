"""Speculative decoding says what greedy decoding says, whatever the tree, the prompt and the drafts."""

import ast
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from recallfront.models import LanguageModel, build, parse_config
from recallfront.models.decoding.draft_training import draft_losses, train_draft_heads
from recallfront.models.decoding.generation import generate
from recallfront.models.decoding.speculative import DraftHeads, generate_speculative, read_tree
from recallfront.models.mixers.base import Mixer
from recallfront.models.parts.draft_tree import RANKS, Branches, DraftTree
from recallfront.models.parts.state import Block
from tests.kernels.golden import load_golden, load_text
from tests.models.cases import CASES, case_config, draw_tokens, make_model

TREE = DraftTree([[0], [1], [0, 0], [0, 1], [1, 0], [0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [2]])


GROUPED = make_model(case_config("grouped"))
HEADS = DraftHeads(GROUPED, 4)


@cache
def with_heads(name: str) -> tuple[LanguageModel, DraftHeads]:
    model = make_model(case_config(name))
    return model, DraftHeads(model, 4)


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    paths: list[tuple[int, ...]] = []
    for _ in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from([(), *(path for path in paths if len(path) < 4)]))
        rank = draw(st.integers(0, RANKS - 1))
        if (*parent, rank) not in paths:
            paths.append((*parent, rank))
    return DraftTree(paths)


def test_golden_tree() -> None:
    golden = load_golden("draft_tree")
    tree = DraftTree(ast.literal_eval(load_text("draft_tree", "choices")))
    assert torch.equal(tree.mask.float(), golden["medusa_attn_mask"][0, 0])
    assert list(tree.depths) == golden["medusa_position_ids"].tolist()
    assert torch.equal(tree.leaf_paths, golden["retrieve_indices"])
    root, drafts = torch.tensor([-1]), torch.arange(3 * RANKS).view(1, 3, RANKS)
    candidates = tree.tokens(root, drafts) + 1  # the authors count the certain token as candidate 0
    assert candidates[0].tolist() == golden["tree_indices"].tolist()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("length", [1, 3, 4, 6, 11])
def test_every_node_is_read_as_the_end_of_its_path(name: str, length: int) -> None:
    model = make_model(case_config(name))
    tokens, nodes = draw_tokens(2, length), draw_tokens(2, len(TREE), seed=1)
    _, state = model.prefill(tokens, model.init_state(2))
    logits = model.unembed(read_tree(model, nodes, state, TREE).hidden)
    for node in range(len(TREE)):
        path = torch.cat([tokens, nodes[:, TREE.ancestors(node)[::-1]]], dim=1)
        torch.testing.assert_close(logits[:, node], model(path)[:, -1], atol=1e-10, rtol=1e-10)
    again = model.unembed(read_tree(model, nodes, state, TREE).hidden)
    assert torch.equal(again, logits)  # the state stayed as it was


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(1, 14), min_size=1, max_size=3))
def test_a_followed_path_leaves_what_reading_it_does(
    name: str, data: st.DataObject, sizes: list[int]
) -> None:
    model, tree = with_heads(name)[0], data.draw(trees())
    rows, lengths = len(sizes), torch.tensor(sizes)
    _, state = model.prefill(draw_tokens(rows, max(sizes)), model.init_state(rows), lengths=lengths)
    nodes = draw_tokens(rows, len(tree), seed=1)
    ends = data.draw(st.lists(st.integers(0, len(tree) - 1), min_size=rows, max_size=rows))
    lines = [tree.ancestors(end)[::-1] for end in ends]
    counts = torch.tensor([len(line) for line in lines])
    path = torch.tensor([line + [0] * (int(counts.max()) - len(line)) for line in lines])
    reading = read_tree(model, nodes, state, tree)
    _, expected = model.read(nodes.gather(1, path), state.select(torch.arange(rows)), lengths=counts)
    followed = reading.follow(model, path, counts, state)
    assert state.spent and followed.longest == expected.longest and followed.uniform == expected.uniform
    assert torch.equal(followed.lengths, expected.lengths)
    coming = draw_tokens(rows, 3, seed=2)
    logits, expected_logits = (model.prefill(coming, after)[0] for after in (followed, expected))
    torch.testing.assert_close(logits, expected_logits, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", [name for name in CASES if make_model(case_config(name)).can_branch])
@torch.no_grad()
def test_what_is_followed_is_rounded_as_what_is_read(name: str) -> None:
    """In bfloat16: a sum over the text would keep what each round has lost."""
    tree = DraftTree([[0], [0, 0], [0, 0, 0]])  # one path: its projection is a block's
    model = make_model(case_config(name), torch.bfloat16)
    x = torch.randn(2, 15, model.config.width, generator=torch.Generator().manual_seed(0)).bfloat16()
    before, nodes = x.split([11, 4], dim=1)
    start, end = torch.zeros(2, dtype=torch.long), torch.full((2,), 11)
    for layer in model.layers:
        mixer = layer.mixer
        assert isinstance(mixer, Mixer)
        followed, read = (mixer.init_state(2, nodes.device, nodes.dtype) for _ in range(2))
        for state in (followed, read):
            mixer.extend(before, state, Block(start, 0, 11))
        _, left = mixer.branch(nodes, followed, Branches(tree, Block(end, 11, 4)))
        mixer.follow(left, followed, Block(end, 11, 4))
        mixer.extend(nodes, read, Block(end, 11, 4))
        for part, tensor in read.items():
            torch.testing.assert_close(followed[part], tensor, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_speculative_is_greedy(name: str) -> None:
    model = make_model(case_config(name))
    heads = DraftHeads(model, 4)
    tokens, lengths = draw_tokens(3, 9), torch.tensor([9, 1, 5])
    expected = generate(model, tokens, lengths=lengths, max_new_tokens=21)
    found = generate_speculative(model, heads, tokens, lengths=lengths, tree=TREE, max_new_tokens=21)
    assert found.tokens == expected


# the last one reads each path as a row
@pytest.mark.parametrize(
    "values",
    [CASES["attention-gpt"], CASES["linear-biases"], {"architecture": "gla", "learned_positions": 64}],
)
def test_up_to_the_last_learned_position(values: dict[str, object]) -> None:
    """Drafts beyond the table are written by no one, and rows that have ended go no further."""
    model = make_model(parse_config({"vocab_size": 17, "width": 16} | values))
    tokens, lengths = draw_tokens(3, 58), torch.tensor([58, 30, 54])
    expected = generate(model, tokens, lengths=lengths, max_new_tokens=7)
    heads = DraftHeads(model, 4)
    found = generate_speculative(model, heads, tokens, lengths=lengths, tree=TREE, max_new_tokens=7)
    assert found.tokens == expected


@pytest.mark.parametrize("architecture", ["gla", "attention"])
def test_a_row_whose_longer_neighbour_has_ended_uses_the_whole_table(architecture: str) -> None:
    config = {"vocab_size": 17, "width": 16, "architecture": architecture, "learned_positions": 40}
    model = make_model(parse_config(config))
    tokens, lengths = draw_tokens(2, 30), torch.tensor([30, 5])
    short = generate(model, tokens[1:, :5], max_new_tokens=24)[0]
    (long,) = generate(model, tokens[:1], max_new_tokens=10)
    stop = {next(token for token in long if token not in short)}
    found = generate_speculative(
        model, DraftHeads(model, 4), tokens, tree=TREE, max_new_tokens=24, lengths=lengths, stop_tokens=stop
    )
    assert found.tokens[1] == short and len(found.tokens[0]) < 10


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=12, deadline=None)
@given(
    tree=trees(),
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=3),
    new=st.integers(1, 12),
    seed=st.integers(0, 99),
    stop=st.sets(st.integers(0, 16), max_size=2),
)
def test_any_tree_and_prompt(
    name: str, tree: DraftTree, lengths: list[int], new: int, seed: int, stop: set[int]
) -> None:
    model, heads = with_heads(name)
    tokens, sizes = draw_tokens(len(lengths), max(lengths), seed), torch.tensor(lengths)
    expected = generate(model, tokens, lengths=sizes, max_new_tokens=new, stop_tokens=stop)
    found = generate_speculative(
        model, heads, tokens, tree=tree, lengths=sizes, max_new_tokens=new, stop_tokens=stop
    )
    assert found.tokens == expected
    assert 1 <= found.rounds <= new


def test_right_drafts_save_rounds() -> None:
    """A model that always says the same is easy to guess."""
    model = make_model(case_config("grouped"))
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.embedding.weight[:, 0] = torch.arange(17.0)
        for layer in model.layers:
            for parameter in layer.parameters():
                parameter.zero_()
    found = generate_speculative(model, DraftHeads(model, 4), draw_tokens(1, 3), tree=TREE, max_new_tokens=20)
    assert found.tokens == generate(model, draw_tokens(1, 3), max_new_tokens=20)
    assert found.rounds == 4  # five tokens a round


def test_stop_tokens() -> None:
    tokens = draw_tokens(2, 5)
    stop = generate(GROUPED, tokens, max_new_tokens=12)[0][6]
    expected = generate(GROUPED, tokens, max_new_tokens=12, stop_tokens={stop})
    found = generate_speculative(GROUPED, HEADS, tokens, tree=TREE, max_new_tokens=12, stop_tokens={stop})
    assert found.tokens == expected


@pytest.mark.parametrize("paths", [[[]], [[0], [0]], [[0, 0]], [[RANKS]], [[-1]]])
def test_paths_that_are_no_tree(paths: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="the draft tree has the path"):
        DraftTree(paths)


def test_a_tree_deeper_than_the_heads() -> None:
    with pytest.raises(ValueError, match="4 deep and there are 2 heads"):
        generate_speculative(GROUPED, DraftHeads(GROUPED, 2), draw_tokens(1, 3), tree=TREE, max_new_tokens=2)


def test_trained_heads_guess_more() -> None:
    """A model of a text that repeats itself, and heads that learn to guess it: fewer rounds, the same tokens."""
    model = build(case_config("grouped"), seed=1)
    text = torch.arange(24)[None].repeat(4, 1).add(torch.arange(4)[:, None]) % 7
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    weights = [parameter.clone() for parameter in model.parameters()]
    heads = DraftHeads(model, 3)
    tree = DraftTree([[0], [0, 0], [0, 0, 0]])
    before = generate_speculative(model, heads, text[:, :8], tree=tree, max_new_tokens=16)
    losses = train_draft_heads(model, heads, text, steps=120, batch_size=4, learning_rate=1e-2)
    after = generate_speculative(model, heads, text[:, :8], tree=tree, max_new_tokens=16)
    assert losses[-1] < 0.1 * losses[0]
    assert before.tokens == after.tokens == generate(model, text[:, :8], max_new_tokens=16)
    assert after.rounds < before.rounds and after.rounds <= 6  # at best 16 / 4
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))


def test_texts_too_short_for_the_heads() -> None:
    hidden, _ = GROUPED.read(draw_tokens(1, 5), GROUPED.init_state(1))
    with pytest.raises(ValueError, match="tokens have length 5; 4 heads need at least 6"):
        list(draft_losses(HEADS, hidden, draw_tokens(1, 5)))


def test_the_draft_loss_is_taken_in_pieces() -> None:
    """Of many positions no more than some have logits at a time, and their sum is the loss."""
    text = draw_tokens(5, 512)
    hidden, _ = GROUPED.read(text, GROUPED.init_state(5))
    sizes: list[int] = []
    hooks = [
        head.register_forward_hook(lambda _, __, logits: sizes.append(logits.numel()))
        for head in HEADS.unembeddings
    ]
    found = sum(part.item() for part in draft_losses(HEADS, hidden, text))
    for hook in hooks:
        hook.remove()
    logits = HEADS(hidden)
    wanted = sum(
        0.8**k * F.cross_entropy(logits[:, : -2 - k, k].flatten(0, 1), text[:, 2 + k :].flatten()).item()
        for k in range(4)
    )
    assert found == pytest.approx(wanted, rel=1e-5)
    assert max(sizes) <= 1024 * GROUPED.config.vocab_size
