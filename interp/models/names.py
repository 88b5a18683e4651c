"""Short names of models on the hub, as the field writes them."""

_PYTHIA_SIZES = ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
_PYTHIA = [f"pythia-{size}{kind}" for size in _PYTHIA_SIZES for kind in ("", "-deduped")]
# PolyPythias: the five smallest sizes trained again from nine other seeds.
_SEEDED_SIZES = ("14m", "31m", "70m", "160m", "410m")
_PYTHIA_SEEDS = [f"pythia-{size}-seed{seed}" for size in _SEEDED_SIZES for seed in range(1, 10)]

SHORT_NAMES: dict[str, str] = {
    **{name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")},
    "distilgpt2": "distilbert/distilgpt2",
    **{name: f"EleutherAI/{name}" for name in ("pythia-14m", "pythia-31m", *_PYTHIA, *_PYTHIA_SEEDS)},
}
"""Short name -> hub id."""

EMBEDDED = "embedded"
SMOLLM2 = "smollm2-135m"
