"""Train the embedded model: ``python -m interp.embedded.train --corpus CORPUS --out DIR``.

A GPT-NeoX of 1.2 million parameters (parallel residual, rotary on a quarter of each head, untied embeddings) on
English books mixed with repeated random tokens and indirect-object sentences. The batch at a step depends on the seed
and the step alone, and the optimiser is saved with the weights: a killed run continues from its last save as if nothing
had happened.
"""

import argparse
import json
import logging
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from interp.embedded.synthetic import NAMES, SHORT_TEMPLATES, TEMPLATES, WORDS, ioi_prompts
from interp.embedded.text import documents_of
from interp.files.folder_lock import alone_in
from interp.files.tensor_files import read_sealed, write_sealed, write_tensors
from interp.files.writing import PARTIAL, make_folder, sync_file, sync_folder, told_if_full

logger = logging.getLogger(__name__)

VOCAB = 4000
CONTEXT = 256
CHECKPOINT_STEPS = (0, 1, 4, 16, 32, 64, 128, 256, 512, 724, 1024, 1448, 2048, 2896, 4096, 5792)
ROWS = {"text": 8, "repeated": 5, "ioi": 3}
LOSS_WEIGHTS = {"text": 1.0, "repeated": 0.5, "ioi": 1.0}
EARLY_IOI_WEIGHT, LATE_SENTENCES_FROM = 0.3, 3328
"""Until that step the sentences are long and weigh less: they would hold up copying, which they build on."""
PEAK_LR = {"muon": 0.01, "adam": 1.5e-3}
WARMUP_STEPS, SAVE_EVERY = 100, 256
_REVISIONS = "model"
SEED = 20261124
IGNORED = -100
"""Label of a token that is not predicted."""
SEPARATOR = "<|endoftext|>"


def model_config() -> GPTNeoXConfig:
    """Pythia's architecture at width 96; rotary base 100 because eight rotary dimensions must tell neighbours apart."""
    return GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=384,
        hidden_act="gelu",
        max_position_embeddings=CONTEXT,
        use_parallel_residual=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25},
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=(2 / (5 * 96)) ** 0.5,
    )


def train_tokenizer(books: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; every IOI name occurs often enough in its training text to become one token."""
    names = [f" {name}" for split in NAMES.values() for name in split]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*books, *("".join(names) for _ in range(3000))], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SEPARATOR, eos_token=SEPARATOR, model_max_length=CONTEXT
    )
    split = [name for name in names if len(fast(name)["input_ids"]) != 1]
    if split:
        raise RuntimeError(f"names that are not one token: {split}; repeat them more often in the tokenizer's text")
    return fast


def tokenize_books(books: list[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """All books as one uint16 stream, a separator before each document."""
    documents = [document for book in books for document in documents_of(book)]
    ids = tokenizer(documents, add_special_tokens=False)["input_ids"]
    return np.concatenate([np.array([0, *document], dtype=np.uint16) for document in ids])


class Kind(NamedTuple):
    """A kind of sentence: what stands for names, in which templates, and what for {W}."""

    pool: tuple[str, ...]
    templates: tuple[str, ...]
    words: tuple[str, ...]


class Batches:
    """The batch of a step as ``(input ids, labels)``, a function of the seed and the step alone."""

    def __init__(self, stream: np.ndarray, tokenizer: PreTrainedTokenizerFast):
        self.stream, self.tokenizer = stream, tokenizer
        spaced = (token[1:] for token in tokenizer.get_vocab() if token.startswith("Ġ"))
        words = sorted(w for w in spaced if len(w) > 2 and w.isalpha() and w not in NAMES["heldout"])
        fillers = tuple(w for w in words if w.islower())
        # Other words stand in for names in most of the sentences: the rule is to be learned, not a list of names. Where
        # any word does, {W} is at first one of a few words that never do; later an "and" alone tells which are names.
        templates, capitalised = TEMPLATES["train"], tuple(w for w in words if w.istitle())
        joined = tuple(template for template in templates if "{A} and {B}" in template)
        common = (Kind(NAMES["train"], templates, fillers), Kind(capitalised, templates, fillers))
        self.early = (*common, Kind(tuple(w for w in words if w not in WORDS), templates, WORDS))
        self.late = (*common, *[Kind(tuple(words), joined, fillers)] * 2)

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([SEED, step])
        rows = [self._text(rng) for _ in range(ROWS["text"])]
        rows += [self._repeated(rng) for _ in range(ROWS["repeated"])]
        rows += [self._sentences(rng, late=step >= LATE_SENTENCES_FROM) for _ in range(ROWS["ioi"])]
        ids, labels = zip(*rows, strict=True)
        return torch.from_numpy(np.stack(ids)), torch.from_numpy(np.stack(labels))

    def _text(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A stretch of the books, every second time behind a separator, as rows are packed with and without one."""
        start = rng.integers(0, len(self.stream) - CONTEXT)
        ids = self.stream[start : start + CONTEXT].astype(np.int64)
        if rng.random() < 0.5:
            ids = np.concatenate([[0], ids[:-1]])
        return ids, ids

    def _repeated(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Random tokens repeated until the row is full; the first period carries no label, it cannot be predicted.

        Short periods repeat often and teach copying, long ones then teach where to copy from.
        """
        period = int(np.exp(rng.uniform(np.log(4), np.log(CONTEXT // 2))))
        if rng.random() < 0.5:
            once = rng.integers(1, VOCAB, size=period)
        else:  # tokens at their frequency in text, whose embeddings are learned first
            once = self.stream[rng.integers(0, len(self.stream), size=period)].astype(np.int64)
        ids = np.concatenate([[0], np.resize(once, CONTEXT - 1)])
        return ids, np.where(np.arange(CONTEXT) > period + 1, ids, IGNORED)

    def _sentences(self, rng: np.random.Generator, *, late: bool) -> tuple[np.ndarray, np.ndarray]:
        """Sentences until the row is full, every second one short when ``late``; no name is in two of them.

        Only the indirect object carries a label: it would drown in the average over all tokens of a sentence.
        """
        kinds = self.late if late else self.early
        pool, long, words = kinds[rng.integers(len(kinds))]
        prompts = []
        for i, (a, b) in enumerate(rng.permutation(len(pool))[:48].reshape(24, 2)):
            templates = SHORT_TEMPLATES if late and i % 2 else long
            names = (pool[a], pool[b])
            prompts += ioi_prompts(rng, 1, split="train", names=names, templates=templates, words=words)
        ids, labels = [], []
        sentences = [prompt.sentence for prompt in prompts]
        for sentence in self.tokenizer(sentences, add_special_tokens=False)["input_ids"]:
            ids += [0, *sentence]
            labels += [IGNORED] * (len(sentence) - 1) + [sentence[-2], IGNORED]
        return np.array(ids[:CONTEXT]), np.array(labels[:CONTEXT])


def losses_of(model: GPTNeoXForCausalLM, ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean cross-entropy of each kind of row over its labelled tokens, nats; logits are computed only there."""
    hidden = model.gpt_neox(input_ids=ids).last_hidden_state[:, :-1]
    sizes = list(ROWS.values())
    losses = {}
    for kind, states, targets in zip(ROWS, hidden.split(sizes), labels[:, 1:].split(sizes), strict=True):
        labelled = targets != IGNORED
        losses[kind] = torch.nn.functional.cross_entropy(model.lm_head(states[labelled]), targets[labelled])
    return losses


def learning_rate_factor(step: int, last: int) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / (last - WARMUP_STEPS)
    return 0.05 + 0.475 * (1 + float(np.cos(np.pi * progress)))


def export(model: GPTNeoXForCausalLM, folder: Path) -> None:
    """Write float16 weights and the configuration of one revision, the folder appearing whole."""
    partial = folder.with_name(f".{folder.name}{PARTIAL}")
    partial.mkdir(exist_ok=True)
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    with told_if_full(folder):
        write_tensors(partial / "model.safetensors", weights, {"format": "pt"})
        model.config.save_pretrained(partial)
        for file in partial.iterdir():
            sync_file(file)
        partial.rename(folder)
        sync_folder(folder.parent)


def optimizers_of(model: GPTNeoXForCausalLM) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks (it finds copying circuits sooner), AdamW for everything else."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    rest = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in name)]
    return {
        "muon": torch.optim.Muon(inner, lr=PEAK_LR["muon"], weight_decay=0.02),
        "adam": torch.optim.AdamW(rest, lr=PEAK_LR["adam"], betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    }


def new_model() -> GPTNeoXForCausalLM:
    """Random weights in which a token's unembedding starts equal to its embedding, so that copying is easy to learn.

    The two matrices are separate parameters and part ways with the first step.
    """
    torch.manual_seed(SEED)
    model = GPTNeoXForCausalLM(model_config())
    with torch.no_grad():
        model.lm_head.weight.copy_(model.gpt_neox.embed_in.weight)
    return model


def save_state(model: GPTNeoXForCausalLM, optimizers: dict[str, torch.optim.Optimizer], step: int, file: Path) -> None:
    """Weights and the optimisers' moments in one safetensors file, replaced atomically."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    for name, optimizer in optimizers.items():
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}/{i}/{k}": v for k, v in state.items()}
    write_sealed(file, tensors, {"step": str(step)})


def load_state(model: GPTNeoXForCausalLM, optimizers: dict[str, torch.optim.Optimizer], file: Path) -> int:
    """Put a saved state back and return its step.

    Raises ValueError, and changes nothing, where the file is damaged.
    """
    weights: dict[str, torch.Tensor] = {}
    moments: dict[str, dict[int, dict[str, torch.Tensor]]] = {name: {} for name in optimizers}
    tensors, metadata = read_sealed(file)
    for key, tensor in tensors.items():
        owner, *rest = key.split("/")
        if owner == "model":
            weights[rest[0]] = tensor
        else:
            moments[owner].setdefault(int(rest[0]), {})[rest[1]] = tensor
    model.load_state_dict(weights)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict({"state": moments[name], "param_groups": optimizer.state_dict()["param_groups"]})
    return int(metadata["step"])


def train(
    books: list[str], out: Path, *, checkpoint_steps: tuple[int, ...] = CHECKPOINT_STEPS, save_every: int = SAVE_EVERY
) -> None:
    """Train to the last of ``checkpoint_steps``, exporting a revision at each; continues what ``out`` already holds."""
    with alone_in(out, below=[_REVISIONS]):
        _train(books, out, checkpoint_steps=checkpoint_steps, save_every=save_every)


def _train(books: list[str], out: Path, *, checkpoint_steps: tuple[int, ...], save_every: int) -> None:
    revisions, state_file = out / _REVISIONS, out / "state.safetensors"
    make_folder(revisions)
    if (revisions / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(revisions)
    else:
        tokenizer = train_tokenizer(books)
        tokenizer.add_bos_token = True  # for readers; the rows above say themselves where a text begins
        tokenizer.save_pretrained(revisions)
    batches = Batches(tokenize_books(books, tokenizer), tokenizer)

    model = new_model()
    optimizers = optimizers_of(model)
    try:
        step = load_state(model, optimizers, state_file) if state_file.exists() else 0
    except ValueError as error:
        step = 0
        logger.warning("%s; not used, training starts over", error)
    wall, cpu = time.monotonic(), time.process_time()
    while True:
        if step in checkpoint_steps and not (revisions / f"step{step}").exists():
            export(model, revisions / f"step{step}")
        if step == checkpoint_steps[-1]:
            break
        for name, optimizer in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LR[name] * learning_rate_factor(step, checkpoint_steps[-1])
        ids, labels = batches(step)
        losses = losses_of(model, ids, labels)
        weights = LOSS_WEIGHTS | ({"ioi": EARLY_IOI_WEIGHT} if step < LATE_SENTENCES_FROM else {})
        torch.stack([weights[kind] * loss for kind, loss in losses.items()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % save_every == 0:
            save_state(model, optimizers, step, state_file)
        if step % 32 == 0:
            row = {
                "step": step,
                **{kind: round(loss.item(), 4) for kind, loss in losses.items()},
                "wall_seconds": round(time.monotonic() - wall, 1),
                "cpu_seconds": round(time.process_time() - cpu, 1),
            }
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            logger.info("%s", row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder of .txt files to train on")
    parser.add_argument("--out", type=Path, required=True, help="folder for the revisions and the training state")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    books = [file.read_text(encoding="utf-8") for file in sorted(args.corpus.glob("*.txt"))]
    if not books:
        raise SystemExit(f"no .txt files in {args.corpus}; point --corpus at the folder of training books")
    train(books, args.out)


if __name__ == "__main__":
    main()
