"""Heat maps and the pages of the commands: scales, texts that stay texts, and a graph to explore."""

from pathlib import Path

import pytest
import torch

from circuits import Circuit, Evaluator, Explorer, attribute, attribute_edges
from circuits.comparison import compare
from circuits.draw import circuit_page, faithfulness_by_size, heat_map, patch_page
from circuits.faithfulness import Curve
from interp import Estimate
from tests.circuits.pairs import model_of, random_task

WILD = "<img src=x onerror=alert(1)>"


def test_maps_of_one_family_have_one_scale(tmp_path: Path) -> None:
    task = random_task(labels=[f"{WILD}{i}" for i in range(7)], name=WILD)
    found = compare(model_of("gpt2"), task, nodes=["attn_out"], variants={"AtP": {"method": "atp"}})
    exact, estimate = found.exact["attn_out"], found.estimates["AtP"]["attn_out"]
    own = heat_map(estimate)
    assert own.data[0].zmax == -own.data[0].zmin == pytest.approx(float(estimate.values.abs().max()))
    most = float(exact.values.abs().max())
    assert heat_map(estimate, most=most).data[0].zmax == most
    torch.testing.assert_close(torch.tensor(own.data[0].z, dtype=torch.float64), estimate.values)
    text = patch_page(found, task, model_name=WILD).write(tmp_path / "patch.html").read_text()
    assert "<img" not in text.split("</script>", 1)[1]  # behind plotly's own code
    assert f'"zmax":{most}'[:12] in text


def test_heads_are_rows_of_their_layer() -> None:
    scores = attribute(model_of("gpt2"), random_task(), nodes="heads", method="atp")
    figure = heat_map(scores)
    assert list(figure.layout.yaxis.ticktext)[:5] == ["0.0", "0.1", "0.2", "0.3", "1.0"]
    assert figure.data[0].z[4][5] == pytest.approx(float(scores.values[1, 5, 0]))
    neurons = attribute(model_of("gpt2"), random_task(), nodes="neurons", method="atp")
    with pytest.raises(ValueError, match=r"cannot be drawn as one map; use Scores.top"):
        heat_map(neurons)


def test_a_circuits_page_can_be_explored(tmp_path: Path) -> None:
    model, task = model_of("gpt2"), random_task(name=WILD)
    whole = Circuit.from_edges(attribute_edges(model, task.replace(direction="noise")), task=WILD)
    small, evaluator = whole.prune(size=20), Evaluator(model, task)
    arguments = (small, evaluator.evaluate(small), evaluator.curve(whole, fractions=(0.1, 1.0)), task)
    plain = circuit_page(*arguments, model_name="tiny", method="eap").write(tmp_path / "plain.html").read_text()
    explorer = Explorer(small, model=model, task=task, view="summed")
    page = circuit_page(*arguments, model_name="tiny", method="eap", explorer=explorer)
    text = page.write(tmp_path / "page.html").read_text()
    assert "explorer.render(" in text
    assert "explorer.render(" not in plain
    assert WILD not in text.split("</head>", 1)[1]


def test_a_circuit_of_no_edges_is_drawn() -> None:
    """At the left end of an axis of sizes that is logarithmic elsewhere."""
    one = Estimate(value=0.5, standard_error=float("nan"), n=1)
    curve = Curve(
        fractions=(0.0, 0.1, 1.0), edges=(0, 9, 99), faithfulness=(one,) * 3, area=one, distance=one, ablation="zero"
    )
    figure = faithfulness_by_size(curve)
    assert figure.data[0].x == pytest.approx((0.0, 1.0, 2.0))
    assert list(figure.data[0].customdata) == [0, 9, 99]
    axis = figure.layout.xaxis
    assert axis.type != "log"
    assert dict(zip(axis.ticktext, axis.tickvals, strict=True)) == pytest.approx({"0": 0, "1": 0.30103, "10": 1.041393})
