"""What is no single SAE, or is damaged, is told by name; every layout refuses a tensor that no rule uses."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saes import SAE, TopK
from saes.convert import write
from saes.own_sites import is_transcoder
from tests.saes.convert.by_hand import only, save_json, save_pickle, save_tensors
from tests.saes.convert.layouts import (
    MLP_IN,
    MLP_OUT,
    PLACED,
    RESID_POST,
    dictionary_learning,
    gemma_scope_2,
    llamascopium,
)
from tests.saes.places.by_hand import SEVERAL
from tests.saes.test_convert import Evil

WRITTEN_HERE = tuple(name for name in PLACED if "options" not in name)


def files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_a_tensor_that_no_rule_uses_is_named(name: str, tmp_path: Path) -> None:
    layout = PLACED[name]
    path = layout.write(tmp_path, layout.weights())
    for file in files_of(path):
        if file.suffix == ".safetensors":
            save_file(load_file(file) | {"extra_scale": torch.ones(3)}, file)
        elif file.suffix in (".pt", ".pth"):
            torch.save(torch.load(file, weights_only=True) | {"extra_scale": torch.ones(3)}, file)
        elif file.suffix == ".npz":
            import numpy as np

            with np.load(file) as archive:
                content = dict(archive)
            np.savez(file, **content, extra_scale=np.ones(3))
    with pytest.raises(ValueError, match="extra_scale"):
        SAE.load(path)


@pytest.mark.parametrize("name", WRITTEN_HERE)
def test_damage_is_told(name: str, tmp_path: Path) -> None:
    """A file cut in half, one that is empty, and a weight of another shape: a ValueError that names what was read."""
    layout = PLACED[name]
    path = layout.write(tmp_path, layout.weights())
    for file in files_of(path):
        content = file.read_bytes()
        for damaged in (content[: len(content) // 2], b""):
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=r".") as told:
                SAE.load(path)
            assert str(path) in str(told.value) or str(file) in str(told.value)
        file.write_bytes(content)
    SAE.load(path)


def test_a_pickle_is_not_executed_whatever_it_is_called(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    for name in ("Llama-3.1-8B-Instruct-SAE-l19.pth", "layer3.sae.pt"):
        (tmp_path / name).write_bytes(pickle.dumps({"W_enc": Evil(marker)}))
        with pytest.raises(ValueError, match="was not executed"):
            SAE.load(tmp_path / name)
    path = tmp_path / "set" / "layer_1.safetensors"
    save_tensors(path, only({"W_enc": torch.zeros(2, 2)}, "W_enc"))
    path.with_name("config.yaml").write_text(f"!!python/object/apply:pathlib.Path.touch [{marker}]")
    with pytest.raises(ValueError, match=r"config\.yaml is not YAML"):
        SAE.load(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("config.yaml", "W_enc_0.safetensors", "W_dec_0.safetensors"), "a cross-layer transcoder of circuit-tracer"),
        (("params_layer_0.safetensors", "params_layer_1.safetensors"), "crosscoder of Gemma Scope 2"),
        (("conf.yaml", "latest_ckpt.safetensors"), "a temporal SAE.*depend on the tokens before"),
        (
            ("layer_0.safetensors", "layer_1.safetensors"),
            "take one of its files, or load it whole with saes.places.load_any. There are layer_0",
        ),
        (("layer0.sae.pt", "layer1.sae.pt"), r"There are layer0\.sae\.pt, layer1\.sae\.pt"),
    ],
)
def test_what_is_no_single_sae_is_refused_by_name(files: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sae_type": "clt"}, "a clt reads or writes at several places; load it with saes.places.load_any"),
        ({"sae_type": "crosscoder"}, "a crosscoder reads or writes at several places"),
        ({"sae_type": "lorsa"}, "'lorsa' of Llamascopium is not a function of one activation"),
        ({"use_glu_encoder": True}, "its encoder is gated"),
        ({"norm_activation": "token-wise"}, "scaled by its own norm"),
        ({"act_fn": "batchtopk"}, "depend on the rest of its batch"),
        ({"top_k": 0}, "top_k is 0"),
        ({"d_model": "wide"}, "d_model is 'wide'"),
        ({"hook_point_in": "elsewhere"}, "the mean norm of its training is needed"),
    ],
)
def test_what_llamascopium_has_and_we_have_not(change: dict[str, object], message: str, tmp_path: Path) -> None:
    w = PLACED["llamascopium, topk"].weights()
    options = {"act_fn": "topk", "norm_gated": False, "how": "dataset-wise"}
    folder = llamascopium(tmp_path, w, hooks=(RESID_POST, RESID_POST), **options)
    config = json.loads((folder / "config.json").read_text())
    save_json(folder / "config.json", config | change)
    with pytest.raises(ValueError, match=message):
        SAE.load(folder)


def test_folded_weights_of_llamascopium_are_taken_as_they_are(tmp_path: Path) -> None:
    w = PLACED["llamascopium, topk"].weights()
    folder = llamascopium(
        tmp_path, w, hooks=(MLP_IN, MLP_OUT), act_fn="relu", norm_gated=True, how="inference"
    )  # fmt: skip
    sae = SAE.load(folder)
    torch.testing.assert_close(sae.W_enc.detach(), w["W_enc"])
    assert (sae.site, sae.target_site) == (MLP_IN, MLP_OUT)


def test_lone_files_of_no_kind(tmp_path: Path) -> None:
    save_pickle(tmp_path / "vector.pt", {"direction": torch.ones(4), "layer": 3})
    with pytest.raises(ValueError, match="holds direction, layer: no SAE of a known kind"):
        SAE.load(tmp_path / "vector.pt")
    w = PLACED["qwen_scope"].weights()
    save_pickle(tmp_path / "layer3.sae.pt", {name: w[name].T for name in only(w)})
    with pytest.raises(ValueError, match=r"whose k is in the name of its repository alone"):
        SAE.load(tmp_path / "layer3.sae.pt")


def test_thresholds_below_zero(tmp_path: Path) -> None:
    layout = PLACED["circuit_tracer, no configuration"]
    w = layout.weights()
    with pytest.raises(ValueError, match="thresholds below 0"):
        SAE.load(layout.write(tmp_path, w | {"threshold": w["threshold"] - 1}))


@pytest.mark.parametrize("config", [{}, {"type": "sae"}])
def test_a_gemma_scope_2_sae_whose_configuration_names_its_place_twice_is_no_transcoder(
    config: dict[str, object], tmp_path: Path
) -> None:
    """As their configurations do, which say affine_connection of SAEs too."""
    layout, hook = PLACED["gemma_scope 2, resid_post"], "model.layers.1.output"
    said = {"hf_hook_point_in": hook, "hf_hook_point_out": hook, "affine_connection": False} | config
    sae = SAE.load(gemma_scope_2(tmp_path, layout.weights(), below="downloaded", config=said))
    assert (sae.site, sae.target_site, is_transcoder(sae)) == (RESID_POST, None, False)


@pytest.mark.parametrize("name", ["gemma_scope 2, resid_post", "gemma_scope 2, transcoder with affine skip"])
def test_a_gemma_scope_2_skip_connection_is_there_if_the_configuration_says_so(name: str, tmp_path: Path) -> None:
    path = PLACED[name].write(tmp_path, PLACED[name].weights())
    has = SAE.load(path).skip
    config = json.loads((path / "config.json").read_text()) if (path / "config.json").is_file() else {}
    (path / "config.json").write_text(json.dumps(config | {"affine_connection": not has}))
    with pytest.raises(ValueError, match=rf"affine_connection is {not has}, and its weights hold (no|a) skip"):
        SAE.load(path)


@pytest.mark.parametrize(
    ("name", "both"),
    [
        ("saelens, residual", ("b_enc", "b_gate")),
        ("sparsify, block", ("encoder.weight", "W_enc")),
        ("dictionary_learning, layer", ("bias", "b_dec")),
        ("gemma_scope 2, resid_post", ("w_dec", "W_dec")),
    ],
)
def test_two_tensors_of_one_weight_are_named(name: str, both: tuple[str, str], tmp_path: Path) -> None:
    path = PLACED[name].write(tmp_path, PLACED[name].weights())
    for file in files_of(path):
        if file.suffix == ".safetensors":
            save_file((found := load_file(file)) | {both[1]: found[both[0]] * 9}, file)
        elif file.suffix == ".pt":
            found = torch.load(file, weights_only=True)
            torch.save(found | {both[1]: found[both[0]] * 9}, file)
    with pytest.raises(ValueError, match=rf"({both[0]}, {both[1]}|{both[1]}, {both[0]}) are the same weight"):
        SAE.load(path)


@pytest.mark.parametrize("name", ["saelens, residual", "sparsify, block"])
def test_a_skip_connection_that_the_configuration_does_not_name(name: str, tmp_path: Path) -> None:
    """Nor one that it names, and the weights lack: either is another function than the one that was trained."""
    path = PLACED[name].write(tmp_path, PLACED[name].weights())
    config = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps(config | {"architecture": "skip_transcoder", "skip_connection": True}))
    with pytest.raises(ValueError, match=r"its weights hold no skip connection \(W_skip\)"):
        SAE.load(path)
    (path / "cfg.json").write_text(json.dumps(config))
    (weights,) = path.glob("*.safetensors")
    save_file(
        (found := load_file(weights)) | {"W_skip": torch.zeros(len(found["b_dec"]), len(found["b_dec"]))}, weights
    )
    with pytest.raises(ValueError, match=r"its weights hold a skip connection \(W_skip\)"):
        SAE.load(path)


def test_a_layer_that_differs_from_the_submodule_is_no_place(tmp_path: Path) -> None:
    w = PLACED["dictionary_learning, layer"].weights()
    for name in ("resid_post_layer_2", "layers.2", "blocks.2.hook_resid_post"):
        sae = SAE.load(dictionary_learning(tmp_path, w, layer=1, submodule_name=name, lm_name="pythia-70m"))
        assert sae.site is None
        assert sae.provenance["imported"]["place"] == f"its submodule_name is {name!r}, and its layer 1"


MEMORY = """
import sys, threading, time
from pathlib import Path
from typing import Any
from saes.places import load_any


def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


def watch(peak, stopped):
    while not stopped.is_set():
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.001)


load_any(sys.argv[1])
for path in sys.argv[2:]:
    begin, peak, stopped = anonymous(), [0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, stopped))
    watcher.start()
    sae = load_any(path)
    peak[0] = max(peak[0], anonymous())
    stopped.set()
    watcher.join()
    print(peak[0] - begin)
    del sae
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux's /proc")
def test_no_layout_takes_more_memory_than_its_file(tmp_path: Path) -> None:
    """Files are mapped, and each tensor is copied once: anonymous memory peaks at the SAE's own size."""
    names = ("sparsify, block", "saelens, residual", "dictionary_learning, layer", "gemma_scope, residual")
    names += ("gemma_scope 2, resid_post", "qwen_scope", "goodfire", "llama_scope, R1")
    names += ("circuit_tracer, no configuration",)
    d, f = 256, 2**14
    w = {"W_enc": torch.ones(d, f), "W_dec": torch.ones(f, d), "b_enc": torch.zeros(f), "b_dec": torch.zeros(d)}
    w["threshold"] = torch.ones(f)
    small = PLACED["gemma_scope, residual"]
    paths = [small.write(tmp_path / "small", small.weights())]
    paths += [PLACED[name].write(tmp_path / str(number), w) for number, name in enumerate(names)]
    of_part = {name: value[..., : f // 4] if name != "W_dec" else value[: f // 4] for name, value in w.items()}
    of_part |= {"b_dec": w["b_dec"], "W_dec_to": of_part["W_dec"].expand(3, -1, -1), "skip": torch.zeros(d, d)}
    for name in ("gemma_scope 2, clt with affine skip", "llamascopium, clt, jumprelu, by decoder norms"):
        names += (name,)
        paths.append(
            SEVERAL[name].write(
                tmp_path / name.split(",")[0],
                [{name: value.clone() for name, value in of_part.items()} for _ in range(3)],
            )
        )
    command = [sys.executable, "-c", MEMORY, *map(str, paths)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    for name, path, peak in zip(names, paths[1:], ran.stdout.split(), strict=True):
        size = sum(file.stat().st_size for file in files_of(path))
        assert int(peak) <= 1.2 * size, f"{name}: {int(peak) / size:.2f} times its file"


def test_a_folder_of_several_lists_them(tmp_path: Path) -> None:
    layout = PLACED["sparsify, block"]
    for number in range(25):
        layout.write(tmp_path / f"run{number:02}", layout.weights())
    with pytest.raises(ValueError, match=r"holds 25 SAEs in folders; take one: run00/layers\.1, run01.* and 5 more"):
        SAE.load(tmp_path)


@pytest.mark.parametrize(
    ("tool", "change", "message"),
    [
        ("saelens", {"d_sae": 48}, "its configuration says d_sae 48, its weights have 24"),
        ("saelens", {"d_in": 4}, "its configuration says d_in 4, its weights have 8"),
        ("sparsify", {"num_latents": 48}, "its configuration says d_sae 48, its weights have 24"),
        ("sparsify", {"transcode": "false"}, "transcode is 'false'; it must be true or false"),
    ],
)
def test_a_configuration_of_other_weights(tool: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(SAE(8, 24, TopK(2)), tool, tmp_path)
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        SAE.load(tmp_path)
