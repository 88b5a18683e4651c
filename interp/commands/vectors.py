"""``interp vectors``: read a model's feed-forward neurons as words, find those of a concept, and steer by them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from interp.commands.options import OutFile
from interp.terminal.answers import answer
from interp.terminal.help_text import examples
from interp.terminal.mode import say_plan

app = App(
    name="vectors",
    help="Feed-forward neurons as words: project them, find those of a concept, steer by them.",
    help_epilogue=examples(
        "interp vectors project gpt2 --html neurons.html",
        "interp vectors find gpt2 --words fast,quick --antonyms slow --save fast.json",
        "interp vectors steer gpt2 --cluster fast.json --prompt 'The train was' --value 6",
    ),
)

_SHOWN = 3
"""Neurons in the terminal; the page has them all."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which model, and how its neurons are read."""

    revision: str | None = None
    """Training checkpoint, such as step1000."""
    layers: str = "all"
    """all, early (the first half), late, or numbers such as 3,4,5."""
    norm: Literal["raw", "gain"] = "raw"
    """raw as in the paper, or with the final norm's gain folded in."""
    actions: int | None = None
    """Size of the vocabulary whose last 256 ids are action tokens, such as 32000 for OpenVLA."""
    stack: str | None = None
    """Path of the blocks, where a model has several stacks of them."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights in memory; the projection is always in float32."""
    device: str | None = None
    """By default a GPU where there is one."""

    def load(self, name: str) -> Any:
        """The model, plain."""
        from interp.models.loading import load_hf_model

        return load_hf_model(name, revision=self.revision, dtype=self.dtype, device=self.device)

    def options(self) -> dict[str, Any]:
        """What ``project`` and ``find`` share."""
        from interp.value_vectors.action_tokens import ActionTokens

        return {
            "layers": self.layers if self.layers in ("all", "early", "late") else _numbers(self.layers),
            "norm": self.norm,
            "actions": None if self.actions is None else ActionTokens(vocab_size=self.actions),
            "stack": self.stack,
        }


@app.command
def project(
    model: str,
    /,
    *,
    html: OutFile,
    top_k: int = 10,
    reading: Annotated[Reading, Parameter(name="*")] = Reading(),
) -> None:
    """Write a page with every neuron's top tokens, and the share of action tokens in each layer beside chance.

    Parameters
    ----------
    model
        A hub id or short name (gpt2, pythia-70m), a folder (vision-language models too), a .gguf file, embedded, or
        smollm2-135m.
    html
        Page to write.
    top_k
        Tokens a neuron.
    """
    from interp.value_vectors.page import projection_page
    from interp.value_vectors.projection import project as project_neurons

    options = reading.options()
    say_plan(f"the {top_k} tokens that every neuron of {model} raises most; layers: {reading.layers}")
    found = project_neurons(reading.load(model), top_k=top_k, **options)
    strongest = sorted(
        (
            (float(logit), layer, index)
            for layer, top in found.layers.items()
            for index, logit in enumerate(top.logits[:, 0])
        ),
        reverse=True,
    )[:_SHOWN]
    shares = None if found.chance is None else found.action_share
    answer(
        {
            "html": html,
            "strongest": [
                {
                    "layer": layer,
                    "neuron": index,
                    "logit": logit,
                    "tokens": [t.text for t in found.tokens((layer, index))],
                }
                for logit, layer, index in strongest
            ],
            "chance": found.chance,
            "action_share": shares,
        }
    )
    for logit, layer, index in strongest:
        texts = " ".join(repr(token.text) for token in found.tokens((layer, index)))
        print(f"layer {layer}, neuron {index}, largest logit {logit:.3g}: {texts}")
    for layer, share in (shares or {}).items():
        print(f"layer {layer}: {share.value:.1%} of top tokens are actions (chance {found.chance:.1%})")
    print(f"Report: {projection_page(found, name=model).write(html)}")


@app.command
def find(
    model: str,
    /,
    *,
    words: str,
    antonyms: str = "",
    method: Literal["neighbours", "logit"] = "neighbours",
    top: int = 20,
    save: OutFile | None = None,
    html: OutFile | None = None,
    reading: Annotated[Reading, Parameter(name="*")] = Reading(),
) -> None:
    """Find the neurons of a concept and print them with the tokens that justify them.

    Parameters
    ----------
    model
        As for interp vectors project.
    words
        Of the concept, separated by commas; each must be one token.
    antonyms
        Words that the neurons should not stand for.
    method
        neighbours, the paper's, or logit, the standardised logit of the words.
    top
        How many neurons.
    save
        JSON file for the cluster.
    html
        Page with the table, to sort and to filter.
    """
    from rich.console import Console
    from rich.table import Table

    from interp.value_vectors.page import cluster_page
    from interp.value_vectors.projection import find as find_neurons

    options = {"antonyms": _words(antonyms), "method": method, "top": top, **reading.options()}
    say_plan(f"every neuron of {model} is scored by {method} for {words}; layers: {reading.layers}")
    cluster = find_neurons(reading.load(model), _words(words), **options)
    console = Console(highlight=False)
    table = Table("layer", "neuron", "score", "tokens it raises most")
    for member in cluster.members:
        texts = " ".join(repr(token.text) for token in member.tokens)
        table.add_row(str(member.layer), str(member.index), f"{member.score:.3f}", texts)
    console.print(table, markup=False)
    answer(cluster)
    if save:
        console.print(f"Cluster: {cluster.save(save)}")
    if html:
        console.print(f"Report: {cluster_page(cluster).write(html)}")


@app.command
def steer(
    model: str,
    /,
    *,
    cluster: Path,
    prompt: str,
    value: float,
    mode: Literal["set", "add", "scale"] = "set",
    scope: Literal["all", "prefill", "decode", "last"] = "all",
    tokens: int = 30,
    neutral: str | None = None,
    revision: str | None = None,
    device: str | None = None,
) -> None:
    """Continue a prompt with and without a cluster's neurons changed, and say what that does to neutral text.

    Parameters
    ----------
    model
        A language model, as for interp vectors project.
    cluster
        JSON file of interp vectors find, of the same model.
    prompt
        Text to continue, greedily.
    value
        What the activations are set to, or what is added, or the factor.
    mode
        set, add or scale.
    scope
        Positions: all, prefill (the prompt), decode, or last (those from which a token is predicted).
    tokens
        To generate.
    neutral
        Text on which nothing should change: prints KL and loss on ten rows of it.
    revision
        Training checkpoint, such as step1000.
    device
        By default a GPU where there is one.
    """
    from interp.models.loading import load_model
    from interp.steering.edits import steer as steered
    from interp.steering.effects import side_effects
    from interp.tokens.sequences import text_rows
    from interp.value_vectors.clusters import load_cluster

    say_plan(
        f"{model} continues the prompt by {tokens} tokens, as it is and steered"
        + (f", and reads ten rows of {neutral} both ways" if neutral else "")
    )
    loaded = load_model(model, revision=revision, device=device)
    if loaded.tokenizer is None:
        raise ValueError(f"{model} has no tokenizer to read the prompt with; steer it from Python with token ids")
    neurons = load_cluster(cluster, loaded).neurons
    ids = loaded.to_tokens(prompt)

    def change() -> Any:
        return steered(loaded, neurons=neurons, mode=mode, value=value, scope=scope)

    def text() -> str:
        out = loaded.original_model.generate(ids, max_new_tokens=tokens, do_sample=False)
        return str(loaded.tokenizer.decode(out[0, ids.shape[1] :]))

    plain = text()
    print(f"without: {plain!r}")
    with change():
        steered_text = text()
    print(f"steered: {steered_text!r}")
    figures: dict[str, Any] = {"without": plain, "steered": steered_text}
    if neutral:
        rows, mask = text_rows(loaded, neutral, sequences=10, context=128, bos="never")
        found = side_effects(loaded, rows[mask.all(1)], change)
        figures["neutral"] = found
        print(f"neutral text, {found.kl.n} rows: KL {found.kl} nats a position; loss {found.loss}, changed by")
        print(f"  {found.loss_change}; another most likely token at {found.top_changed.value:.1%} of positions")
    answer(figures)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"--layers is {text!r}; give all, early, late, or numbers such as 3,4,5") from None
