"""Pages of value vectors: every neuron's tokens, and the neurons of a concept."""

import plotly.graph_objects as go

from interp.pages.html_page import Page
from interp.value_vectors.clusters import Cluster
from interp.value_vectors.projection import Projection

_NORMS = {"raw": "without the final norm, as in the paper", "gain": "with the final norm's gain folded in"}
_LIMIT = 20_000


def projection_page(found: Projection, *, name: str) -> Page:
    """Every neuron's top tokens (of a large model, the neurons with the largest logits), to sort and filter."""
    neurons = [(layer, index) for layer, top in found.layers.items() for index in range(len(top.ids))]
    first = {(layer, index): float(found.layers[layer].logits[index, 0]) for layer, index in neurons}
    shown = sorted(sorted(neurons, key=lambda neuron: -first[neuron])[:_LIMIT])
    which = "all" if len(shown) == len(neurons) else f"the {len(shown):,} with the largest logits"
    page = Page(f"Value vectors of {name}", subtitle=f"{len(neurons):,} neurons at {found.stack}, {_NORMS[found.norm]}")
    if found.chance is not None:
        share = found.action_share
        figure = go.Figure(
            go.Scatter(
                x=list(share),
                y=[estimate.value for estimate in share.values()],
                error_y={"array": [estimate.standard_error for estimate in share.values()]},
                name="top tokens",
            ),
            layout={"title": "Action tokens among the top tokens", "xaxis_title": "layer", "yaxis_title": "share"},
        )
        figure.update_xaxes(dtick=max(1, len(share) // 16))
        figure.add_hline(y=found.chance, line_dash="dot", annotation_text=f"chance {found.chance:.2%}")
        page.figures((figure, f"Mean over the neurons of a layer, ± standard error; {found.vocabulary.size:,} tokens."))
    page.heading("Neurons").text(f"Shown: {which}. A logit means something only beside others of its neuron.")
    rows = [(*neuron, first[neuron], " ".join(repr(token.text) for token in found.tokens(neuron))) for neuron in shown]
    return page.table(("layer", "neuron", "largest logit", "tokens"), rows, interactive=True)


def cluster_page(cluster: Cluster) -> Page:
    """The members of a cluster with what justifies them."""
    words = ", ".join(map(str, cluster.words))
    page = Page(
        f"Neurons for {words}", subtitle=f"{len(cluster.members)} neurons of {cluster.model}, {_NORMS[cluster.norm]}"
    )
    against = f", less the same for {', '.join(map(str, cluster.antonyms))}" if cluster.antonyms else ""
    how = {
        "neighbours": "cosine of the five top tokens' weighted embedding with that of the words",
        "logit": "standardised logit of the words",
    }[cluster.method]
    page.text(f"Score: {how}{against}. The tokens say what a neuron raises; whether it steers is to be measured.")
    rows = [
        (member.layer, member.index, member.score, " ".join(repr(token.text) for token in member.tokens))
        for member in cluster.members
    ]
    page.table(("layer", "neuron", "score", "tokens it raises most"), rows, interactive=True)
    return page.text(f"Weights {cluster.fingerprint}, stack {cluster.stack}.")
