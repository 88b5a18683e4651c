"""The page of a study: the figures of the paper, the tables behind them, and what each figure means."""

from interp.metrics import Estimate
from interp.pages.html_page import Page
from saes.dark_matter import figures
from saes.dark_matter.definitions import DEFINITIONS
from saes.dark_matter.experiments.downstream import SPLICES
from saes.dark_matter.figures import NAMES
from saes.dark_matter.study import SAEStudy, Study, of_one_l0

Table = tuple[list[str], list[list[str]]]


def build_page(study: Study) -> Page:
    """Lay a study out."""
    first = study.saes[0].split
    page = Page(
        f"Dark matter of {len(study.saes)} SAEs" if len(study.saes) > 1 else f"Dark matter of {study.saes[0].name}",
        subtitle=f"{study.model} · {study.site} · {study.tokens:,} tokens of {study.documents:,} documents"
        f" · {first.n_train:,} to fit on, {first.n_test:,} to judge on, split by {first.split_by}",
    )
    for warning in study.warnings:
        page.text(f"Warning: {warning}.")
    page.cards(
        [
            _card("FVU", first.fvu, study.saes[0].name),
            _card("FVU nonlinear", first.fvu_nonlinear, "upper bound on what the SAE introduced"),
            _card("Error vector linear in x", first.r2_vector, "R², mean over dimensions, held out"),
            _card("Error norm linear in x", first.r2_norm, "R² of the squared norm, held out"),
        ]
    )
    page.heading("The split").text(
        "The error x - SAE(x) is what a linear map of x predicts (least squares, fitted on other tokens) and the rest."
        " The rest is an upper bound on what the SAE introduced: features it lacks are only partly linear in x. An SAE"
        " that only shrinks x has an error that is all linear."
    )
    page.table(*figure_table(study)).figures(figures.fvu_stack(study), figures.norm_violin(study))
    groups = {tuple(one.d_sae for one in group): group for group in of_one_l0(study.saes)}
    if study.horizons:
        page.heading("Scaling with width").figures(
            *(figures.horizon_plot(one, groups[one.widths]) for one in study.horizons)
        )
    page.heading("Size of the error").table(*_baseline_table(study))
    page.figures(figures.norm_baselines(study), figures.token_scatter(study))
    if study.token_scaling:
        page.table(
            ["error norm of", "R² of the larger SAE's", "share of the rest that the nonlinear part explains"],
            [[name, _pm(one.r2), _pm(one.remaining_explained)] for name, one in study.token_scaling.items()],
        )
    if any(one.downstream for one in study.saes):
        page.heading("What each part costs the model").table(*_loss_table(study)).figures(figures.loss_bars(study))
    if any(one.pursuit for one in study.saes):
        page.heading("Less of it: gradient pursuit").text(DEFINITIONS["pursuit"] + ".").table(*_pursuit_table(study))
    with_components = [one for one in study.saes if one.components]
    if with_components:
        page.heading("Less of it: earlier components").table(*_component_table(with_components))
        page.figures(*(figures.components_bars(one) for one in with_components))
    with_saes = [one for one in study.saes if one.error_saes]
    if with_saes:
        page.heading("SAEs of the parts").table(*_error_sae_table(with_saes))
        page.figures(*(figures.error_sae_points(one) for one in with_saes))
    page.heading("Definitions").table(["figure", "definition"], [list(row) for row in DEFINITIONS.items()])
    return page.data("study", study.to_json())


def figure_table(study: Study) -> Table:
    """One column an SAE; the figures of both kinds of probe."""
    lines = [
        ["latents", *(f"{one.d_sae:,}" for one in study.saes)],
        ["L0", *("-" if one.split.l0 is None else _pm(one.split.l0) for one in study.saes)],
        ["FVU", *(_pm(one.split.fvu) for one in study.saes)],
    ]
    for i, probe in enumerate(study.saes[0].split.figures):
        kind = (
            ("with" if probe.fit_intercept else "no") + " intercept" + (f", ridge {probe.ridge:g}" * (probe.ridge > 0))
        )
        for label, name in (
            ("FVU nonlinear", "fvu_nonlinear"),
            ("R² error vector", "r2_vector"),
            ("R² error vector, pooled", "r2_vector_pooled"),
            ("R² squared error norm", "r2_norm"),
        ):
            lines.append([f"{label} ({kind})", *(_pm(getattr(one.split.figures[i], name)) for one in study.saes)])
    lines.append(["standard error over", *(one.split.fvu.units("held-out documents") for one in study.saes)])
    return ["figure", *(one.name for one in study.saes)], lines


def family_table(study: Study) -> Table:
    """One line an SAE, with the figures of the probe that makes the parts."""
    columns = ["SAE", "L0", "FVU", "FVU nonlinear", "R² vector", "R² norm"]
    lines = []
    for one in study.saes:
        split = one.split
        figures = (split.fvu, split.fvu_nonlinear, split.r2_vector, split.r2_norm)
        l0 = "-" if split.l0 is None else f"{split.l0.value:.1f}"
        lines.append([one.name, l0, *(f"{e.value:.3f} {e.error('.3f')}" for e in figures)])
    return columns, lines


def _baseline_table(study: Study) -> Table:
    names = list(study.saes[0].split.norm_baselines)
    columns = [
        "R² of ||e||² from",
        "x (probe)",
        *(name.replace("_", " ") for name in names),
        "shrinkage",
        "off shrinkage",
    ]
    return columns, [
        [
            one.name,
            _pm(one.split.r2_norm),
            *(_pm(one.split.norm_baselines[name]) if name in one.split.norm_baselines else "-" for name in names),
            f"{one.split.shrinkage:.3f}",
            f"{one.split.off_shrinkage:.3f}",
        ]
        for one in study.saes
    ]


def _loss_table(study: Study) -> Table:
    columns = [
        "SAE",
        "in place of x",
        "CE (nats/token)",
        "CE above clean",
        "recovered",
        "share of FVU",
        "share of norm",
    ]
    return columns, [
        [
            one.name,
            NAMES[name],
            _pm(one.downstream.ce[name]),
            _pm(one.downstream.ce_added[name]),
            _pm(one.downstream.recovered[name]),
            f"{one.downstream.fvu_removed[name]:.3f}",
            f"{one.downstream.norm_share[name]:.3f}",
        ]
        for one in study.saes
        if one.downstream is not None
        for name in SPLICES
    ]


def _pursuit_table(study: Study) -> Table:
    columns = [
        "SAE",
        "L0 encoder",
        "L0 pursuit",
        "FVU encoder",
        "FVU pursuit",
        "nonlinear encoder",
        "nonlinear pursuit",
    ]
    lines = []
    for one in study.saes:
        if one.pursuit is not None and one.pursuit_encoder is not None:
            encoder, pursuit = one.pursuit_encoder, one.pursuit
            assert encoder.l0 is not None
            assert pursuit.l0 is not None
            pairs = ((encoder.fvu, pursuit.fvu), (encoder.fvu_nonlinear, pursuit.fvu_nonlinear))
            changed = [text for a, b in pairs for text in (_pm(a), f"{_pm(b)} ({b.value / a.value - 1:+.1%})")]
            lines.append([one.name, f"{encoder.l0.value:.1f}", f"{pursuit.l0.value:.1f}", *changed])
    return columns, lines


def _component_table(saes: list[SAEStudy]) -> Table:
    columns = ["SAE", "from", "R² error", "R² linear", "R² nonlinear", "FVU", "FVU with the prediction added"]
    return columns, [
        [one.name, name, *(_pm(e) for e in by.values()), _pm(one.split.fvu), _pm(one.components.fvu_after[name])]
        for one in saes
        if one.components is not None
        for name, by in one.components.r2.items()
    ]


def _error_sae_table(saes: list[SAEStudy]) -> Table:
    columns = ["SAE", "trained on its", "FVU, mean over seeds", "seeds"]
    return columns, [
        [one.name, NAMES[part], _pm(mean), str(mean.n)]
        for one in saes
        if one.error_saes is not None
        for part, mean in one.error_saes.over_seeds.items()
    ]


def _card(label: str, estimate: Estimate, note: str) -> tuple[str, str, str]:
    return label, f"{estimate.value:.3g}", f"{estimate.error('.1g')} · {note}"


def _pm(estimate: Estimate) -> str:
    return f"{estimate.value:.4f} {estimate.error('.4f')}"
