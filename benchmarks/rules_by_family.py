"""Which rules of relevance suit edges, by family: small models of each, trained on one task, beside exact patching.

    python benchmarks/rules_by_family.py            # or --families gemma3 llama --steps 600

Each model (3 layers, 64 dimensions, 4 heads) learns to name the one of two tokens that does not come a second time, the
form of indirect-object identification. Every edge is then patched exactly, and scored under each set of rules: prints
Pearson's correlation over edges, and the CPR of the circuits (resample ablation), by family and seed.
"""

import argparse
from collections.abc import Iterator

import torch
from torch.nn import functional
from transformers import Gemma2Config, Gemma3TextConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from circuits import Circuit, Evaluator, Task, attribute_edges
from circuits.scores.agreement import agreement

VOCAB, WIDTH, LAYERS, HEADS, LENGTH = 48, 64, 3, 4, 7
_SHARED = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 16,
    "intermediate_size": 4 * WIDTH,
    "pad_token_id": 0,
}
_GROUPED = _SHARED | {"num_key_value_heads": 2}
_GEMMA = _GROUPED | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=16),
    "gpt_neox": GPTNeoXConfig(**_SHARED),
    "llama": LlamaConfig(**_GROUPED),
    "qwen2": Qwen2Config(**_GROUPED),
    "gemma2": Gemma2Config(**_GEMMA),
    "gemma3": Gemma3TextConfig(**_GEMMA),
}
VARIANTS = {
    "EAP": {"method": "eap"},
    "LN+Id+Half": {"method": "relp", "rules": "no_ah"},
    "all four": {"method": "relp", "rules": "paper"},
}


def prompts(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clean and corrupt prompts ``[n, LENGTH]``: two names, words, and one of the names again; and the other name."""
    names = torch.stack([torch.randperm(32, generator=generator)[:2] for _ in range(n)]) + 1
    words = torch.randint(33, VOCAB, (n, LENGTH - 3), generator=generator)
    second = torch.randint(2, (n,), generator=generator)
    rows = torch.arange(n)
    clean, corrupt = (torch.cat([names, words, names[rows, again][:, None]], 1) for again in (second, 1 - second))
    return clean, corrupt, torch.stack([names[rows, 1 - second], names[rows, second]], 1)


def trained(family: str, *, seed: int, steps: int) -> tuple[torch.nn.Module, float]:
    """A model of the family, and its share of right answers on prompts that it was not trained on."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(steps):
        clean, _, answers = prompts(64, generator)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50, (steps - step) / (steps / 4))
        optimizer.zero_grad()
        functional.cross_entropy(model(clean, logits_to_keep=1).logits[:, -1], answers[:, 0]).backward()
        optimizer.step()
    clean, _, answers = prompts(500, generator)
    with torch.no_grad():
        right = (model.eval()(clean).logits[:, -1].argmax(-1) == answers[:, 0]).float().mean()
    return model, float(right)


def rows(family: str, *, seed: int, steps: int) -> Iterator[str]:
    """Lines of the table for one model."""
    model, right = trained(family, seed=seed, steps=steps)
    clean, corrupt, answers = prompts(12, torch.Generator().manual_seed(1000 + seed))
    task = Task(clean=clean, corrupt=corrupt, correct=answers[:, 0], wrong=answers[:, 1], direction="noise")
    exact = attribute_edges(model, task, method="path-patching")
    evaluator = Evaluator(model, task)
    cells = []
    for options in VARIANTS.values():
        found = attribute_edges(model, task, **options)
        own, curve = agreement(found, exact), evaluator.curve(Circuit.from_edges(found))
        cells.append(f"{own.pearson:.3f} ({own.interval_text}), slope {own.slope:.2f}, area {curve.area:.3f}")
    yield f"| {family}, seed {seed} | {100 * right:.0f} % | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--seeds", type=int, default=2, help="models of each family")
    parser.add_argument("--steps", type=int, default=600, help="of training")
    options = parser.parse_args()
    print("| model | right | " + " | ".join(VARIANTS) + " |\n|---|---|" + "---|" * len(VARIANTS), flush=True)
    for family in options.families:
        for seed in range(options.seeds):
            for line in rows(family, seed=seed, steps=options.steps):
                print(line, flush=True)


if __name__ == "__main__":
    main()
