"""Files of every kind that is read, as whole as their tools write them, and seeded ways to damage them."""

import gzip
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import torch
import zstandard
from safetensors.torch import save_file

from circuits import Task, attribution_graph
from circuits.circuit import Circuit
from circuits.graphs import read_neuronpedia, write_neuronpedia
from interp import ActivationStore, load_model
from interp.in_context import TrainConfig, load_run, train
from interp.massive.stats import layer_stats
from interp.massive.sweep_table import Measured, Results
from interp.models.feed_forward import stack_of
from interp.models.fingerprint import weights_fingerprint
from interp.store.caching import cache_activations
from interp.tokens.sources import open_source
from interp.tokens.token_rows import verify_token_rows
from interp.trajectory.released import read_release
from interp.value_vectors.clusters import Cluster, Member, Token, load_cluster
from interp.vla.policy.policy import PolicyConfig, VLAPolicy, load_policy
from saes import SAE, JumpReLU
from saes.convert import write
from saes.explanations import Answer, Answers, Message, Recorded, Request, read_notes
from saes.explanations.findings import FORMAT, Explanation, Findings, Left, Scored, sae_of
from saes.explanations.scores import compared, score_of, summed_up
from saes.places import Dictionary, Layout, load_any, write_circuit_tracer
from saes.suites import read_entities, read_labelled
from tests.circuits.graphs.sets import random_set
from tests.interp.models.test_loading import write_gguf
from tests.interp.store.stores import random_rows, tiny_bridge
from tests.saes.places.by_hand import SEVERAL
from tests.saes.variants import VARIANTS, random_sae
from tests.tiny_models import tiny_model

TEXTS = ["Call me Ishmael.", "naïve café ☕", "", "z" * 300, "\U0001f600 end"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Files, and what reads all of them."""

    make: Callable[[Path], object]
    """Writes whole files into an empty folder."""
    load: Callable[[Path], object]
    """Reads that folder, to the last byte."""


def documents(folder: Path, name: str, **options: Any) -> list[Any]:
    """All documents of a file."""
    return ["".join(d) if not isinstance(d, np.ndarray) else d for d in open_source(folder / name, **options).read()]


def _lines() -> bytes:
    return "".join(json.dumps({"text": text, "n": [1, 2]}) + "\n" for text in TEXTS).encode()


def _text(name: str, content: Callable[[], bytes], **options: Any) -> Kind:
    return Kind(
        make=lambda folder: (folder / name).write_bytes(content()),
        load=lambda folder: documents(folder, name, **options),
    )


def _saved(make: Callable[[Path], object], load: Callable[[Path], object]) -> Kind:
    return Kind(make=lambda folder: make(folder / "subject"), load=lambda folder: load(folder / "subject"))


def _converted(form: str, variant: str) -> Kind:
    sae = random_sae(VARIANTS[variant], dtype=torch.float32)
    return _saved(lambda folder: write(sae, form, folder), SAE.load)


def _gemma_scope(folder: Path) -> None:
    sae = random_sae(VARIANTS["jumprelu"], dtype=torch.float32)
    np.savez(folder / "params.npz", **{name: value.detach().numpy() for name, value in sae.named_parameters()})


def _openai(folder: Path) -> None:
    state = {
        "encoder.weight": torch.randn(24, 8),
        "decoder.weight": torch.randn(8, 24),
        "latent_bias": torch.zeros(24),
        "pre_bias": torch.zeros(8),
        "activation": "TopK",
        "activation_state_dict": {"k": 4, "postact_fn": "ReLU"},
    }
    torch.save(state, folder / "sae.pt")


def _several(name: str) -> Callable[[Path], object]:
    """A dictionary over several places, small."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (4, 6), "W_dec": (6, 4), "b_enc": (6,), "b_dec": (4,), "threshold": (6,), "skip": (4, 4)}
    weights = [
        {key: torch.rand(shape, generator=generator) for key, shape in shapes.items()}
        | {"W_dec_to": torch.rand(3, 6, 4, generator=generator)}
        for _ in range(3)
    ]
    return lambda folder: SEVERAL[name].write(folder, weights)


def _only_folder(folder: Path) -> object:
    """The innermost folder that holds files."""
    return load_any(next(path for path in sorted(folder.rglob("*")) if path.is_file()).parent)


def _task_lines() -> bytes:
    pair = {"clean": "So Mary", "corrupt": "So John", "correct": " a", "wrong": [" b", " c"]}
    return (json.dumps(pair) + "\n\n" + json.dumps(pair | {"wrong": " d"}) + "\n").encode()


def _circuit(folder: Path) -> None:
    Circuit(
        nodes={"embed": 1.0, "a0.h0": 0.5, "logits": 0.0},
        edges={("embed", "a0.h0.q"): 0.25, ("a0.h0", "logits"): -1.0},
        groups={"a0.h0.q": ("a0.h0",), "logits": ("logits",)},
        about={"method": "eap", "rules": None},
    ).save(folder / "circuit.json")


def _graph(folder: Path) -> None:
    graph = attribution_graph(tiny_model("gpt2"), [3, 5, 7], random_set(dtype=torch.float32), targets=[3])
    write_neuronpedia(graph.prune(), folder / "graph.json", slug="tiny")


def _explanations(folder: Path) -> None:
    said = Explanation(latent=3, text="dogs", judge="j", prompts="p", seed=0, examples=5, density=0.1)
    both = compared(*[score_of([True, False] * 9, [True, word] * 9, ["x"] * 18) for word in (False, True)])
    Findings(
        format=FORMAT,
        about={"sae": {"weights": "w"}},
        latents=(Scored(explanation=said, companion=said, scores={"detection": both}, kl=None),),
        summary={"detection": summed_up([both])},
        left_out={},
        no_pairs={},
        explained=2,
        malformed_explanations=0,
        requests=3,
        tokens=4,
        uncounted=0,
        left=Left(requests=0, tokens=0),
        stopped=None,
    ).write(folder)


def _release(folder: Path) -> None:
    place = folder / "pythia_14m"
    (place / "stats").mkdir(parents=True)
    (place / "params").mkdir()
    for step in (0, 512):
        array = np.sort(np.random.default_rng(step).random((2, 4, 3)), axis=1)[:, ::-1] + 0.5
        (place / "stats" / f"exp2_pythia_14m_step{step}").write_text(str(array))
    names = ["A", "λ", "γ", "t0", "K"]  # noqa: RUF001  # as the files spell them
    fit = {"original": {"param_names": names, "popt": [1.0, 2.0, 3.0, 4.0, 5.0], "r2": 0.9, "aic": -3.0}}
    (place / "params" / "layer_fit_params_ratio.json").write_text(json.dumps([fit] * 3))


def kinds(folder: Path) -> dict[str, Kind]:
    """Every loader of files from outside, by name; ``folder`` is for what they share."""
    model = tiny_bridge(folder / "model")
    rows = random_rows(folder / "rows", rows=4)
    tokenizer = load_model("embedded").tokenizer

    def cluster(place: Path) -> None:
        neurons = [Member(layer=i, index=i, score=0.5, tokens=(Token(id=1, text="fast", logit=2.0),)) for i in (0, 1)]
        Cluster(
            model="tiny",
            fingerprint=weights_fingerprint(model),
            stack=stack_of(model).path,
            words=("fast", 3),
            antonyms=(),
            method="logit",
            norm="raw",
            members=tuple(neurons),
        ).save(place / "cluster.json")

    def sweep(place: Path) -> None:
        results, stats = Results(place / "results.jsonl"), layer_stats(model, torch.arange(16).reshape(2, 8))
        shared = {"model": "m", "revision": "r", "identity": "i", "weights": "w", "data": "d", "dtype": "f", "code": 1}
        results.add(Measured(step=1, blocks=("a", "b", "c"), sink_rate=0.5, stats=stats, **shared))
        results.add_missing("m", 2, "gone")

    def sweep_table(place: Path) -> None:
        rows, _ = Results(place / "results.jsonl").latest(steps=[1, 2], model="m", data="d", dtype="f", code=1)
        assert [row.step for row in rows] in ([], [1])

    def icl_run(place: Path) -> None:
        train(TrainConfig(steps=20, checkpoints=2, sequences=10, hidden=4), place)

    def store(place: Path) -> None:
        cache_activations(model, rows, ["blocks.0.hook_resid_post"], place, dtype="int8")

    def read_store(place: Path) -> None:
        found = ActivationStore(place)
        for site in found.sites:
            list(found.batches(site, 50))
        found.tokens()

    def answers(place: Path) -> None:
        for question in TEXTS:
            request = Request(messages=(Message(role="user", content=question),))
            Answers(place / "answers.jsonl").add(
                request, Answer(text="yes", prompt_tokens=3, completion_tokens=1), judge="j"
            )

    def circuit_tracer_set(place: Path) -> None:
        places = [tuple(f"blocks.{i}.{hook}" for i in range(2)) for hook in ("mlp.hook_in", "hook_mlp_out")]
        layout = Layout("transcoders", *places)
        write_circuit_tracer(Dictionary(layout, ((4, 4), (4, 4)), d_sae=6, activation=JumpReLU()), place)

    def parquet(place: Path) -> None:
        pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS * 20}), place / "a.parquet", compression="zstd")

    def saved_dataset(place: Path) -> None:
        datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(place / "saved")

    def ids(place: Path) -> None:
        np.save(place / "a.npy", np.arange(50).reshape(10, 5))

    def gemma_2(place: Path) -> None:
        sae = random_sae(VARIANTS["jumprelu"], dtype=torch.float32)
        save_file(
            {name.lower(): p.detach().contiguous() for name, p in sae.named_parameters()}, place / "params.safetensors"
        )

    def policy(place: Path) -> None:
        VLAPolicy(PolicyConfig(camera=32, hidden=8, layers=1, heads=2, intermediate=8)).save(place, notes={"n": 1})

    return {
        "txt": _text("a.txt", lambda: "".join(TEXTS).encode()),
        "jsonl": _text("a.jsonl", _lines),
        "jsonl of ids": _text("a.jsonl", _lines, column="n"),
        "jsonl.gz": _text("a.jsonl.gz", lambda: gzip.compress(_lines())),
        "jsonl.zst": _text("a.jsonl.zst", lambda: zstandard.compress(_lines())),
        "parquet": Kind(make=parquet, load=lambda place: documents(place, "a.parquet")),
        "saved data set": Kind(make=saved_dataset, load=lambda place: documents(place, "saved")),
        "npy": Kind(make=ids, load=lambda place: documents(place, "a.npy")),
        "bin": _text("a.bin", lambda: np.arange(50, dtype="<u2").tobytes()),
        "token rows": _saved(lambda place: random_rows(place, rows=4), verify_token_rows),
        "store": _saved(store, read_store),
        "sae": _saved(random_sae(VARIANTS["matryoshka"], dtype=torch.float32).save, SAE.load),
        "saelens": _converted("saelens", "topk"),
        "sparsify": _converted("sparsify", "topk"),
        "dictionary_learning": _converted("dictionary_learning", "matryoshka"),
        "gemma scope": Kind(make=_gemma_scope, load=SAE.load),
        "gemma scope 2": Kind(make=gemma_2, load=SAE.load),
        "gemma scope 2 clt": Kind(make=_several("gemma_scope 2, clt"), load=_only_folder),
        "llamascopium clt": Kind(make=_several("llamascopium, clt, jumprelu"), load=_only_folder),
        "circuit_tracer set": _saved(circuit_tracer_set, load_any),
        "answers of a judge": Kind(make=answers, load=Recorded),
        "explanations": Kind(make=_explanations, load=lambda place: (read_notes(place), sae_of(place))),
        "openai": Kind(make=_openai, load=SAE.load),
        "entities": Kind(
            make=lambda place: (place / "a.json").write_text(
                json.dumps(
                    {
                        "questions": {"a": "{entity} is", "b": "A {entity}"},
                        "entities": {f"e{i}": {"a": "x", "b": f"{i}"} for i in range(8)},
                    }
                ),
                encoding="utf-8",
            ),
            load=lambda place: read_entities(place / "a.json"),
        ),
        "labelled texts": Kind(
            make=lambda place: (place / "a.jsonl").write_text(
                "".join(json.dumps({"text": f"t {i}", "label": i % 2}) + "\n" for i in range(12)), encoding="utf-8"
            ),
            load=lambda place: read_labelled(place / "a.jsonl"),
        ),
        "task": Kind(
            make=lambda place: (place / "task.jsonl").write_bytes(_task_lines()),
            load=lambda place: Task.from_jsonl(place / "task.jsonl", tokenizer),
        ),
        "cluster": Kind(make=cluster, load=lambda place: load_cluster(place / "cluster.json", model)),
        "circuit": Kind(make=_circuit, load=lambda place: Circuit.load(place / "circuit.json")),
        "graph": Kind(make=_graph, load=lambda place: read_neuronpedia(place / "graph.json")),
        "sweep": Kind(make=sweep, load=sweep_table),
        "icl run": Kind(make=icl_run, load=load_run),
        "release": Kind(make=_release, load=lambda place: read_release(place / "pythia_14m")),
        "policy": Kind(make=policy, load=load_policy),
        "gguf": Kind(
            make=lambda place: write_gguf(place / "tiny.gguf", tiny_model("llama")),
            load=lambda place: load_model(place / "tiny.gguf"),
        ),
        "model": Kind(make=lambda place: tiny_model("llama").save_pretrained(place), load=load_model),
    }


_VALUES: tuple[Any, ...] = (None, True, -1, 0, 1, 2**31, 10**30, 1.5, -0.0, 1e308, "", "x", "..", "\ud83d", [], {})
_VALUES += ([[]], {"a": 1}, [1, "a"], "y" * 5000, float("nan"), float("inf"), "format", ["\x00"], {"": None})


def damaged(content: bytes, name: str, rng: random.Random) -> bytes:
    """A file's content changed: inside its packing or its header where it has one, or as bytes."""
    if name.endswith((".gz", ".zst")) and rng.random() < 0.5:
        gz = name.endswith(".gz")
        inside = damaged(gzip.decompress(content) if gz else zstandard.decompress(content), "a.jsonl", rng)
        return gzip.compress(inside) if gz else zstandard.compress(inside)
    if name.endswith((".json", ".jsonl")) and rng.random() < 0.7:
        lines = content.split(b"\n") if name.endswith(".jsonl") else [content]
        index = rng.randrange(len(lines))
        if lines[index].strip():
            lines[index] = _other_json(lines[index], rng)
        return b"\n".join(lines)
    if name.endswith(".safetensors") and rng.random() < 0.5:
        (length,) = struct.unpack("<Q", content[:8])
        header = _other_json(content[8 : 8 + length], rng)
        return struct.pack("<Q", len(header)) + header + content[8 + length :]
    return _other_bytes(content, rng)


def _other_json(text: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.05:
        return b"[" * 100_000
    value = json.loads(text)
    places = list(_places(value))
    if not places:
        return json.dumps(rng.choice(_VALUES)).encode()
    holder, key = rng.choice(places)
    change = rng.random()
    if change < 0.2:
        del holder[key]
    elif change < 0.3 and isinstance(holder, dict):
        holder[rng.choice(["new", "", "\ud83d", "format"])] = holder.pop(key)
    else:
        holder[key] = rng.choice(_VALUES)
    return json.dumps(value).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in entries] + [place for _, entry in entries for place in _places(entry)]


def _other_bytes(content: bytes, rng: random.Random) -> bytes:
    data, at = bytearray(content), rng.randrange(len(content) + 1)
    if rng.random() < 0.4:  # the beginning is where formats say what follows
        at = min(at, rng.randrange(256))
    change = rng.randrange(6)
    if change == 0:
        del data[at:]
    elif change == 1:
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif change == 2:
        data[at : at + rng.choice([1, 4, 8, 64])] = rng.randbytes(rng.choice([1, 4, 8, 64]))
    elif change == 3:
        del data[at : at + rng.choice([1, 4, 8, 64, 1024])]
    elif change == 4:
        data[at:at] = data[at : at + rng.choice([1, 8, 64])]
    else:
        data[at : at + 8] = rng.choice(
            [b"\xff" * 8, b"\x00" * 8, b"\x00" * 7 + b"\x7f", b"\x00\x00\x00\x00\x01\x00\x00\x00"]
        )
    return bytes(data)
