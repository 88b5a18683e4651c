"""Triton's kernels compiled to a Hopper GPU's machine code, which needs no GPU: what the interpreter lets pass, a type
that changes in a loop for instance, fails here."""

import importlib.util
import os
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="Triton is not installed: pip install 'deepfield[gpu]'"
    ),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="interpreted kernels are not compiled"),
]
INDICES, COUNT = "*i64", "i32"


def compiled(kernel: str, types: dict[str, str], constants: dict[str, Any]) -> bytes:
    """Machine code of a kernel of ``saes.kernels.gpu``, from its arguments' types and constants."""
    from triton.backends.compiler import GPUTarget  # type: ignore  # no stubs
    from triton.compiler import ASTSource, compile  # type: ignore  # no stubs

    from saes.kernels import gpu

    sizes = {name: getattr(gpu, name) for name in ("ROWS", "LATENTS", "SLOTS")} | {"WIDTH": 128}
    function = getattr(gpu, kernel)
    constants = {name: size for name, size in sizes.items() if name in function.arg_names} | constants
    signature = {name: "constexpr" if name in constants else types[name] for name in function.arg_names}
    code: bytes = compile(ASTSource(function, signature, constants), target=GPUTarget("cuda", 90, 32)).asm["cubin"]
    return code


@pytest.mark.parametrize("number", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kernel", ["weighted_sum", "pair_dot", "segment_sum"])
def test_sparse_products(kernel: str, number: str) -> None:
    types = dict.fromkeys(("indices", "tokens", "begins"), INDICES) | dict.fromkeys(("k", "d"), COUNT)
    types |= dict.fromkeys(("weights", "rows", "table", "out"), f"*{number}")
    assert compiled(kernel, types, {})


@pytest.mark.parametrize(
    ("number", "precision", "with_bias"),
    [("fp32", "ieee", True), ("fp32", "tf32", False), ("bf16", "tf32", True), ("fp16", "tf32", False)],
)
def test_candidates(number: str, precision: str, with_bias: bool) -> None:
    types = dict.fromkeys(("x", "table", "bias"), f"*{number}") | {"values": "*fp32", "places": "*i32"}
    types |= dict.fromkeys(("n", "d", "d_sae", "keep"), COUNT)
    constants = {"HAS_BIAS": with_bias, "WIDEN": False, "PRECISION": precision, "WIDTH": 32}
    assert compiled("tile_candidates", types, constants | ({} if with_bias else {"bias": None}))
