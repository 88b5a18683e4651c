"""A loaded model computes what plain Hugging Face computes, from every kind of source, and nothing unsafe is loaded."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge
from transformers import CTRLConfig, CTRLLMHeadModel, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from interp import embedded as embedded_files
from interp.models import smollm2 as smollm2_files
from interp.models.fingerprint import weights_fingerprint
from interp.models.loading import ModelSource, load_model, require_raw_weights, source_of
from interp.models.source import context_length
from tests.tiny_models import CONTEXT, FAMILIES, VOCAB, tiny_model

TOKENS = torch.randint(0, VOCAB, (3, 12), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def difference(model: TransformerBridge, plain: PreTrainedModel, tokens: torch.Tensor) -> float:
    """Largest difference of logits, where rows differ by much more, so that no row can stand for another."""
    expected = plain(tokens).logits
    assert (expected[0] - expected[1]).abs().max() > 0.01
    return float((model(tokens) - expected).abs().max())


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A whole tiny model on disk, to be damaged."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_local_folder_gives_the_logits_of_hugging_face(family: str, tmp_path: Path) -> None:
    plain = tiny_model(family)
    plain.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert difference(model, plain, TOKENS) <= 1e-5
    assert not model.training
    assert model.tokenizer is None, "a folder without a tokenizer takes token ids"
    assert context_length(model) == CONTEXT
    assert source_of(model) == ModelSource(name=str(tmp_path), revision=None, dtype="float32", processed=False)


STEPS = embedded_files.steps()


@pytest.mark.parametrize("step", sorted({STEPS[0], STEPS[len(STEPS) // 2], STEPS[-1]}))
def test_embedded_at_a_revision(step: int) -> None:
    model = load_model("embedded", revision=f"step{step}")
    folder = embedded_files.MODEL_FOLDER / f"step{step}"
    plain = plain_model(folder)
    text = ["Emma Woodhouse, handsome and clever", "one two three one two three one"]
    tokens = torch.tensor([model.tokenizer(line).input_ids[:6] for line in text])
    assert difference(model, plain, tokens) <= 1e-5
    assert model.tokenizer.decode(model.tokenizer(text[0]).input_ids, skip_special_tokens=True) == text[0]
    assert source_of(model).name == "embedded"
    assert source_of(model).revision == f"step{step}"


def test_embedded_means_its_last_step(embedded: TransformerBridge) -> None:
    assert source_of(embedded).revision == f"step{STEPS[-1]}"
    assert weights_fingerprint(embedded) != weights_fingerprint(load_model("embedded", revision=f"step{STEPS[0]}"))


def test_a_missing_step_lists_the_steps() -> None:
    with pytest.raises(ValueError, match=rf"no revision 'step7777777'; it has step{STEPS[0]}, .*step{STEPS[-1]}$"):
        load_model("embedded", revision="step7777777")


def plain_model(folder: Path, dtype: torch.dtype = torch.float32, **options: str) -> PreTrainedModel:
    """The oracle: the same files through Hugging Face alone (unlike ``.to(dtype)``, it keeps rotary in float32)."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager", **options).eval()


def write_gguf(path: Path, model: PreTrainedModel) -> None:
    """A Llama as llama.cpp writes it: its own tensor names, and rotary halves interleaved in q and k."""
    config, writer = model.config, GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*(chr(33 + i) for i in range(config.vocab_size - 1)), "AB"])
    writer.add_token_merges(["A B"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gguf_file_has_the_same_weights(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_model("llama"))
    tiny_model("llama").save_pretrained(tmp_path / "folder")
    plain = plain_model(tmp_path / "folder", getattr(torch, dtype))
    model = load_model(path, dtype=dtype)
    assert weights_fingerprint(model) == weights_fingerprint(plain)
    assert difference(model, plain, TOKENS) <= 1e-5
    assert model.tokenizer("ABA").input_ids == [VOCAB - 1, ord("A") - 33]
    assert source_of(model) == ModelSource(name=str(path), revision=None, dtype=dtype, processed=False)


def test_a_gguf_file_has_no_revisions(tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=rf"single GGUF file without revisions.*'step1'.*embedded: step{STEPS[0]}, "):
        load_model(tmp_path / "tiny.gguf", revision="step1")
    with pytest.raises(ValueError, match=r"tiny\.gguf could not be loaded"):
        load_model(tmp_path / "tiny.gguf")


def damaged_gguf(path: Path, damage: Callable[[bytearray], object]) -> str:
    """What is said of a small file of which some bytes were changed."""
    write_gguf(path, tiny_model("llama"))
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name} could not be loaded") as caught:
        load_model(path)
    return str(caught.value)


def test_the_header_of_a_gguf_file_is_checked_before_memory_is_taken(tmp_path: Path) -> None:
    """A file of a few hundred bytes without block_count was a model of 7 billion random numbers for the loader."""
    tiny = tmp_path / "tiny.gguf"
    writer = GGUFWriter(tiny, "llama")
    writer.add_embedding_length(8)
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert tiny.stat().st_size < 400
    with pytest.raises(ValueError, match=r"tiny\.gguf could not be loaded: it lacks llama\.block_count"):
        load_model(tiny)

    def rename(old: bytes, new: bytes) -> Callable[[bytearray], object]:
        return lambda content: content.__setitem__(slice(None), content.replace(old, new, 1))

    def number(name: bytes, value: int) -> Callable[[bytearray], object]:
        def write(content: bytearray) -> None:
            at = content.index(name) + len(name) + 4
            content[at : at + 4] = value.to_bytes(4, "little")

        return write

    def counts(tensors: int, keys: int) -> Callable[[bytearray], object]:
        return lambda content: content.__setitem__(
            slice(8, 24), tensors.to_bytes(8, "little") + keys.to_bytes(8, "little")
        )

    for damage, said in (
        (rename(b"general.architecture", b"general.Architecture"), "it lacks general.architecture"),
        (rename(b"llama.embedding_length", b"llama.Embedding_length"), "it lacks llama.embedding_length"),
        (number(b"llama.block_count", 4_000_000), "it says 4000000 blocks, and holds tensors of 3"),
        (
            number(b"llama.embedding_length", 1 << 30),
            "vectors of 1073741824 entries, and token_embd.weight is (32, 64)",
        ),
        (
            number(b"llama.feed_forward_length", 1 << 30),
            "llama.feed_forward_length is 1073741824, and the tensors hold",
        ),
        (counts(30, 1 << 60), "it is cut off or damaged at byte"),
        (counts(1 << 60, 1), "could not be loaded"),
        (lambda content: content.__delitem__(slice(-100, None)), "it is cut off at byte"),
        (lambda content: content.__delitem__(slice(300, None)), "it is cut off or damaged at byte"),
        (lambda content: content.__setitem__(4, 9), "it is GGUF of version 9"),
    ):
        assert said in damaged_gguf(tmp_path / "damaged.gguf", damage)


@pytest.mark.smollm2
@pytest.mark.slow
@torch.no_grad()
def test_smollm2_computes_what_transformers_loads_from_the_file(smollm2: TransformerBridge) -> None:
    path = smollm2_files.gguf_path()
    plain = plain_model(path.parent, gguf_file=path.name)
    tokens = smollm2.tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert float((smollm2(tokens) - plain(tokens).logits).abs().max()) <= 1e-4  # logits of up to 20
    for _ in range(3):
        tokens = torch.cat([tokens, smollm2(tokens)[:, -1:].argmax(-1)], 1)
    assert smollm2.tokenizer.decode(tokens[0]).startswith("The capital of France is Paris")
    assert source_of(smollm2) == ModelSource(name="smollm2-135m", revision=None, dtype="float32", processed=False)
    with pytest.raises(ValueError, match="smollm2-135m is a single GGUF file without revisions"):
        load_model("smollm2-135m", revision="step1")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, torch.float64])
def test_dtype_and_device(llama: Path, dtype: str | torch.dtype) -> None:
    model = load_model(llama, dtype=dtype, device="cpu")
    name = str(dtype).removeprefix("torch.")
    assert source_of(model).dtype == name
    assert {str(p.dtype) for p in model.original_model.parameters()} == {f"torch.{name}"}
    assert {str(p.device) for p in model.parameters()} == {"cpu"}
    assert difference(model, plain_model(llama, getattr(torch, name)), TOKENS) <= 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "dtype 'int8' is not one that models are run in: float32, bfloat16, float16, float64"),
        ({"dtype": torch.int64}, "dtype 'int64' is not one"),
        ({"device": "toaster"}, "'toaster' is not a device; this machine has cpu"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not on this machine, which has cpu"),
        ({"device": "meta"}, "device 'meta' is not on this machine"),
    ],
)
def test_a_bad_option_is_told_before_anything_is_loaded(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model("no/such/model", **options)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "~/nowhere", "nowhere.gguf", Path("nowhere")])
def test_a_path_that_is_not_there(name: str | Path) -> None:
    with pytest.raises(ValueError, match=r"no model folder or GGUF file at '.*nowhere.*' \(looked from /"):
        load_model(name)


def plant_code(folder: Path, marker: Path) -> None:
    """Code as a repository of the hub would bring it; whoever runs it leaves the marker."""
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Evil: ...\n")
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        auto_map = {
            "AutoConfig": "evil.Evil",
            "AutoModelForCausalLM": "evil.Evil",
            "AutoTokenizer": ["evil.Evil", None],
        }
        path.write_text(json.dumps(content | {"auto_map": auto_map}))


def test_code_beside_the_weights_is_never_run(llama: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    plant_code(llama, marker)
    (llama / "tokenizer_config.json").unlink()
    # A known architecture needs no code: transformers' own is used.
    assert difference(load_model(llama), tiny_model("llama"), TOKENS) <= 1e-5
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"model_type": "evil"}))
    with pytest.raises(ValueError, match="needs program code from its own files, which deepfield never runs"):
        load_model(llama)
    assert not marker.exists()


def test_code_of_a_tokenizer_is_never_run(llama: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    plant_code(llama, marker)
    with pytest.raises(ValueError, match=r"the tokenizer of .* could not be loaded"):
        load_model(llama)
    assert not marker.exists()


class Exploit:
    """Pickled, it is a command that runs when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


def to_pickle(folder: Path, **extra: object) -> None:
    """Replace the weights by a pytorch_model.bin with the same tensors."""
    torch.save(load_file(folder / "model.safetensors") | extra, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def test_plain_tensors_in_a_pickle_are_loaded(llama: Path) -> None:
    to_pickle(llama)
    assert difference(load_model(llama), tiny_model("llama"), TOKENS) <= 1e-5


def test_a_pickle_with_more_than_tensors_is_not_executed(llama: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    to_pickle(llama, evil=Exploit(marker))
    with pytest.raises(ValueError, match=r"holds more than tensors, and was not executed.*safetensors"):
        load_model(llama)
    assert not marker.exists()
    torch.load(llama / "pytorch_model.bin", weights_only=False)
    assert marker.exists(), "the planted command does run where it is allowed to"


def test_missing_and_misshapen_weights_are_refused(llama: Path) -> None:
    path = llama / "model.safetensors"
    weights = load_file(path)
    gone = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"1 parameters are missing or .*such as model\.layers\.1\.mlp\.up_proj\.weigh"
    ):
        load_model(llama)
    save_file(
        weights | {"model.layers.1.mlp.up_proj.weight": gone[:-1].clone()},
        path,
        metadata={"format": "pt"},
    )
    with pytest.raises(ValueError, match=r"do not fit its configuration: 1 parameters are missing or of another shape"):
        load_model(llama)


def test_a_configuration_larger_than_the_weights_is_refused_before_memory_is_taken(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    for change, said in (
        ({"hidden_size": 1 << 20}, r"its configuration is of [\d,]{13,} parameters, and its weights are [\d,]+ bytes"),
        ({"num_hidden_layers": 1 << 40}, r"has 1099511627776 layers, and its weights are at most 30 tensors"),
    ):
        (llama / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=rf"{llama} could not be loaded: .*{said}"):
            load_model(llama)


def test_damaged_files_are_named(llama: Path) -> None:
    config, weights = llama / "config.json", llama / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"{llama} could not be loaded: SafetensorError"):
        load_model(llama)
    weights.unlink()
    with pytest.raises(ValueError, match=rf"{llama} could not be loaded: OSError: .*no file named model.safetensors"):
        load_model(llama)
    config.write_text('{"model_type": ')
    with pytest.raises(ValueError, match=rf"{llama} could not be loaded: OSError: .*config.json' is not a valid JSON"):
        load_model(llama)


def test_a_damaged_tokenizer_is_named(llama: Path) -> None:
    (llama / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=rf"the tokenizer of {llama} in {llama} could not be loaded"):
        load_model(llama)


def test_an_architecture_without_a_bridge(tmp_path: Path) -> None:
    CTRLLMHeadModel(CTRLConfig(vocab_size=8, n_positions=8, n_embd=8, dff=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="is a CTRLLMHeadModel, for which the installed transformer-lens has no"):
        load_model(tmp_path)


@torch.no_grad()
def test_processed_weights_are_marked_and_refused(tmp_path: Path) -> None:
    plain = tiny_model("gpt2")
    plain.save_pretrained(tmp_path)
    raw, processed = load_model(tmp_path), load_model(tmp_path, process_weights=True)
    assert not source_of(raw).processed
    assert source_of(processed).processed
    site = "blocks.1.hook_resid_post"
    means = {}
    for name, model in (("raw", raw), ("processed", processed)):
        logits, cache = model.run_with_cache(TOKENS)
        means[name] = float(cache[site].mean(-1).abs().max())
        expected = plain(TOKENS).logits.log_softmax(-1)
        assert float((logits.log_softmax(-1) - expected).abs().max()) < 1e-4, "the same distribution either way"
    assert means["processed"] < 1e-5 < 0.01 < means["raw"], "centring took the mean out of the residual stream"
    require_raw_weights(raw, purpose="cache activations")
    with pytest.raises(ValueError, match=r"cannot cache activations on a model with processed .*process_weights=False"):
        require_raw_weights(processed, purpose="cache activations")
    with pytest.raises(ValueError, match="cannot fingerprint weights on a model with processed weights"):
        weights_fingerprint(processed)
