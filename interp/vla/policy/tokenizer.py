"""The policy's 351 tokens: 95 words, then 256 action bins, the last ids of the vocabulary as in OpenVLA."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from interp.value_vectors.action_tokens import ActionTokens
from interp.vla.policy.words import TOKENS

_BINS = 256
VOCAB = len(TOKENS) + _BINS
ACTIONS = ActionTokens(vocab_size=VOCAB, edges=_BINS)
PAD, BOS, EOS = (TOKENS.index(token) for token in ("<pad>", "<s>", "</s>"))


def load_tokenizer() -> PreTrainedTokenizerFast:
    """Words split at spaces; action tokens are called ``<action_0>`` (the lowest id, the largest action) onwards."""
    names = [*TOKENS, *(f"<action_{i}>" for i in range(_BINS))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def encode(text: str) -> list[int]:
    """Token ids of a text behind the beginning-of-sequence token.

    Raises:
        ValueError: words that the policy does not have, and those that it has.
    """
    unknown = [word for word in text.split() if word not in TOKENS]
    if unknown:
        raise ValueError(
            f"the policy has no word for {', '.join(map(repr, unknown))}; its words: {' '.join(TOKENS[4:])}"
        )
    return [BOS, *(TOKENS.index(word) for word in text.split())]
