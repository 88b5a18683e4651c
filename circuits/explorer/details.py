"""What a part of a model does on one pair of prompts, as plain data that the browser can draw.

- a head: where it attends, on the clean and the corrupt prompt, and which tokens its output raises;
- an MLP or attention: which tokens its output raises;
- the residual stream: the logit lens, what the model would say if it stopped there (nostalgebraist 2020);
- a latent: where it is active, its top examples, and which tokens its decoder direction raises.

What an output or a direction raises is its projection through the final norm, whose scale is that of the run, and the
unembedding: the direct path to the logits, without what later layers make of it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from circuits.anatomy.anatomy import Anatomy, model_type, require_final_norm
from circuits.anatomy.nodes import Hook, node_hooks
from circuits.anatomy.wiring import output_weights
from circuits.explorer.graph import Part
from circuits.explorer.interventions import Interventions
from interp.models.bridge import is_bridge
from interp.sites.capturing import capture
from interp.sites.lens import behind_unembedding, logit_factor
from interp.sites.norms import linear_norm
from interp.sites.site import Site
from saes.features.examples import Text, top_examples
from saes.features.page import token_texts

TOP = 8
"""Tokens in a list, and top examples of a latent."""
Section = Mapping[str, Any]


class Details:
    """Computes what :class:`circuits.Explorer` shows of a node, each once.

    Args:
        lab: The model and the task.
        model: As it was given, for what a bridge alone can show.
        tokenizer: For the texts of tokens; the model's own by default.
        text: Where top examples of latents are looked up; without it, among the task's own prompts.

    Raises:
        ValueError: a family without a final norm, or one whose attention does not show its patterns.
    """

    def __init__(self, lab: Interventions, model: Any, *, tokenizer: Any = None, text: Text | None = None) -> None:
        self.lab, self.model, self.text = lab, model, text
        self.final_norm = _before_unembedding(lab.session.anatomy)
        self.tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
        self.text_of: Callable[[int], str] = token_texts(self.tokenizer)
        self._kept: dict[tuple[str, int], list[Section]] = {}

    @torch.no_grad()
    def of(self, part: Part, *, prompt: int = 0) -> list[Section]:
        """Sections, each with a ``kind`` that the browser knows.

        Raises:
            ValueError: a prompt that the task does not have.
        """
        if not 0 <= prompt < len(self.lab.task):
            raise ValueError(f"prompt {prompt} is not one of the task's 0 to {len(self.lab.task) - 1}")
        key = (part.id, prompt)
        if key not in self._kept:
            self._kept[key] = self._sections(part, prompt)
        return self._kept[key]

    def _sections(self, part: Part, prompt: int) -> list[Section]:
        if part.kind in ("latent", "error"):
            return self._latent(part, prompt)
        if part.kind == "head":
            return [*self._attention(part, prompt), *self._raised(part, prompt)]
        if part.kind in ("mlp", "attention", "neuron"):
            return self._raised(part, prompt)
        return self._lens(part, prompt)

    def _pair(self, prompt: int) -> Tensor:
        """The clean and the corrupt prompt, ``[2, position]``."""
        return torch.stack([self.lab.task.clean[prompt], self.lab.task.corrupt[prompt]])

    def _tokens(self, ids: Tensor) -> list[str]:
        return [self.text_of(token) for token in ids.tolist()]

    def _attention(self, part: Part, prompt: int) -> list[Section]:
        head = part.index or 0
        if part.family in ("k", "v"):
            head *= self.lab.session.anatomy.heads // self.lab.session.anatomy.key_value_heads
        tokens = self._pair(prompt)
        patterns = self._patterns(tokens, part.layer)[:, head]
        return [
            {
                "kind": "attention",
                "title": f"Attention pattern, {run} prompt",
                "tokens": self._tokens(ids),
                "row": part.position,
                "values": _rounded(pattern),
            }
            for run, ids, pattern in zip(("clean", "corrupt"), tokens, patterns, strict=True)
        ]

    def _patterns(self, tokens: Tensor, layer: int) -> Tensor:
        """``[prompt, head, query, key]``."""
        if is_bridge(self.model):
            site = Site("pattern", layer)
            return capture(self.model, tokens, [site])[site].float().cpu()
        root = self.lab.session.anatomy.root
        with _eager(root):
            found = root(input_ids=tokens.to(root.device), output_attentions=True, use_cache=False).attentions  # type: ignore[arg-type]
        return found[layer].float().cpu()

    def _raised(self, part: Part, prompt: int) -> list[Section]:
        """What an output adds to the logits, at the part's position or at the last."""
        position = self.lab.task.length - 1 if part.position is None else part.position
        anatomy = self.lab.session.anatomy
        block = anatomy.blocks[part.layer]
        family = "attn_out" if part.kind == "attention" else "z" if part.kind == "head" else "mlp_out"
        output, final = node_hooks(anatomy, family)[part.layer].value, Hook(self.final_norm, entering=True)
        inner = node_hooks(anatomy, "mlp_post")[part.layer].value if part.kind == "neuron" else None
        projection, post_norm = block.o, block.attention_post_norm
        if inner is not None:
            projection, post_norm = inner.module, block.mlp_post_norm
        projected = Hook(projection, entering=False)
        read = [hook for hook in (output, final, inner, projected) if hook is not None]
        passed = self.lab.session.runner.forward(self._pair(prompt), read=read)
        written = passed.value(output)[:, position]
        if part.kind == "head":
            written = written[:, part.index] @ output_weights(anatomy, block)[part.index or 0]
        elif inner is not None:
            only = torch.zeros_like(passed.value(inner)[:, position])
            only[:, part.index] = passed.value(inner)[:, position, part.index]
            written = projection.forward(only) - projection.forward(torch.zeros_like(only))
        if part.kind in ("head", "neuron"):  # parts of what the norm behind the projection sees
            if post_norm is not None:
                norm = linear_norm(post_norm)
                written = norm.linear(written, norm.scale(passed.value(projected)[:, position]))
            if part.kind == "neuron":
                written = written * anatomy.family.residual_multiplier
        norm = linear_norm(self.final_norm)
        logits = self._added_logits(norm.linear(written, norm.scale(passed.value(final)[:, position])))
        at = self._tokens(self._pair(prompt)[0])[position]
        note = (
            "Logits that the output adds directly, through the final norm at its size in this run, before a soft cap;"
            " what later layers make of it is left out. Logits are compared with their mean."
        )
        centred = logits - logits.mean(-1, keepdim=True)
        return [
            {"kind": "heading", "text": f"What its output says after “{at.strip() or at}”"},
            *(
                {"kind": "logits", "title": f"{run} prompt", **self._extremes(row)}
                for run, row in zip(("clean", "corrupt"), centred, strict=True)
            ),
            {"kind": "note", "text": note},
        ]

    def _unembed(self, x: Tensor) -> Tensor:
        return self.lab.session.anatomy.root.get_output_embeddings().forward(x).float()  # type: ignore[operator]

    def _added_logits(self, normed: Tensor) -> Tensor:
        """What a part of the final norm's output adds to the logits, before a soft cap."""
        bias = self._unembed(torch.zeros_like(normed[:1]))
        return (self._unembed(normed) - bias) * logit_factor(self.lab.session.anatomy.root.config)

    def _extremes(self, logits: Tensor) -> dict[str, list[tuple[str, float]]]:
        return {name: self._top(sign * logits, sign) for name, sign in (("raised", 1), ("lowered", -1))}

    def _top(self, logits: Tensor, sign: int = 1) -> list[tuple[str, float]]:
        values, ids = logits.topk(min(TOP, logits.numel()))
        return [
            (self.text_of(token), _short(sign * value))
            for token, value in zip(ids.tolist(), values.tolist(), strict=True)
        ]

    def _lens(self, part: Part, prompt: int) -> list[Section]:
        """The logit lens at every position; of the logits themselves, what the model says."""
        anatomy = self.lab.session.anatomy
        if part.kind == "logits":
            hook = Hook(self.final_norm, entering=True)
        else:
            family, layer = ("resid_pre", 0) if part.kind == "embed" else (part.family, part.layer)
            hook = node_hooks(anatomy, family)[layer].value
        tokens = self._pair(prompt)
        passed = self.lab.session.runner.forward(tokens, read=[hook])
        stream = passed.value(hook)
        logits = behind_unembedding(anatomy.root.config, self._unembed(self.final_norm.forward(stream)))
        title = "What the model says next" if part.kind == "logits" else "Logit lens: what it would say from here"
        return [
            {
                "kind": "lens",
                "title": f"{title}, {run} prompt",
                "tokens": self._tokens(ids),
                "row": part.position,
                "top": [self._top(row)[:3] for row in found],
            }
            for run, ids, found in zip(("clean", "corrupt"), tokens, logits.softmax(-1), strict=True)
        ]

    def _latent(self, part: Part, prompt: int) -> list[Section]:
        splice = self.lab.splices[part.site]
        task, runner = self.lab.task, self.lab.session.runner
        clean, corrupt = (
            runner.forward(tokens, read=[splice.hooks.value]).value(splice.hooks.value)
            for tokens in (task.clean, task.corrupt)
        )
        error = part.index is None
        activations = [
            found[1].norm(dim=-1) if error else found[0][..., part.index]
            for found in (splice.parts(clean), splice.parts(corrupt))
        ]
        pair = self._pair(prompt)
        sections: list[Section] = [
            {
                "kind": "passage",
                "title": f"{'Size of the error' if error else 'Activation'}, {run} prompt",
                "tokens": self._tokens(ids),
                "values": _rounded(found[prompt]),
                "peak": part.position,
            }
            for run, ids, found in zip(("clean", "corrupt"), pair, activations, strict=True)
        ]
        if error:
            return sections
        sections += [{"kind": "heading", "text": "Where it is most active"}, *self._examples(part, activations)]
        direction = splice.sae.W_dec[part.index].detach()
        norm = linear_norm(self.final_norm)
        logits = self._added_logits(norm.linear(direction[None], torch.ones_like(direction[:1])))[0]
        note = "Logits a unit of activation, through the final norm's weight but without its division; centred."
        return [
            *sections,
            {"kind": "heading", "text": "Effect on the next token"},
            {"kind": "logits", "title": "W_dec @ W_U", **self._extremes(logits - logits.mean())},
            {"kind": "note", "text": note},
        ]

    def _examples(self, part: Part, activations: Sequence[Tensor]) -> list[Section]:
        assert part.index is not None
        splice = self.lab.splices[part.site]
        if self.text is not None:
            text = Text(**vars(self.text) | {"site": Site.parse(part.site)})
            found = top_examples(splice.sae, text, [part.index], k=TOP)[0]
            examples = [(e.ids, e.activations, e.position - e.first) for e in found]
            where = f"Of {self.text.max_tokens:,} tokens of text at most; a row counts once."
        else:
            values = torch.cat(list(activations))
            ids = torch.cat([self.lab.task.clean, self.lab.task.corrupt])
            strongest = values.amax(1).topk(min(TOP, len(values)))
            rows = [r for r, v in zip(strongest.indices.tolist(), strongest.values.tolist(), strict=True) if v > 0]
            examples = [(tuple(ids[r].tolist()), tuple(values[r].tolist()), int(values[r].argmax())) for r in rows]
            where = "Among the task's own prompts; pass text=… for examples from other text."
        most = max((max(values) for _, values, _ in examples), default=1.0)
        return [
            *(
                {
                    "kind": "passage",
                    "tokens": [self.text_of(token) for token in ids],
                    "values": [_short(value) for value in values],
                    "peak": peak,
                    "most": most,
                }
                for ids, values, peak in examples
            ),
            {"kind": "note", "text": where if examples else f"It is never active. {where}"},
        ]


def _before_unembedding(anatomy: Anatomy) -> nn.Module:
    """The final norm, through which and the unembedding parts reach the logits.

    Raises:
        ValueError: there is none, or attention does not show its patterns.
    """
    purpose = "show what the parts do of"
    if not anatomy.family.eager:
        raise ValueError(f"cannot {purpose} a {model_type(anatomy)!r} model: its attention shows no patterns")
    return require_final_norm(anatomy, purpose=purpose)


@contextmanager
def _eager(root: Any) -> Any:
    """Attention that hands out its pattern, for the time of one pass."""
    before = root.config._attn_implementation
    root.config._attn_implementation = "eager"
    try:
        yield
    finally:
        root.config._attn_implementation = before


def _short(value: float) -> float:
    """Three digits: more would only make a page larger."""
    return float(f"{value:.3g}")


def _rounded(values: Tensor) -> Any:
    return [_rounded(row) if row.ndim else _short(float(row)) for row in values]
