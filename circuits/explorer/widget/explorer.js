// Wires the parts together: what the reader does changes the model's state, and every change is drawn.

function render({ model, el }) {
  const state = makeState(model);
  const about = state.get("about");
  const root = make("div", { className: "deepfield-explorer", "data-lm-suppress-shortcuts": "true" });
  el.append(root);
  let preview = {};
  let shown = { nodes: new Map(), edges: [], count: 0 };
  let focused = { id: null, prompt: 0 };
  const answers = new Map();

  const values = () => ({ threshold: state.get("threshold"), node_threshold: state.get("node_threshold"), ...preview });
  const looking = { ...state, get: (name) => values()[name] ?? state.get(name) };
  const select = (ids) => {
    const before = state.get("selection");
    if (ids.length !== before.length || ids.some((id, i) => id !== before[i])) state.change({ selection: ids });
  };

  const actions = {
    choose(id, add) {
      const members = state.members(id);
      const now = state.get("selection");
      const all = members.every((member) => now.includes(member));
      if (!add && !state.get("several")) select(members);
      else select(all ? now.filter((other) => !members.includes(other)) : [...new Set([...now, ...members])]);
      actions.show(id);
    },
    chooseAll: (nodes) =>
      select([...new Set([...state.get("selection"), ...nodes.flatMap((node) => node.members.map((m) => m.id))])]),
    clear: () => select([]),
    show(id, prompt = focused.prompt) {
      focused = { id, prompt };
      const key = `${id}\n${prompt}`;
      if (about.details && !state.get("groups")[id] && !answers.has(key)) {
        answers.set(key, null);
        model.send({ kind: "detail", node: id, prompt });
      }
      drawSoon();
    },
    pin() {
      const [selection, pinned] = [state.get("selection"), state.get("pinned")];
      if (!selection.length) return;
      const all = selection.every((id) => pinned.includes(id));
      state.change({
        pinned: all ? pinned.filter((id) => !selection.includes(id)) : [...new Set([...pinned, ...selection])],
      });
    },
    group() {
      const selection = state.get("selection");
      if (selection.length < 2) return;
      // A node is in one group: the new one takes it.
      const groups = {};
      for (const [name, members] of Object.entries(state.get("groups"))) {
        const rest = members.filter((id) => !selection.includes(id));
        if (rest.length) groups[name] = rest;
      }
      let number = 1;
      while (Object.hasOwn(groups, `group ${number}`) || state.graph().nodes.some((node) => node.id === `group ${number}`)) number += 1;
      state.change({ groups: { ...groups, [`group ${number}`]: selection } });
      focused = { id: `group ${number}`, prompt: focused.prompt };
    },
    ungroup(name) {
      const { [name]: _gone, ...groups } = state.get("groups");
      state.change({ groups });
    },
    // Why a group cannot have a name, in words; empty where it can.
    refused(name, wanted) {
      if (!wanted) return "A group needs a name.";
      if (wanted !== name && Object.hasOwn(state.get("groups"), wanted)) return `Another group is called ${wanted}.`;
      return state.graph().nodes.some((node) => node.id === wanted) ? `A node is called ${wanted}.` : "";
    },
    rename(name, wanted) {
      const groups = state.get("groups");
      if (wanted === name) return draw();
      if (focused.id === name) focused = { ...focused, id: wanted };
      state.change({ groups: Object.fromEntries(Object.entries(groups).map(([own, ids]) => [own === name ? wanted : own, ids])) });
    },
    look: (view) => view !== state.get("view") && state.change({ view, selection: [] }),
    redraw: () => drawSoon(),
    intervene: () => model.send({ kind: "intervene", ...state.get("experiment") }),
    matches(node) {
      const search = state.get("search");
      return search === "" || actions.describe(node).concat(node.text ?? "", node.members.map((m) => m.name ?? m.id)).join(" ").toLowerCase().includes(search);
    },
    // The same in the tip, the panel, the list and for screen readers: all of what is drawn.
    describe(node) {
      const graph = state.graph();
      const edges = graph.edges.length ? [`${node.into} ${node.into === 1 ? "edge" : "edges"} in, ${node.out} out`] : [];
      if (node.kind === "group") return [node.label, `${node.members.length} nodes`, `${about.shares ? "influence" : "score"} ${number(node.score)}`, ...edges];
      const named = node.name ? [node.name, ...(node.text ? [node.text] : []), ...node.facts] : null;
      const where = graph.by_position && typeof node.position === "number" && !named
        ? [`position ${node.position} ${quotedToken(graph.columns[node.position])}`] : [];
      return [...(named ?? [node.id, ...where, `score ${number(node.score)}`]), ...edges];
    },
    describeEdge(edge) {
      const name = (id) => shown.nodes.get(id)?.name ?? id;
      const lines = [`${name(edge.source)} → ${name(edge.target)}${edge.reader ? ` as ${READS[edge.reader]}` : ""}`,
        `${about.shares ? "weight" : "score"} ${number(edge.score)}`];
      if (edge.parts.length === 1 && edge.parts[0].measured) lines.push(edge.parts[0].measured);
      if (edge.parts.length > 1) lines.push(`sum of ${edge.parts.length} edges`);
      return lines;
    },
  };

  const stage = makeStage(state, actions);
  const panel = makePanel(state, actions);
  const controls = makeControls(state, stage, actions, (values) => {
    preview = values;
    drawSoon();
  });
  const legend = make("div", { className: "legend" });
  root.append(
    make("div", { className: "title" }, make("b", {}, about.title), make("span", { className: "soft" }, about.subtitle)),
    controls.root, make("div", { className: "main" }, stage.root, panel.root), legend);

  const drawPanel = () => panel.draw(shown, focused, answers.get(`${focused.id}\n${focused.prompt}`));

  function draw() {
    const graph = state.graph();
    root.classList.toggle("busy", !graph);
    if (!graph) return;
    shown = visible(graph, looking, controls.onlyPinned() && state.get("pinned").length > 0);
    const things = [...shown.nodes.values()];
    // Boxes with names where they fit, dots where they do not.
    const room = stage.room();
    let dots = Boolean(graph.dots) || things.length * (BOX.width + BOX.gap) * (BOX.height + BOX.gap) > room.x * room.y;
    let arrangement = arrange(graph, things, room, dots);
    if (!dots && arrangement.over > 1.3) [dots, arrangement] = [true, arrange(graph, things, room, true)];
    for (const node of things) Object.assign(node, arrangement.places.get(node.id));
    for (const edge of shown.edges) edge.curve = curve(shown.nodes.get(edge.source), shown.nodes.get(edge.target), edge.reader, dots);
    const strongest = (list) => list.reduce((most, one) => Math.max(most, Math.abs(one.score)), 1e-12);
    const mostEdge = strongest(about.shares ? shown.edges : graph.edges);
    stage.update(graph, arrangement, shown, mostEdge, dots);
    controls.draw(graph, shown, strongest(graph.edges), strongest(graph.nodes), values());
    drawPanel();
    if (!Object.keys(preview).length) drawLegend(legend, graph, shown, mostEdge, about, dots);
  }
  const drawSoon = oncePerFrame(draw);

  root.addEventListener("keydown", (event) => {
    if (event.target.matches("input:not([type=range]):not([type=checkbox]), select, textarea")) return;
    const control = event.ctrlKey || event.metaKey;
    const id = event.target.dataset?.id;
    const key = event.key.toLowerCase();
    const done = () => event.preventDefault();
    if (control && key === "z") done(), event.shiftKey ? state.redo() : state.undo();
    else if (control && key === "y") done(), state.redo();
    else if (control || event.altKey) return;
    else if (key === " " && id) done(), actions.choose(id, true);
    else if (key === "escape") actions.clear();
    else if (key === "p") actions.pin();
    else if (key === "/") done(), panel.find();
    else if (key === "g") {
      const name = state.groupOf(state.get("selection")[0]);
      if (name && state.get("groups")[name].length === state.get("selection").length) actions.ungroup(name);
      else actions.group();
    } else if (key === "+" || key === "=") stage.zoom(ZOOM.step);
    else if (key === "-") stage.zoom(1 / ZOOM.step);
    else if (key === "0") stage.fit();
  });

  const answered = (message) => {
    if (message.kind !== "detail") return;
    answers.set(`${message.node}\n${message.prompt}`, message);
    drawSoon();
  };
  const changed = () => {
    preview = {};
    drawSoon();
  };
  const names = [...KEPT, "graphs", "experiment", "measured", "past", "future"];
  names.forEach((name) => model.on(`change:${name}`, changed));
  model.on("msg:custom", answered);
  const unfollow = followTheme(root, stage.recolour);
  draw();
  return () => {
    names.forEach((name) => model.off(`change:${name}`, changed));
    model.off("msg:custom", answered);
    unfollow();
    stage.stop();
  };
}

const explorer = { render };
