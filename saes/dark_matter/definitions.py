"""What each figure of a study means, for those who read its JSON or its page."""

DEFINITIONS = {
    "error": "e = x - SAE(x); x is [tokens, d]",
    "linear": "x b*, with b* the least-squares map from x to e, fitted on other documents (or tokens, see split_by)",
    "nonlinear": "e - x b*: an upper bound on what the SAE introduced, not an estimate of it",
    "fvu": "sum ||x - SAE(x)||^2 / sum ||x - mean||^2 over held-out tokens, all dimensions in one sum",
    "fvu_nonlinear": "FVU of SAE(x) + linear error: an upper bound on the FVU of the introduced error",
    "r2_vector": "R^2 of e from x, held out, mean over dimensions without weights",
    "r2_vector_pooled": "R^2 of e from x, held out, all dimensions in one sum",
    "r2_norm": "R^2 of ||e||^2 from x by a linear map, held out",
    "norm_baselines": "R^2 of ||e||^2 from one other thing known of a token (with intercept; token and position: means"
    " of the class), held out",
    "norms.r2": "R^2 of the squared norm of each vector from x by a linear map without intercept, held out",
    "norms.norm_share": "mean norm of a part over mean norm of e",
    "shrinkage": "mean diagonal of b*; an SAE that gives (1 - s) x has b* = s I and R^2 1",
    "off_shrinkage": "||b* - shrinkage I|| / ||b*||",
    "recovered": "(CE_sae - CE) / (CE_sae - CE_clean), held-out documents",
    "fvu_removed": "share of ||e||^2 that an addition takes away",
    "pursuit": "codes of the same decoder by gradient pursuit, as many steps a token as the encoder has active latents;"
    " the probe is fitted anew",
    "components.r2": "R^2 of the error and its parts from SAE outputs at earlier sites, without intercept, held out",
    "components.fvu_after": "FVU once the error predicted from these outputs is added to SAE(x)",
    "horizons": "FVU(W) = c + a W^-m over widths at about one L0; absent = curve - c, linear = c - mean FVU_nonlinear",
    "token_scaling": "R^2 of the larger SAE's ||e|| from the smaller one's, and the share of the rest that the norm of"
    " the smaller one's nonlinear error explains",
    "error_saes": "FVU of TopK SAEs trained on each part, about its mean, on held-out documents",
    "standard_error": "bootstrap over n held-out documents; of losses and norms the ratio estimator over documents;"
    " where documents are fewer than 5 both over blocks of neighbouring tokens (blocks: true); of error_saes.over_seeds"
    " over seeds",
}
