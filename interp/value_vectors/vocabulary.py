"""The tokens that a stack of layers reads and writes: which ids are words, how they read, and where words begin."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.models.bridge import Model
from interp.models.feed_forward import Stack, require_vocabulary, root_of
from interp.value_vectors.action_tokens import ActionTokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """Ids below ``size``; rows of the unembedding from there on pad it, and are no tokens.

    Example:
        >>> import interp
        >>> from interp.models.feed_forward import stack_of
        >>> from interp.value_vectors import vocabulary_of
        >>> model = interp.load_model("embedded")
        >>> vocabulary = vocabulary_of(model, stack_of(model))
        >>> vocabulary.ids_of(["time"])
        [611]
        >>> vocabulary.text(611)
        ' time'
    """

    size: int
    """How many ids are tokens."""
    tokenizer: Any
    """What turns ids into text; None where there is none."""
    actions: ActionTokens | None
    """Which of the ids are actions of a robot; None for a language model."""

    def text(self, token: int) -> str:
        """How a token reads: as an action, as text with its leading space, or as ``[id]`` without a tokenizer."""
        if self.actions is not None and token in self.actions.ids:
            return f"<action {float(self.actions.decode(token)):+.3f}>"
        if self.tokenizer is None:
            return f"[{token}]"
        raw = str(self.tokenizer.convert_ids_to_tokens(token))
        decoded = self.tokenizer.decode([token])
        # Alone, a SentencePiece token loses the space that it brings in a text.
        return f" {decoded}" if raw.startswith("▁") and not decoded.startswith(" ") else decoded

    def ids_of(self, words: Sequence[str | int]) -> list[int]:
        """Ids of concept words, each once: a word alone and behind a space, where that is one token. Ids stay ids.

        Raises:
            ValueError: a word that is no token, with the tokens it splits into; no word.
        """
        if isinstance(words, str) or not words:
            raise ValueError(
                f"words={words!r}: give a list of one or more words (or token ids), such as ['fast', 'quick']"
            )
        return list(dict.fromkeys(token for word in words for token in self._forms(word)))

    def _forms(self, word: str | int) -> list[int]:
        if isinstance(word, int):
            if not 0 <= word < self.size:
                raise ValueError(f"token {word} is not in the vocabulary of {self.size} tokens")
            return [word]
        if self.tokenizer is None:
            raise ValueError(f"the word {word!r} needs a tokenizer: pass tokenizer=…, or token ids in place of words")
        forms = [self.tokenizer.encode(form, add_special_tokens=False) for form in (word, f" {word}")]
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        whole = [ids[0] for ids in forms if len(ids) == 1 and ids[0] != unknown and ids[0] < self.size]
        if not whole:
            pieces = " + ".join(repr(self.text(token)) for token in min(forms, key=len))
            raise ValueError(
                f"the word {word!r} is not one token of this vocabulary, which splits it into {pieces}; choose a word"
                " that is one, or give ids of the tokens you mean"
            )
        return whole


def vocabulary_of(
    model: Model,
    stack: Stack,
    *,
    tokenizer: Any = None,
    actions: ActionTokens | None = None,
    vocab_size: int | None = None,
) -> Vocabulary:
    """The vocabulary of a stack.

    Its size is ``vocab_size``, else that of ``actions``, else the least of what the unembedding, the model and the
    tokenizer have: some pad the unembedding to a round number of rows.

    Raises:
        ValueError: no vocabulary head; a size that the unembedding has not.

    Example:
        >>> import interp
        >>> from interp.models.feed_forward import stack_of
        >>> from interp.value_vectors import vocabulary_of
        >>> model = interp.load_model("embedded")
        >>> vocabulary_of(model, stack_of(model)).size
        4000
    """
    rows = unembedding(stack).shape[0]
    tokenizer = tokenizer if tokenizer is not None else getattr(model, "tokenizer", None)
    known = [rows, getattr(root_of(model), "vocab_size", rows), rows if tokenizer is None else len(tokenizer)]
    size = vocab_size or (actions.vocab_size if actions else min(int(number) for number in known))
    if actions is not None:
        actions.check()
    if not 1 <= size <= rows:
        raise ValueError(f"a vocabulary of {size} tokens does not fit an unembedding of {rows} rows")
    return Vocabulary(size=size, tokenizer=tokenizer, actions=actions)


def unembedding(stack: Stack) -> Float[Tensor, "rows d_model"]:
    """W_U, a row a token, as the model holds it."""
    weight: Tensor = require_vocabulary(stack).get_parameter("weight")
    return weight.detach()
