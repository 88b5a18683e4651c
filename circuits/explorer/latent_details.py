"""What the explorer shows of a node of an attribution graph.

Of a latent where it is active, here and in other text, and which tokens it raises; of all nodes that edges enter, what
their value is made of.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from circuits.graphs.graph import AttributionGraph
from circuits.graphs.logit_effects import token_effects
from saes.features.examples import Example, Text, top_examples
from saes.features.page import token_texts

TOP = 8
"""Tokens in a list, and top examples of a latent."""
Section = Mapping[str, Any]
_NO_TEXT = (
    "For passages of other text where it is most active: GraphExplorer(graph, text=saes.features.examples.Text(model=…,"
    " rows=…, site=…)); the site is taken from the transcoder."
)


class LatentDetails:
    """Computes what is shown of a node; examples of a layer's latents in one pass over the text.

    Args:
        graph: The graph, with or without its model.
        numbers: Nodes that are drawn.
        text: Where top examples are looked up.
    """

    def __init__(self, graph: AttributionGraph, numbers: np.ndarray, text: Text | None) -> None:
        self.graph, self.numbers, self.text = graph, numbers, text
        source = graph.source
        tokenizer = None if source is None else getattr(source.model, "tokenizer", None)
        self.text_of: Callable[[int], str] = token_texts(tokenizer)
        self._examples: dict[int, dict[int, tuple[Example, ...]]] = {}
        self._active: dict[int, Any] = {}

    def of(self, number: int) -> list[Section]:
        """Sections that the browser knows."""
        node, sections = self.graph.node(number), self._made_of(number)
        if node.kind != "latent" or self.graph.source is None:
            return sections
        values = self._activations(node.layer)[:, node.index]
        sections.append(
            {
                "kind": "passage",
                "title": "Activation on this prompt",
                "tokens": list(self.graph.labels),
                "values": [_short(value) for value in values.tolist()],
                "peak": node.position,
            }
        )
        ((raised, lowered),) = token_effects(self.graph, [number], k=TOP).values()
        note = (
            "Logits a unit of activation, by all layers that it writes to, through the final norm without its division."
        )
        sections += [
            {
                "kind": "logits",
                "title": "Effect on the next token",
                "raised": [(token, _short(value)) for token, value in raised],
                "lowered": [(token, _short(value)) for token, value in lowered],
            },
            {"kind": "note", "text": note},
        ]
        return [*sections, *self._passages(node.layer, node.index)]

    def _made_of(self, number: int) -> list[Section]:
        """The identity that holds for every row of the graph, in numbers."""
        graph = self.graph
        terms = [float(each[number]) for each in (graph.pre_activation, graph.bias, graph.left_out, graph.unselected)]
        if any(math.isnan(term) for term in terms):
            return []
        whole, bias, left_out, unselected = terms
        edges = float(graph.adjacency[[number]].sum())
        named = "Value" if graph.node(number).kind == "target" else "Pre-activation"
        parts = f"{edges:.4g} by edges, {bias:.4g} by biases, {left_out:.4g} by positions left out"
        parts += f", {unselected:.4g} by what is no node"
        return [{"kind": "note", "text": f"{named} {whole:.4g}: {parts}."}]

    def _activations(self, layer: int) -> Any:
        """``[position, latent]``, dense, of one layer; 0 where no transcoder stands in."""
        if layer not in self._active:
            runs = self.graph.reruns
            one = next(one for one in runs.transcoders if one.layer == layer)
            dense = one.part.encode(runs.clean.run.at[one.read][0].to(one.part.W_enc.dtype)).to_dense()
            self._active[layer] = (dense * runs.kept[:, None]).detach().float().cpu()
        return self._active[layer]

    def _passages(self, layer: int, index: int) -> Sequence[Section]:
        if self.text is None:
            return [{"kind": "note", "text": _NO_TEXT}]
        if layer not in self._examples:
            n = self.graph.nodes
            mine = [i for i in self.numbers.tolist() if self.graph.node(i).kind == "latent" and n.layer[i] == layer]
            latents = sorted({int(n.index[i]) for i in mine})
            one = next(one for one in self.graph.source.transcoders if one.layer == layer)
            found = top_examples(one.part, replace(self.text, site=one.read), latents, k=TOP)
            self._examples[layer] = dict(zip(latents, found, strict=True))
        examples = self._examples[layer].get(index, ())
        most = max((max(example.activations) for example in examples), default=1.0)
        where = f"Of {self.text.max_tokens:,} tokens of text at most; a row counts once."
        return [
            {"kind": "heading", "text": "Where it is most active"},
            *(
                {
                    "kind": "passage",
                    "tokens": [self.text_of(token) for token in example.ids],
                    "values": [_short(value) for value in example.activations],
                    "peak": example.position - example.first,
                    "most": _short(most),
                }
                for example in examples
            ),
            {"kind": "note", "text": where if examples else f"It is never active. {where}"},
        ]


def _short(value: float) -> float:
    """Three digits: more would only make a page larger."""
    return float(f"{value:.3g}")
