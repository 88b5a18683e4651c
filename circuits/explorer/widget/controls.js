// Sliders, buttons and the legend.

// A slider's travel is three decades of the strongest score, and nothing at its left end: scores are spread that widely.
const DECADES = 3;
const toScore = (travel, most) => (travel <= 0 ? 0 : most * 10 ** (DECADES * (travel - 1)));
const toTravel = (score, most) => (score <= 0 ? 0 : Math.max(0.001, 1 + Math.log10(Math.min(score, most) / most) / DECADES));

function makeSlider(state, { name, title, label }, preview) {
  const input = make("input", { type: "range", min: 0, max: 1, step: 0.001, "aria-label": title });
  const said = make("output", {});
  const root = make("label", { className: "slider", title }, label, input, said);
  let most = 1;
  input.oninput = () => preview(name, toScore(Number(input.value), most));
  input.onchange = () => state.change({ [name]: toScore(Number(input.value), most) });
  return {
    root,
    draw(value, newMost, count) {
      most = newMost;
      if (root.getRootNode().activeElement !== input || !input.matches(":active")) input.value = toTravel(value, most);
      said.textContent = `${number(value)} · ${count}`;
      input.setAttribute("aria-valuetext", `${number(value)}, ${count}`);
    },
  };
}

function makeControls(state, stage, actions, preview) {
  const about = state.get("about");
  const edge = makeSlider(state,
    { name: "threshold", title: "Least absolute score of an edge that is drawn", label: "edges from " }, preview);
  const node = makeSlider(state,
    { name: "node_threshold", title: "Least absolute score of a node that is drawn", label: "nodes from " }, preview);
  const undo = button("↶ Undo", "Take the last step back (Ctrl+Z)", state.undo);
  const redo = button("↷ Redo", "Do it again (Ctrl+Shift+Z)", state.redo);
  const only = make("input", { type: "checkbox" });
  only.onchange = () => actions.onlyPinned(only.checked);
  const views = about.views.map(([view, text, title]) =>
    button(text, title, () => actions.look(view), { "aria-pressed": "false" }));
  const root = make("div", { className: "bar", role: "toolbar", "aria-label": "View of the graph" },
    ...(views.length > 1 ? [make("span", { className: "switch" }, ...views)] : []),
    edge.root, node.root,
    make("span", { className: "switch" },
      button("−", "Zoom out (−)", () => stage.zoom(1 / ZOOM.step), { "aria-label": "Zoom out" }),
      button("+", "Zoom in (+)", () => stage.zoom(ZOOM.step), { "aria-label": "Zoom in" }),
      button("Fit", "All of the graph (0)", stage.fit)),
    make("span", { className: "switch" }, undo, redo),
    make("label", {}, only, " only pinned"));
  return {
    root,
    draw(graph, shown, mostEdge, mostNode, values) {
      undo.disabled = !state.get("past").length;
      redo.disabled = !state.get("future").length;
      only.disabled = !state.get("pinned").length;
      views.forEach((one, i) => one.setAttribute("aria-pressed", about.views[i][0] === state.get("view")));
      edge.root.hidden = !graph.edges.length;
      edge.draw(values.threshold, mostEdge, `${shown.count} of ${graph.edges.length} edges`);
      const drawn = [...shown.nodes.values()].reduce((sum, one) => sum + one.members.length, 0);
      node.draw(values.node_threshold, mostNode, `${drawn} of ${graph.nodes.length} nodes`);
    },
    onlyPinned: () => only.checked,
  };
}

const KINDS = {
  embed: "input", head: "head", mlp: "MLP", attention: "attention output", neuron: "neuron", residual: "residual stream",
  latent: "SAE latent", error: "SAE error", logits: "logits", group: "group",
};

function drawLegend(legend, graph, shown, most, about) {
  const kinds = [...new Set([...shown.nodes.values()].map((node) => node.kind))];
  const line = (sign, share) => make("i", { className: `line ${sign}`, style: { height: `${edgeWidth(share, 1)}px` } });
  const sample = (share) => [line("positive", share), line("negative", share), number(share * most)];
  legend.replaceChildren(
    ...(graph.edges.length ? [make("span", {}, "edges, absolute score: ", ...[1, 0.3, 0.1].flatMap(sample))] : []),
    make("span", {}, make("i", { className: "swatch positive" }), "positive ", make("i", { className: "swatch negative" }), "negative"),
    make("span", {}, ...kinds.flatMap((kind) => [make("i", { className: `node ${kind}` }), `${KINDS[kind]} `])),
    make("span", { className: "soft" }, about.scores),
    ...(graph.by_position && graph.columns.some((name) => /^\[.*\]$/.test(name))
      ? [make("span", { className: "soft" }, "[token]: prompts differ there, the first one's is shown")] : []),
    ...(graph.note ? [make("span", {}, graph.note)] : []));
}
