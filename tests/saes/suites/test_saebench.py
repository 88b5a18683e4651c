"""The adapter's face, without SAEBench (with it: ``tests/peers/test_saebench.py``)."""

import pytest
import torch

from saes import SAE, TopK
from saes.suites import for_saebench
from tests.saes.variants import VARIANTS, random_sae


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_it_encodes_and_decodes_as_the_sae_does(variant: str) -> None:
    sae = random_sae(VARIANTS[variant])
    with torch.no_grad():
        sae.W_dec.div_(sae.decoder_norms()[:, None])
    theirs, x = for_saebench(sae, model_name="m", context_size=64), torch.randn(2, 3, 8, dtype=torch.float64)
    assert torch.equal(theirs.encode(x), sae.encode(x).to_dense())
    assert torch.allclose(theirs(x), sae(x))
    assert theirs.W_enc is sae.W_enc
    assert theirs.cfg.to_dict()["hook_name"] == "blocks.0.hook_resid_post"
    assert theirs.to(dtype=torch.float32).dtype == torch.float32


def test_what_saebench_would_misread_is_refused() -> None:
    with pytest.raises(ValueError, match="decoder rows have norms up to"):
        for_saebench(random_sae(TopK(4)), model_name="m")
    with pytest.raises(ValueError, match="this SAE's is None"):
        for_saebench(SAE(8, 4, TopK(1)), model_name="m")
    with pytest.raises(ValueError, match="no transcoder"):
        for_saebench(SAE(8, 4, TopK(1), d_out=6, subtract_b_dec=False), model_name="m")
