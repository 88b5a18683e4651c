"""Models that several files of tests share."""

import functools
from collections.abc import Callable

import pytest
from transformer_lens.model_bridge import TransformerBridge

from interp.models.loading import load_model
from tests.tiny_models import tiny_model


@pytest.fixture(scope="session")
def bridges(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TransformerBridge]:
    """The bridge of a tiny model, loaded once; tests must leave it as they found it."""

    @functools.cache
    def get(case: str) -> TransformerBridge:
        folder = tmp_path_factory.mktemp(case)
        tiny_model(case).save_pretrained(folder)
        return load_model(folder, device="cpu")

    return get
