"""What a model adds to prompts, and where it stops."""

from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from recallfront.models import build, parse_config
from recallfront.platform.evaluation.subject import Subject
from recallfront.sweeps.text.tokenizer import ByteTokenizer, FastTokenizer

SPACE = "\u2581"


def spaced_tokenizer() -> FastTokenizer:
    """One that puts a space before every text and spells what it does not know in bytes, as Llama's does."""
    texts = ["</s>", "<unk>", SPACE, "<0x0A>", *"0123456789"]
    vocab = {text: number for number, text in enumerate(texts)}
    backend = Tokenizer(BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return FastTokenizer(backend, "</s>")


def test_a_stop_of_several_tokens_stops_at_none_of_them() -> None:
    words = spaced_tokenizer()
    config = parse_config({"architecture": "hawk", "vocab_size": words.size, "width": 16})
    one = Subject(build(config, seed=0).eval(), words, None, None)
    assert one.encode("\n") == [2, 3]
    # a model whose embeddings are tied says the last token again
    prompt = one.encode("5 ")
    (whole,) = one.continued([prompt], 12)
    assert whole.count(" ") > 2
    assert one.continued([prompt], 12, stop="\n") == [whole]


def test_a_stop_of_one_token_ends_the_text() -> None:
    config = parse_config({"architecture": "hawk", "vocab_size": 257, "width": 16})
    one = Subject(build(config, seed=0).eval(), ByteTokenizer(), None, None)
    (whole,) = one.continued([one.encode("abc")], 20)
    (stopped,) = one.continued([one.encode("abc")], 20, stop=whole[8])
    assert len(stopped) < len(whole) and stopped.partition(whole[8])[0] == whole.partition(whole[8])[0]
