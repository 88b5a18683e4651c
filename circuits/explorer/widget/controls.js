// Sliders, buttons and the legend.

// Scores are spread widely: a slider's travel is three decades of the strongest, and nothing at its left end.
const DECADES = 3;
const OF_SCORES = {
  toValue: (travel, most) => (travel <= 0 ? 0 : most * 10 ** (DECADES * (travel - 1))),
  toTravel: (score, most) => (score <= 0 ? 0 : Math.max(0.001, 1 + Math.log10(Math.min(score, most) / most) / DECADES)),
  said: number,
};
// Shares of influence are as they are, up to what was sent.
const OF_SHARES = {
  toValue: (travel, most) => (travel >= 1 ? most : Math.round(1000 * travel * most) / 1000),
  toTravel: (share, most) => Math.min(1, share / most),
  said: (share) => `${Math.floor(1000 * share + 1e-9) / 10} %`,
};

function makeSlider(state, scale, { name, title, label }, preview) {
  const input = make("input", { type: "range", min: 0, max: 1, step: 0.001, "aria-label": title });
  const said = make("output", {});
  const root = make("label", { className: "slider", title }, label, input, said);
  let most = 1;
  const value = () => scale.toValue(Number(input.value), most);
  input.oninput = () => preview({ [name]: value() });
  input.onchange = () => {
    preview({});
    if (value() !== state.get(name)) state.change({ [name]: value() });
  };
  return {
    root,
    draw(now, newMost, count) {
      most = newMost;
      if (root.getRootNode().activeElement !== input || !input.matches(":active")) input.value = scale.toTravel(now, most);
      said.textContent = `${scale.said(now)} · ${count}`;
      input.setAttribute("aria-valuetext", `${scale.said(now)}, ${count}`);
    },
  };
}

function makeControls(state, stage, actions, preview) {
  const about = state.get("about");
  const shares = Boolean(about.shares);
  const scale = shares ? OF_SHARES : OF_SCORES;
  const [ofNodes, ofEdges] = shares
    ? ["Share of all influence that the nodes drawn hold", "Share of influence between them that the edges drawn hold"]
    : ["Least absolute score of a node that is drawn", "Least absolute score of an edge that is drawn"];
  const node = makeSlider(state, scale, { name: "node_threshold", title: ofNodes, label: shares ? "nodes with " : "nodes from " }, preview);
  const edge = makeSlider(state, scale, { name: "threshold", title: ofEdges, label: shares ? "edges with " : "edges from " }, preview);
  const undo = button("↶ Undo", "Take the last step back (Ctrl+Z)", state.undo);
  const redo = button("↷ Redo", "Do it again (Ctrl+Shift+Z)", state.redo);
  const check = (does) => {
    const input = make("input", { type: "checkbox" });
    input.onchange = () => does(input.checked);
    return input;
  };
  const only = check(() => actions.redraw());
  const holds = check((only_holds) => (state.keep({ only_holds }), actions.redraw()));
  const several = button("Several", "Clicks add to the selection, as with Shift", () => {
    state.keep({ several: !state.get("several") });
    actions.redraw();
  }, { "aria-pressed": "false" });
  const views = about.views.map(([view, text, title]) =>
    button(text, title, () => actions.look(view), { "aria-pressed": "false" }));
  const root = make("div", { className: "bar", role: "toolbar", "aria-label": "View of the graph" },
    ...(views.length > 1 ? [make("span", { className: "switch" }, ...views)] : []),
    ...(shares ? [node.root, edge.root] : [edge.root, node.root]),
    make("span", { className: "switch" },
      button("−", "Zoom out (−)", () => stage.zoom(1 / ZOOM.step), { "aria-label": "Zoom out" }),
      button("+", "Zoom in (+)", () => stage.zoom(ZOOM.step), { "aria-label": "Zoom in" }),
      button("Fit", "All of the graph (0)", stage.fit)),
    make("span", { className: "switch" }, undo, redo),
    make("span", { className: "switch" }, several),
    make("label", {}, only, " only pinned"),
    ...(about.measured_edges ? [make("label", { title: "Leave out edges that do not replicate, or are below the null" }, holds, " only edges that hold")] : []));
  return {
    root,
    draw(graph, shown, mostEdge, mostNode, values) {
      undo.disabled = !state.get("past").length;
      redo.disabled = !state.get("future").length;
      only.disabled = !state.get("pinned").length;
      several.setAttribute("aria-pressed", state.get("several"));
      views.forEach((one, i) => one.setAttribute("aria-pressed", about.views[i][0] === state.get("view")));
      edge.root.hidden = !graph.edges.length;
      edge.draw(values.threshold, shares ? 1 : mostEdge, `${shown.count} of ${graph.edges.length} edges`);
      const drawn = [...shown.nodes.values()].reduce((sum, one) => sum + one.members.length, 0);
      node.draw(values.node_threshold, shares ? about.shares : mostNode, `${drawn} of ${graph.nodes.length} nodes`);
    },
    onlyPinned: () => only.checked,
  };
}

const KINDS = {
  embed: "input", head: "head", mlp: "MLP", attention: "attention output", neuron: "neuron", residual: "residual stream",
  latent: "latent", error: "error", "linear-error": "linear part of an error", token: "token", target: "target", logits: "logits",
  group: "group",
};

function drawLegend(legend, graph, shown, most, about, dots) {
  const kinds = [...new Set([...shown.nodes.values()].map((node) => node.kind))];
  const line = (sign, share) => make("i", { className: `line ${sign}`, style: { height: `${edgeWidth(share, 1)}px` } });
  const sample = (share) => [line("positive", share), line("negative", share), number(share * most)];
  const swatch = (kind) => make("i", { className: dots && kind !== "group" && kind !== "target" ? `node dot ${kind}` : `node ${kind}` });
  const loose = shown.edges.some((edge) => edge.holds === false);
  legend.replaceChildren(
    ...(graph.edges.length ? [make("span", {}, about.shares ? "edges: " : "edges, absolute score: ", ...[1, 0.3, 0.1].flatMap(sample))] : []),
    make("span", {}, make("i", { className: "swatch positive" }), about.shares ? "raises " : "positive ",
      make("i", { className: "swatch negative" }), about.shares ? "lowers" : "negative",
      ...(loose ? [make("i", { className: "swatch loose" }), "does not hold"] : [])),
    make("span", {}, ...kinds.flatMap((kind) => [swatch(kind), `${KINDS[kind]} `])),
    make("span", { className: "soft" }, about.scores),
    ...(graph.by_position && graph.columns.some((name) => /^\[.*\]$/.test(name)) && !about.shares
      ? [make("span", { className: "soft" }, "[token]: prompts differ there, the first one's is shown")] : []),
    ...(graph.note ? [make("span", {}, graph.note)] : []));
}
