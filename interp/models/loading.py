"""Load any model as a TransformerBridge with raw weights: one path from a name to a model that can be measured.

Whatever the name, the files are first found on this disk (``locate``) and then loaded from there, so that
every source passes the same checks: no code of the model's own, no pickle beyond plain tensors, no missing weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from interp.arguments.extras import MissingExtra
from interp.arguments.kinds import require
from interp.claimed_size import check_claimed_size
from interp.files.outside import read_json, reading, typed
from interp.models.families.table import declared
from interp.models.locate import ModelFiles, locate
from interp.models.source import ModelSource as ModelSource
from interp.models.source import context_length as context_length
from interp.models.source import puts_bos, record_source
from interp.models.source import require_raw_weights as require_raw_weights
from interp.models.source import source_of as source_of

_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | None = None,
    process_weights: bool = False,
) -> TransformerBridge:
    """Load a causal language model, in eval mode, with the weights as published unless asked otherwise.

    Attention is computed eagerly, so that patterns and scores exist; logits agree with the Hugging Face model's.
    ``model.tokenizer`` is None where the files hold no tokenizer; the model still takes token ids.

    Args:
        name: ``embedded``; ``smollm2-135m``; a short name (``gpt2``, ``pythia-70m`` …) or any hub id; a local folder
            in Hugging Face's format; a ``.gguf`` file. A model in the hub's cache is taken from there unasked.
        revision: Training step of ``embedded`` or of a folder with ``step{N}`` subfolders, or a hub revision
            (``step1000`` for Pythia). By default the last step, or the hub's main branch.
        dtype: Floating-point type of the weights in memory, as a torch dtype or its name.
        device: By default the first CUDA device, or the CPU where there is none.
        process_weights: Fold LayerNorms and centre weights as the old HookedTransformer did. Such a model is marked,
            and refused by everything that measures activations.

    Raises:
        ValueError: unknown name, revision, dtype or device; files that are broken, incomplete or unsafe.
        OSError: the package registry, asked for SmolLM2, cannot be reached.

    Example:
        >>> import interp
        >>> model = interp.load_model("embedded", revision="step1024")
        >>> model("Emma was").shape[-1]  # logits over the vocabulary
        4000
    """
    require(name, (str, Path), what="a model's name or folder", fix="one, such as 'gpt2', 'embedded' or a path")
    dtype, device = _checked_dtype(dtype), _checked_device(device)
    files = locate(name, revision=revision)
    hf_model = _load_weights(files, dtype).to(device)
    model = _bridge(hf_model, _load_tokenizer(files), name=files.name)
    record_source(model, name=files.name, revision=files.revision)
    if process_weights:
        model.enable_compatibility_mode(disable_warnings=True)
    return model


def load_hf_model(
    name: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str | None = None,
) -> PreTrainedModel:
    """The plain Hugging Face model, of the class that its own configuration names: vision-language(-action) models too.

    Its ``tokenizer`` is the model's own, or None. Arguments and errors are those of :func:`load_model`.

    Example:
        >>> import interp
        >>> model = interp.load_hf_model("embedded")
        >>> type(model).__name__
        'GPTNeoXForCausalLM'
    """
    require(name, (str, Path), what="a model's name or folder", fix="one, such as 'gpt2', 'embedded' or a path")
    dtype, device = _checked_dtype(dtype), _checked_device(device)
    files = locate(name, revision=revision)
    model = _load_weights(files, dtype, loader=_own_class(files)).to(device)
    model.tokenizer = _load_tokenizer(files)
    record_source(model, name=files.name, revision=files.revision)
    return model


def _load_weights(files: ModelFiles, dtype: torch.dtype, *, loader: Any = AutoModelForCausalLM) -> PreTrainedModel:
    options: dict[str, Any] = {"gguf_file": files.gguf} if files.gguf else {}
    if files.gguf and hasattr(transformers, "GgufConfig"):  # versions without it always unpack
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        if files.gguf:
            from interp.gguf_header import check_gguf

            check_gguf(files.folder / files.gguf)
        else:
            check_claimed_size(files.folder, loader)
        with _no_progress_bar():
            hf_model, report = loader.from_pretrained(
                files.folder,
                dtype=dtype,
                attn_implementation="eager",
                local_files_only=True,
                trust_remote_code=False,
                weights_only=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **options,
            )
    except (MemoryError, torch.OutOfMemoryError, MissingExtra):
        raise
    except Exception as error:  # each format fails in its own way
        raise ValueError(f"{files.name} could not be loaded: {_reason(error)}") from error
    # transformers would fill these with random numbers and go on.
    if absent := sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}):
        raise ValueError(
            f"the weights of {files.name} do not fit its configuration: {len(absent)} parameters are missing or of"
            f" another shape, such as {', '.join(absent[:3])}"
        )
    return hf_model.eval()


def _own_class(files: ModelFiles) -> Any:
    """The class that the configuration names; the one for causal language models where it names none."""
    config = files.folder / "config.json"
    if files.gguf is not None:
        return AutoModelForCausalLM
    with reading(files.name, "could not be loaded"):
        named = typed(read_json(config).get("architectures") or [], tuple[str, ...], "architectures")
    if not named:
        return AutoModelForCausalLM
    found = getattr(transformers, named[0], None)
    if not isinstance(found, type) or not issubclass(found, PreTrainedModel):
        raise ValueError(
            f"{files.name} could not be loaded: its configuration names the class {named[0]}, which transformers"
            f" {transformers.__version__} does not have"
        )
    return found


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Weights that are on the disk load in seconds; transformers' bar for it would tear through ours."""
    shown = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    """First line of a loader's message, without the advice of some to give up safety."""
    if type(error).__name__ == "UnpicklingError":
        return (
            "its pytorch_model.bin is damaged or holds more than tensors, and was not executed."
            " Save the model as safetensors where you trust it"
        )
    if "trust_remote_code" in str(error):
        return "it needs program code from its own files, which deepfield never runs"
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return first if isinstance(error, ValueError) else f"{type(error).__name__}: {first}"


def _load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase | None:
    if files.tokenizer_folder is None:
        return None
    options = {"gguf_file": files.gguf} if files.gguf else {}
    try:
        return AutoTokenizer.from_pretrained(
            files.tokenizer_folder, local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:  # as above
        raise ValueError(
            f"the tokenizer of {files.name} in {files.tokenizer_folder} could not be loaded: {_reason(error)}"
        ) from error


def _bridge(hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, *, name: str) -> TransformerBridge:
    architecture = type(hf_model).__name__
    published = tokenizer is not None and puts_bos(tokenizer)
    try:
        model = build_bridge_from_module(
            hf_model, architecture, hf_config=hf_model.config, tokenizer=tokenizer, model_name=name
        )
    except (RuntimeError, AttributeError) as error:
        raise ValueError(
            f"{name} is a {architecture} in a layout that the installed transformer-lens cannot wrap"
            f" ({_reason(error)}); interp.load_hf_model loads it as it is, for capture, circuits and steering"
        ) from error
    except ValueError as error:
        if "Unsupported architecture" not in str(error):
            raise
        raise ValueError(
            f"{name} is a {architecture}, for which the installed transformer-lens has no TransformerBridge;"
            " transformer_lens.model_bridge.sources.list_supported_models() lists what it has"
        ) from None
    if model.tokenizer is not None:
        _keep_bos_as_published(model, published)
    if (family := declared(hf_model.config)) is not None and family.rotary_in_float32:
        for block in model.blocks:
            for name in ("hook_rot_q", "hook_rot_k"):
                point = block.attn._modules[name]
                point.__class__, point.weights = _RotatedPoint, (block.attn.o.weight,)
    return model


class _RotatedPoint(HookPoint):
    """Where a bridge shows rotated queries or keys, brought back into the dtype of the model's weights."""

    weights: tuple[torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.weights[0].dtype)


def _keep_bos_as_published(model: TransformerBridge, published: bool) -> None:
    """One rule for all text: a BOS token stands first where the model's published tokenizer puts one.

    A bridge makes its tokenizer put one in any case, and ``to_tokens`` goes by the architecture: for SmolLM2, a Llama
    whose tokenizer puts none, the two then differ from each other, and for Pythia both from the published tokenizer.
    """
    if puts_bos(model.tokenizer) != published:
        model.tokenizer.add_bos_token = published
    model.cfg.tokenizer_prepends_bos = model.cfg.default_prepend_bos = published


def _checked_dtype(dtype: torch.dtype | str) -> torch.dtype:
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ValueError(f"dtype {name!r} is not one that models are run in: {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _checked_device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    here += ["mps"] if torch.backends.mps.is_available() else []
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"{device!r} is not a device; this machine has {', '.join(here)}") from None
    if str(device) not in here and not (device.index is None and f"{device.type}:0" in here):
        raise ValueError(f"device {str(device)!r} is not on this machine, which has {', '.join(here)}")
    return device
