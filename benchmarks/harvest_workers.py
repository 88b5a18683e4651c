"""Contestants of the harvest benchmark: each returns the residual stream after the asked blocks for the same ids.

    python benchmarks/harvest_workers.py NAME SETTINGS.json     (started by harvest.py)

Every contestant skips what lies behind the deepest layer and keeps only what was asked, with gradients off. Imports
are inside the functions because no environment has all of these libraries.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from worker import Contestant, serve

Activations = dict[int, torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """One setting of the benchmark; `weights` is a file written by harvest.py, so all share the same numbers."""

    shape: str
    layers: tuple[int, ...]
    dtype: str
    rows: int
    context: int
    threads: int
    weights: str
    scratch: str

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype = getattr(torch, self.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype

    def ids(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(0, 50_000, (self.rows, self.context), generator=generator)


def build_config(shape: str) -> Any:
    """The configuration of GPT-2 small or Pythia-70m, written out because no model hub is asked."""
    from transformers import GPT2Config, GPTNeoXConfig

    if shape == "gpt2":
        return GPT2Config()
    if shape == "pythia-70m":
        return GPTNeoXConfig(
            hidden_size=512,
            num_hidden_layers=6,
            num_attention_heads=8,
            intermediate_size=2048,
            vocab_size=50_304,
            max_position_embeddings=2048,
            use_parallel_residual=True,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25},
        )
    raise ValueError(f"shape must be 'gpt2' or 'pythia-70m', got {shape!r}")


def build_model(settings: Settings, *, attention: str = "sdpa") -> Any:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(build_config(settings.shape), attn_implementation=attention)
    model.load_state_dict(load_file(settings.weights), strict=False)
    model.tie_weights()
    return model.to(settings.torch_dtype).eval()


def blocks_of(model: Any) -> Any:
    return model.transformer.h if hasattr(model, "transformer") else model.gpt_neox.layers


class _ReachedLastLayer(Exception):
    pass


def _stop_hook(settings: Settings, attention: str) -> Contestant:
    model, ids = build_model(settings, attention=attention), settings.ids()
    last = max(settings.layers)
    kept: Activations = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            kept[layer] = output if isinstance(output, torch.Tensor) else output[0]
            if layer == last:
                raise _ReachedLastLayer

        return hook

    for layer in settings.layers:
        blocks_of(model)[layer].register_forward_hook(keep(layer))

    @torch.no_grad()
    def run() -> Activations:
        kept.clear()
        try:
            model.base_model(ids, use_cache=False)
        except _ReachedLastLayer:
            return dict(kept)
        raise AssertionError("the hook on the last layer never fired")

    return Contestant(run, ("torch", "transformers"), save)


def transformers_stop_hook(settings: Settings) -> Contestant:
    return _stop_hook(settings, "sdpa")


def transformers_eager(settings: Settings) -> Contestant:
    return _stop_hook(settings, "eager")


def boot_bridge(settings: Settings) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    name = {"gpt2": "gpt2", "pythia-70m": "EleutherAI/pythia-70m"}[settings.shape]
    hf_model = build_model(settings)
    return TransformerBridge.boot_transformers(
        name,
        hf_model=hf_model,
        dtype=settings.torch_dtype,
        device="cpu",
        tokenizer=_tokenizer(hf_model.config, settings),
    ).eval()


def _tokenizer(config: Any, settings: Settings) -> Any:
    """A tokenizer with one word, loaded from a folder: the bridge wants that, and this benchmark works on ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<|endoftext|>": config.vocab_size - 1}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>")),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    # The driver removes the scratch folder; the bridge reads this one again while it boots.
    folder = tempfile.mkdtemp(dir=settings.scratch)
    tokenizer.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def deepfield_capture(settings: Settings) -> Contestant:
    from interp import capture, load_model

    folder = tempfile.mkdtemp(dir=settings.scratch)
    build_model(settings).save_pretrained(folder)
    model, ids = load_model(folder, dtype=settings.torch_dtype), settings.ids()
    sites = {layer: f"blocks.{layer}.hook_resid_post" for layer in settings.layers}

    def run() -> Activations:
        cache = capture(model, ids, list(sites.values()))
        return {layer: cache[site] for layer, site in sites.items()}

    return Contestant(run, ("deepfield", "torch", "transformers", "transformer-lens"), save)


def bridge_run_with_cache(settings: Settings) -> Contestant:
    model, ids = boot_bridge(settings), settings.ids()
    names = {layer: f"blocks.{layer}.hook_out" for layer in settings.layers}
    last = max(settings.layers)

    @torch.no_grad()
    def run() -> Activations:
        _, cache = model.run_with_cache(ids, names_filter=list(names.values()), stop_at_layer=last + 1)
        return {layer: cache[name] for layer, name in names.items()}

    return Contestant(run, ("torch", "transformers", "transformer-lens"), save)


def nnsight_trace(settings: Settings) -> Contestant:
    from nnsight import NNsight

    hf_model, ids = build_model(settings), settings.ids()
    model = NNsight(hf_model.base_model)
    blocks = model.h if settings.shape == "gpt2" else model.layers
    layers = settings.layers

    @torch.no_grad()
    def run() -> Activations:
        with model.trace(ids, use_cache=False) as tracer:
            kept = {}.save()
            for layer in layers:
                kept[layer] = blocks[layer].output
            tracer.stop()
        return {layer: value if isinstance(value, torch.Tensor) else value[0] for layer, value in kept.items()}

    return Contestant(run, ("torch", "transformers", "nnsight"), save)


def saelens_store(settings: Settings) -> Contestant:
    """SAELens's cache runner asks its ActivationsStore for a batch, and a store knows one hook: one pass a layer."""
    from datasets import Dataset
    from sae_lens.training.activations_store import ActivationsStore
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    hf_config, ids = build_config(settings.shape), settings.ids()
    neox = settings.shape != "gpt2"
    config = HookedTransformerConfig(
        n_layers=hf_config.num_hidden_layers,
        d_model=hf_config.hidden_size,
        n_heads=hf_config.num_attention_heads,
        d_head=hf_config.hidden_size // hf_config.num_attention_heads,
        d_mlp=4 * hf_config.hidden_size,
        d_vocab=hf_config.vocab_size,
        n_ctx=hf_config.max_position_embeddings,
        act_fn="gelu" if neox else "gelu_new",
        normalization_type="LN",
        parallel_attn_mlp=neox,
        positional_embedding_type="rotary" if neox else "standard",
        rotary_dim=16 if neox else None,
        dtype=settings.torch_dtype,
        device="cpu",
        seed=0,
    )
    model = HookedTransformer(config).eval()
    tokens = Dataset.from_dict({"tokens": ids.tolist()})
    stores = [
        ActivationsStore(
            model=model,
            dataset=tokens,
            streaming=False,
            hook_name=f"blocks.{layer}.hook_resid_post",
            hook_head_index=None,
            context_size=settings.context,
            d_in=config.d_model,
            n_batches_in_buffer=2,
            total_training_tokens=ids.numel(),
            store_batch_size_prompts=settings.rows,
            train_batch_size_tokens=settings.rows * settings.context,
            prepend_bos=False,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype=settings.dtype,
        )
        for layer in settings.layers
    ]

    @torch.no_grad()
    def run() -> Activations:
        return {layer: store.get_activations(ids) for layer, store in zip(settings.layers, stores, strict=True)}

    return Contestant(run, ("torch", "sae-lens", "transformer-lens"))


def save(activations: Activations, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({str(layer): value.detach().float().contiguous() for layer, value in activations.items()}, path)


CONTESTANTS: dict[str, Callable[[Settings], Contestant]] = {
    "transformers-stop-hook": transformers_stop_hook,
    # The same again, as a control: how far its ratio is from 1 is how far any ratio of the run can be trusted.
    "floor-again": transformers_stop_hook,
    "deepfield-capture": deepfield_capture,
    "bridge-run_with_cache": bridge_run_with_cache,
    "nnsight-trace": nnsight_trace,
    "saelens-store": saelens_store,
    "transformers-eager": transformers_eager,
}

if __name__ == "__main__":
    name, settings_file = sys.argv[1:]
    content = json.loads(Path(settings_file).read_text())
    asked = Settings(**{**content, "layers": tuple(content["layers"])})
    torch.set_num_threads(asked.threads)
    serve(lambda: CONTESTANTS[name](asked))
