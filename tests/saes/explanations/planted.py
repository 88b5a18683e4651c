"""An SAE whose latents are known: each is active on one token alone. And judges that know them, toss coins, or nod."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import interp
from interp.sites.site import Site
from saes import SAE, ReLU
from saes.explanations import Answer, Request
from saes.features.examples import Text
from saes.features.page import token_texts

WORDS = (" Emma", " Miss", " very", " could", " much", " every", " which", " good", " more", " must")
"""One token each, of the embedded model; in the text a passage holds the letters only where it holds the token."""
SITE = "blocks.0.hook_resid_pre"


def planted_sae(model: Any) -> SAE:
    """At the embeddings: latent i is 1 where the token is ``WORDS[i]``, and 0 on all others.

    Each pre-activation is affine in the product with the token's own embedding, which is larger than with any other.
    """
    ids = [model.tokenizer.encode(word, add_special_tokens=False) for word in WORDS]
    assert all(len(each) == 1 for each in ids)
    table = model.W_E.detach().double()
    rows = table[[each[0] for each in ids]]
    products = table @ rows.T
    own = products[[each[0] for each in ids], range(len(ids))]
    products[[each[0] for each in ids], range(len(ids))] = -torch.inf
    other = products.max(0).values
    assert (own > other).all()
    middle = (own + other) / 2
    sae = SAE(table.shape[1], len(ids), ReLU(), site=SITE)
    with torch.no_grad():
        sae.W_enc.copy_((rows / (own - middle)[:, None]).T)
        sae.b_enc.copy_(-middle / (own - middle))
        sae.W_dec.copy_(rows)
    return sae


def planted_text(model: Any, folder: Path, *, site: str = SITE) -> Text:
    """Rows of the embedded model's held-out text."""
    rows = interp.rows_for(model, interp.embedded.TEXT_FOLDER / "heldout.jsonl", folder, tokens=10_000)
    return Text(model=model, rows=rows, site=Site.parse(site))


class Judging:
    """A judge by a function of the explanation and an item, which says whether the first of the two words is right."""

    def __init__(
        self, explanations: dict[str, str], says: Callable[[str, str], bool | str], *, name: str = "planted"
    ) -> None:
        self.explanations, self.says, self.name, self.asked = explanations, says, name, 0

    def ask(self, request: Request) -> Answer:
        self.asked += 1
        if request.key() in self.explanations:
            return Answer(
                text=f"Explanation: {self.explanations[request.key()]}", prompt_tokens=100, completion_tokens=9
            )
        explanation = request.text().split("\n")[2]
        words = ("A", "B") if "A or B" in request.text() else ("yes", "no")
        lines = []
        for number, item in re.findall(r"^(\d+): (.*)$", request.text(), re.MULTILINE):
            said = self.says(explanation, item)
            lines.append(said if isinstance(said, str) else f"{number}: {words[0] if said else words[1]}")
        return Answer(text="\n".join(lines), prompt_tokens=50, completion_tokens=3 * len(lines))


def named(study: Any) -> dict[str, str]:
    """Explanations that name each latent's word."""
    return {request.key(): f"the word [{WORDS[latent]}]" for latent, request in study.explanations.items()}


def knows(explanation: str, item: str) -> bool:
    """Whether the word stands in the passage; where tokens are marked, whether it is marked."""
    word = explanation.split("[")[1].split("]")[0]
    return f"<<{word}>>" in item if "<<" in item else word in item


def planted_answer(text: str) -> str:
    """To a request's words: an explanation by the marked word; and by it whether each item holds it."""
    if 'begins with "Explanation:"' in text:
        word = text.split("<<")[-1].split(">>")[0]
        return f"Explanation: the word [{word}]"
    items = re.findall(r"^(\d+): (.*)$", text, re.MULTILINE)
    return "\n".join(f"{number}: {'yes' if knows(text.split(chr(10))[2], item) else 'no'}" for number, item in items)


def coin(seed: int) -> Callable[[str, str], bool]:
    """Heads or tails."""
    generator = random.Random(seed)
    return lambda explanation, item: generator.random() < 0.5


def texts(model: Any) -> Callable[[int], str]:
    """How tokens read."""
    return token_texts(model.tokenizer)
