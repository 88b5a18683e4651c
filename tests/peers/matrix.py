"""What is exchanged with which tool, and how exactly: the tests run from these tables, and docs/formats.md shows them.

``python -m tests.peers.matrix`` prints them as the document has them.
"""

from dataclasses import dataclass
from typing import Any

import torch

from saes import SAE, BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopAFA, TopK
from saes.activations import Activation
from tests.peers.worker_io import D_IN, D_OUT, D_SAE, K, randomise


@dataclass(frozen=True)
class Same:
    """The SAE is held, and both sides compute the same up to a share of the largest value; 0 is bit for bit."""

    as_: str
    """Its name on the other side."""
    latents: float = 0.0
    output: float = 0.0

    def __str__(self) -> str:
        if self.latents == self.output:
            return f"`{self.as_}`, {_how(self.output)}"
        return f"`{self.as_}`, latents {_how(self.latents)}, output {_how(self.output)}"


def _how(difference: float) -> str:
    return f"within {difference:.0e}".replace("e-0", "e-") if difference else "equal"


@dataclass(frozen=True)
class Refused:
    """Not held; the error says so in these words."""

    why: str

    def __str__(self) -> str:
        return f"refused: {self.why}"


NEAR = 1e-6
_PLAIN = {"subtract_b_dec": False}
_TRANSCODER = {"subtract_b_dec": False, "site": "a", "target_site": "b"}
_TO_OTHER_WIDTH = _TRANSCODER | {"d_out": D_OUT}
OURS: dict[str, tuple[Activation, dict[str, Any]]] = {
    "topk": (TopK(K), {}),
    "topk, b_dec not subtracted": (TopK(K), _PLAIN),
    "topk, layer-normalised": (TopK(K), {"layer_norm": True}),
    "batchtopk": (BatchTopK(K), {}),
    "matryoshka": (Matryoshka(K, shares=(0.25, 0.5, 1.0)), {}),
    "jumprelu": (JumpReLU(), {}),
    "jumprelu, b_dec not subtracted": (JumpReLU(), _PLAIN),
    "gated": (Gated(), {}),
    "relu": (ReLU(), {}),
    "relu, b_dec not subtracted": (ReLU(), _PLAIN),
    "afa": (TopAFA(), {}),
    "topk transcoder": (TopK(K), _TRANSCODER),
    "topk transcoder, skip": (TopK(K), _TRANSCODER | {"skip": True}),
    "topk transcoder to another width": (TopK(K), _TO_OTHER_WIDTH),
    "relu transcoder": (ReLU(), _TO_OTHER_WIDTH),
    "relu transcoder, skip": (ReLU(), _TO_OTHER_WIDTH | {"skip": True}),
    "jumprelu transcoder": (JumpReLU(), _TO_OTHER_WIDTH),
    "jumprelu transcoder, skip": (JumpReLU(), _TO_OTHER_WIDTH | {"skip": True}),
    "batchtopk transcoder": (BatchTopK(K), _TO_OTHER_WIDTH),
    "gated transcoder": (Gated(), _TO_OTHER_WIDTH),
}
"""Name -> activation, and options of the SAE."""


def our_sae(name: str) -> SAE:
    """With random weights, the same at every call."""
    activation, options = OURS[name]
    sae = SAE(D_IN, D_SAE, activation, **options)
    torch.manual_seed(list(OURS).index(name))
    randomise(sae)
    return sae


_TOPK_ALONE, _NO_TRANSCODERS = Refused("holds TopK alone"), Refused("no transcoders")
WRITTEN: dict[str, dict[str, Same | Refused]] = {
    "saelens": {
        "topk": Same("topk"),
        "topk, b_dec not subtracted": Same("topk"),
        "topk, layer-normalised": Same("topk"),
        "batchtopk": Same("jumprelu"),
        "matryoshka": Same("jumprelu"),
        "jumprelu": Same("jumprelu"),
        "jumprelu, b_dec not subtracted": Same("jumprelu"),
        "gated": Same("gated", NEAR, NEAR),
        "relu": Same("standard"),
        "relu, b_dec not subtracted": Same("standard"),
        "afa": Refused("cannot hold afa"),
        "topk transcoder": Refused("cannot hold a transcoder of topk"),
        "topk transcoder, skip": Refused("cannot hold a transcoder of topk"),
        "topk transcoder to another width": Refused("cannot hold a transcoder of topk"),
        "relu transcoder": Same("transcoder"),
        "relu transcoder, skip": Same("skip_transcoder"),
        "jumprelu transcoder": Same("jumprelu_transcoder"),
        "jumprelu transcoder, skip": Same("jumprelu_skip_transcoder"),
        "batchtopk transcoder": Same("jumprelu_transcoder"),
        "gated transcoder": Refused("cannot hold a transcoder of gated"),
    },
    "sparsify": {name: _TOPK_ALONE for name in OURS if not name.startswith("topk")}
    | {
        "topk": Same("topk"),
        "topk, b_dec not subtracted": Same("topk, transcode"),
        "topk, layer-normalised": Refused("does not layer-normalise"),
        "topk transcoder": Same("topk, transcode"),
        "topk transcoder, skip": Same("topk, transcode, skip_connection"),
        "topk transcoder to another width": Refused("output is as wide as its input"),
    },
    "dictionary_learning": {name: _NO_TRANSCODERS for name in OURS if "transcoder" in name}
    | {
        "topk": Same("AutoEncoderTopK"),
        "topk, b_dec not subtracted": Refused("subtracts b_dec"),
        "topk, layer-normalised": Refused("does not layer-normalise"),
        "batchtopk": Same("BatchTopKSAE"),
        "matryoshka": Same("MatryoshkaBatchTopKSAE"),
        "jumprelu": Same("JumpReluAutoEncoder", NEAR, NEAR),
        "jumprelu, b_dec not subtracted": Same("JumpReluAutoEncoder"),
        "gated": Same("GatedAutoEncoder", NEAR, NEAR),
        "relu": Same("AutoEncoder"),
        "relu, b_dec not subtracted": Same("AutoEncoderNew", output=NEAR),
        "afa": Refused("cannot hold this afa SAE"),
    },
}
"""Format -> our SAE -> how it is held there."""

READ: dict[str, dict[str, Same | Refused]] = {
    "saelens": {
        "standard": Same("relu"),
        "standard, trained": Same("relu"),
        "topk": Same("topk"),
        "topk, before version 6": Same("topk"),
        "topk, trained": Same("topk", NEAR, NEAR),
        "topk, rescaled by decoder norms": Same("topk", NEAR, NEAR),
        "topk, layer_norm": Same("topk"),
        "jumprelu": Same("jumprelu"),
        "jumprelu, b_dec not subtracted": Same("jumprelu"),
        "jumprelu, trained": Same("jumprelu"),
        "batchtopk, trained": Same("jumprelu"),
        "batchtopk, in training": Refused("read what save_inference_model wrote"),
        "matryoshka_batchtopk, trained": Same("jumprelu"),
        "gated": Same("gated", NEAR, NEAR),
        "gated, trained": Same("gated", NEAR, NEAR),
        "transcoder": Same("relu"),
        "skip_transcoder": Same("relu"),
        "jumprelu_transcoder": Same("jumprelu"),
        "jumprelu_skip_transcoder": Same("jumprelu"),
        "abstopk": Refused("'abstopk' has no counterpart"),
        "matching_pursuit": Refused("'matching_pursuit' has no counterpart"),
    },
    "sparsify": {
        "topk": Same("topk"),
        "topk, skip_connection": Same("topk"),
        "topk, transcode": Same("topk"),
        "topk, transcode, skip_connection": Same("topk"),
        "groupmax": Refused("'groupmax' has no counterpart"),
    },
    "dictionary_learning": {
        "AutoEncoder": Same("relu"),
        "AutoEncoderNew": Same("relu", output=NEAR),
        "AutoEncoderTopK": Same("topk"),
        "BatchTopKSAE": Same("batchtopk"),
        "MatryoshkaBatchTopKSAE": Same("matryoshka"),
        "JumpReluAutoEncoder": Same("jumprelu"),
        "GatedAutoEncoder": Same("gated", NEAR, NEAR),
    },
}
"""Format -> an SAE that the tool wrote -> how it is held here."""


def written_table() -> str:
    """Markdown: a row for each of our SAEs, a column for each format."""
    rows = [["SAE", *WRITTEN], ["---"] * (1 + len(WRITTEN))]
    rows += [[name, *(str(cells[name]) for cells in WRITTEN.values())] for name in OURS]
    return _markdown(rows)


def read_table() -> str:
    """Markdown: a row for each SAE that a tool wrote."""
    rows = [["written by", "SAE", "read here as"], ["---"] * 3]
    rows += [[form, f"`{name}`", str(cell)] for form, cells in READ.items() for name, cell in cells.items()]
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(f"{written_table()}\n\n{read_table()}")
