"""Names of the public directory: what they lead to, and what is told where they lead nowhere."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from saes import SAE, ReLU, hub
from saes.conditions import conditions_of
from saes.convert import write
from saes.published.releases import of_files, of_name, table
from tests.saes.convert.by_hand import save_json
from tests.saes.convert.layouts import PLACED, llama_scope_r1
from tests.saes.variants import random_sae

COMMIT = "a" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def repository(cache: Path, repo: str) -> Path:
    """An empty repository in the cache, at its main branch."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    return place / "snapshots" / COMMIT


def test_the_table_is_whole() -> None:
    releases = table()["releases"]
    assert len(releases) == 170
    assert sum(len(release["saes"]) for release in releases.values()) == 13_857
    assert table()["source"] == "sae-lens 6.54.12"
    paths = {
        f"{release['repo']}/{path}".strip("/") for release in releases.values() for path in release["saes"].values()
    }
    assert [path for path in paths if not hub._ID.fullmatch(path)] == []
    assert sum(len(release.get("factors", {})) for release in releases.values()) == 304
    assert sum(len(release.get("l0", {})) for release in releases.values()) == 12_147
    first = of_name("gpt2-small-res-jb/blocks.3.hook_resid_pre")
    assert first is not None
    assert (first.l0, first.variance_explained) == (23.0, 0.999)


def test_a_release_and_an_id_are_loaded(cache: Path) -> None:
    entry = of_name("gpt2-small-res-jb/blocks.3.hook_resid_pre")
    assert entry is not None
    assert (entry.repo, entry.path) == ("jbloom/GPT2-Small-SAEs-Reformatted", "blocks.3.hook_resid_pre")
    write(random_sae(ReLU(), dtype=torch.float32), "saelens", repository(cache, entry.repo) / entry.path)
    assert SAE.load("gpt2-small-res-jb/blocks.3.hook_resid_pre").activation == ReLU()


def test_a_release_of_files_is_loaded(cache: Path) -> None:
    layout = PLACED["qwen_scope"]
    known = [name for name, it in table()["releases"].items() if it["loader"] == "qwen_scope"]
    assert len(known) == 14
    name = next(name for name in known if table()["releases"][name]["repo"].endswith("L0_50"))
    entry = of_name(f"{name}/{next(iter(table()['releases'][name]['saes']))}")
    assert entry is not None
    assert entry.path.endswith(".sae.pt")
    written = layout.write(cache / "elsewhere", layout.weights())
    there = repository(cache, entry.repo) / entry.path
    there.parent.mkdir(parents=True)
    there.write_bytes(written.read_bytes())
    sae = SAE.load(f"{entry.release}/{entry.sae_id}")
    assert sae.site == f"blocks.{entry.path.removeprefix('layer').split('.')[0]}.hook_resid_post"


def test_a_folder_that_is_called_as_a_file_is(cache: Path) -> None:
    entry = of_name("gpt2-small-resid-post-v5-32k/blocks.0.hook_resid_post")
    assert entry is not None
    assert entry.path == "v5_32k_layer_0.pt"
    write(random_sae(ReLU(), dtype=torch.float32), "saelens", repository(cache, entry.repo) / entry.path)
    assert SAE.load("gpt2-small-resid-post-v5-32k/blocks.0.hook_resid_post").activation == ReLU()


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(ValueError, match=r"gpt2-small-res-jb is a release of 13 dictionaries; name one of them as"):
        SAE.load("gpt2-small-res-jb")
    with pytest.raises(ValueError, match=r"has no 'blocks\.99\.hook_resid_pre'.*blocks\.9\.hook_resid_pre"):
        SAE.load("gpt2-small-res-jb/blocks.99.hook_resid_pre")
    with pytest.raises(ValueError, match=r"and \d+ more") as told:
        SAE.load("gemma-scope-2b-pt-res/layer_99/width_16k/average_l0_9")
    assert str(told.value).count("layer_") <= 21
    assert of_name("nobody/nothing") is None
    assert of_files(Path("/tmp/snapshots/x")) is None


def test_a_factor_that_the_files_do_not_hold_is_the_directorys(cache: Path) -> None:
    entry = of_name("llama_scope_r1_distill/l0r_800m_slimpajama")
    assert entry is not None
    assert entry.factor == pytest.approx(53.53, abs=0.01)
    layout = PLACED["llama_scope, R1"]
    folder = llama_scope_r1(cache / "elsewhere", layout.weights())
    config = json.loads((folder / "config.json").read_text())
    del config["dataset_average_activation_norm"]
    save_json(folder / "config.json", config)
    with pytest.raises(ValueError, match="the mean norm of its training is needed"):
        SAE.load(folder)
    there = repository(cache, entry.repo) / entry.path
    there.mkdir(parents=True)
    for file in folder.iterdir():
        (there / file.name).write_bytes(file.read_bytes())
    sae = SAE.load("llama_scope_r1_distill/l0r_800m_slimpajama")
    torch.testing.assert_close(sae.W_enc.detach(), layout.weights()["W_enc"] * entry.factor)
    assert conditions_of(sae.provenance).bos == "row"


def test_what_the_directory_says_of_inputs_is_taken(cache: Path) -> None:
    """Its files say nothing of it; as an SAE of plain activations its figures would be of another one."""
    entry = of_name("mistral-7b-res-wg/blocks.8.hook_resid_pre")
    assert entry is not None
    assert entry.normalise == "constant_norm_rescale"
    write(random_sae(ReLU(), dtype=torch.float32), "saelens", repository(cache, entry.repo) / entry.path)
    with pytest.raises(ValueError, match="'constant_norm_rescale', which divides each activation by its own norm"):
        SAE.load("mistral-7b-res-wg/blocks.8.hook_resid_pre")
