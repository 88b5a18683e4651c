"""Measure what every checkpoint of the embedded model learned: ``python -m interp.embedded.evaluate --corpus CORPUS``.

Held-out loss stands beside unigram and bigram models fitted on the same training tokens; the bigram's smoothing is
chosen on the held-out text itself, which can only flatter the baseline.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from interp.embedded import FOLDER, MODEL_FOLDER, steps
from interp.embedded.synthetic import NAMES, Split, ioi_prompts, repeated_tokens
from interp.embedded.train import CONTEXT, VOCAB, tokenize_books
from interp.files.writing import write_json

CURVES = FOLDER / "curves.json"


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """Nats per token on the held-out stream."""

    unigram: float
    """Loss of the best unigram model, in nats a token."""
    bigram: float
    """Loss of a bigram model mixed with the unigram, in nats a token."""
    bigram_weight: float
    """Weight of the bigram in its interpolation with the unigram."""


@dataclass(frozen=True, kw_only=True)
class Skills:
    """What one checkpoint can do."""

    step: int
    """Training step of the checkpoint."""
    heldout_loss: float
    """Nats per token, every fourth window of the context length, first position not scored."""
    heldout_loss_standard_error: float
    """Standard error of the held-out loss over windows, in nats a token."""
    induction: float
    """Best head's mean attention from a repeated random token to the token after its first occurrence."""
    induction_head: tuple[int, int]
    """Layer and number of the head with that attention."""
    ioi_accuracy: float
    """Share of held-out sentences in which the indirect object's logit is above the subject's."""
    ioi_top1: float
    """Share in which the indirect object is the likeliest token of all."""


def load(step: int) -> GPTNeoXForCausalLM:
    """A revision as float32, eager attention so that patterns can be read."""
    folder = MODEL_FOLDER / f"step{step}"
    return GPTNeoXForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def baselines(train: np.ndarray, heldout: np.ndarray) -> Baselines:
    """Add-one unigram, and the bigram interpolated with it at the weight that is best on ``heldout``."""
    unigram = np.bincount(train, minlength=VOCAB) + 1.0
    unigram /= unigram.sum()
    pairs = np.bincount(train[:-1].astype(np.int64) * VOCAB + train[1:], minlength=VOCAB**2).reshape(VOCAB, VOCAB)
    previous, following = heldout[:-1].astype(np.int64), heldout[1:]
    conditional = pairs[previous, following] / np.maximum(pairs.sum(1)[previous], 1)
    losses = {w: -np.log(w * conditional + (1 - w) * unigram[following]).mean() for w in np.arange(0.05, 1.0, 0.05)}
    weight = min(losses, key=losses.__getitem__)
    return Baselines(
        unigram=float(-np.log(unigram[following]).mean()), bigram=float(losses[weight]), bigram_weight=float(weight)
    )


@torch.inference_mode()
def heldout_losses(model: GPTNeoXForCausalLM, heldout: np.ndarray, *, batch: int = 32, every: int = 1) -> np.ndarray:
    """Mean loss of every full window (or ``every`` n-th), nats per token: ``[windows]``."""
    count = len(heldout) // CONTEXT
    windows = torch.from_numpy(heldout[: count * CONTEXT].reshape(count, CONTEXT)[::every].astype(np.int64))
    losses = []
    for ids in windows.split(batch):
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        losses.append(loss.mean(1))
    return torch.cat(losses).numpy()


@torch.inference_mode()
def induction_scores(model: GPTNeoXForCausalLM, *, half: int = 50, rows: int = 64) -> np.ndarray:
    """``[layer, head]``: mean attention from the second half to the token that followed the first occurrence."""
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(repeated_tokens(rng, rows=rows, half=half, vocab=VOCAB, bos=0))
    patterns = model(input_ids=ids, output_attentions=True).attentions
    queries = torch.arange(half + 1, 2 * half + 1)
    keys = queries - half + 1
    return np.stack([pattern[:, :, queries, keys].mean((0, 2)).numpy() for pattern in patterns])


@torch.inference_mode()
def ioi_accuracy(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, *, n: int = 1000, names: Split = "heldout"
) -> tuple[float, float]:
    """(share with indirect object above subject, share with indirect object on top), on held-out templates."""
    prompts = ioi_prompts(np.random.default_rng(0), n, split="heldout", names=NAMES[names])
    rows = tokenizer([prompt.prompt for prompt in prompts], add_special_tokens=False)["input_ids"]
    last = torch.tensor([len(row) for row in rows])  # of the row with its separator in front
    ids = torch.zeros(n, int(last.max()) + 1, dtype=torch.long)  # causal attention never sees padding on the right
    for i, row in enumerate(rows):
        ids[i, 1 : len(row) + 1] = torch.tensor(row)
    states = model.gpt_neox(input_ids=ids).last_hidden_state[torch.arange(n), last]
    logits = model.lm_head(states)
    answer, wrong = (
        torch.tensor(tokenizer.convert_tokens_to_ids([f"Ġ{name}" for name in names]))
        for names in ([p.indirect_object for p in prompts], [p.subject for p in prompts])
    )
    above = logits.gather(1, answer[:, None]) > logits.gather(1, wrong[:, None])
    return above.float().mean().item(), (logits.argmax(1) == answer).float().mean().item()


def skills(step: int, tokenizer: PreTrainedTokenizerFast, heldout: np.ndarray) -> Skills:
    """All measurements of one revision."""
    model = load(step)
    losses = heldout_losses(model, heldout, every=4)
    scores = induction_scores(model)
    layer, head = np.unravel_index(scores.argmax(), scores.shape)
    above, top = ioi_accuracy(model, tokenizer)
    return Skills(
        step=step,
        heldout_loss=float(losses.mean()),
        heldout_loss_standard_error=float(losses.std(ddof=1) / np.sqrt(len(losses))),
        induction=float(scores.max()),
        induction_head=(int(layer), int(head)),
        ioi_accuracy=above,
        ioi_top1=top,
    )


def table(rows: list[Skills]) -> list[str]:
    """The model card's table of curves."""
    lines = [
        "| step | held-out loss | induction (layer.head) | IOI accuracy | IOI top 1 |",
        "|---:" * 5 + "|",
    ]
    for row in rows:
        loss = f"{row.heldout_loss:.3f} ± {row.heldout_loss_standard_error:.3f}"
        head = f"{row.induction:.3f} ({row.induction_head[0]}.{row.induction_head[1]})"
        lines.append(f"| {row.step} | {loss} | {head} | {row.ioi_accuracy:.3f} | {row.ioi_top1:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with train/ and heldout/")
    corpus = parser.parse_args().corpus
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL_FOLDER)
    books = [file.read_text(encoding="utf-8") for file in sorted((corpus / "train").glob("*.txt"))]
    train = tokenize_books(books, tokenizer)
    heldout = tokenize_books([(corpus / "heldout" / "emma.txt").read_text(encoding="utf-8")], tokenizer)
    reference = baselines(train, heldout)
    print(reference)
    rows = []
    for step in steps():
        rows.append(skills(step, tokenizer, heldout))
        print(rows[-1], flush=True)
    known, _ = ioi_accuracy(load(steps()[-1]), tokenizer, names="train")
    write_json(
        CURVES,
        {
            "ioi_accuracy_training_names": known,
            "train_tokens": len(train),
            "heldout_tokens": len(heldout),
            "baselines": asdict(reference),
            "checkpoints": [asdict(row) for row in rows],
        },
    )
    print("\n".join(table(rows)))
    print(f"IOI accuracy of the last step on held-out templates with names of the training split: {known:.3f}")


if __name__ == "__main__":
    main()
