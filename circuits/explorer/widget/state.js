// What a reader does to the graph, shared with Python through the model, and its history.

const KEPT = ["view", "selection", "pinned", "groups", "threshold", "node_threshold"];
const STEPS = 100;

function makeState(model) {
  // What is of this screen alone.
  const local = { search: "", only_holds: false, several: false };
  const get = (name) => (name in local ? local[name] : model.get(name));
  const snapshot = () => Object.fromEntries(KEPT.map((name) => [name, get(name)]));
  const write = (update) => {
    Object.entries(update).forEach(([name, value]) => model.set(name, value));
    model.save_changes();
  };
  const step = (from, to) => {
    const steps = get(from);
    if (!steps.length) return;
    write({ ...steps.at(-1), [from]: steps.slice(0, -1), [to]: [...get(to), snapshot()].slice(-STEPS) });
  };
  return {
    get,
    // One step that can be taken back.
    change: (update) => write({ ...update, past: [...get("past"), snapshot()].slice(-STEPS), future: [] }),
    set: write,
    keep: (update) => Object.assign(local, update),
    undo: () => step("past", "future"),
    redo: () => step("future", "past"),
    graph: () => openGraph(get("graphs")[get("view")]),
    // The nodes behind a name: a group's members, or the node itself.
    members: (id) => get("groups")[id] ?? [id],
    groupOf: (id) => Object.keys(get("groups")).find((name) => get("groups")[name].includes(id)),
  };
}

// The state of the view as text: Neuronpedia's qParams, and what these do not hold. Python's GraphView.view_state is the same.
function viewAsText(state) {
  const selected = state.get("selection");
  const groups = Object.entries(state.get("groups")).map(([name, members]) => [name, ...members]);
  return JSON.stringify({
    pinnedIds: state.get("pinned"), supernodes: groups, linkType: "both", clickedId: selected.at(-1) ?? "", sg_pos: "",
    view: state.get("view"), selected, node_threshold: state.get("node_threshold"), edge_threshold: state.get("threshold"),
  }, null, 1);
}

// The traits that such a text stands for; throws in words.
function viewFromText(text, graph, shares = Infinity) {
  const found = JSON.parse(text);
  if (found === null || typeof found !== "object" || Array.isArray(found)) throw new Error("a state is an object: {…}");
  const known = new Set(graph.nodes.map((node) => node.id));
  const ids = (list, name) => {
    if (!Array.isArray(list)) throw new Error(`${name} is no list`);
    const lost = list.find((id) => !known.has(id));
    if (lost !== undefined) throw new Error(`${JSON.stringify(lost)} in ${name} is no node of this graph`);
    return [...new Set(list)];
  };
  const groups = {};
  const owned = new Set();
  if (!(found.supernodes ?? []).every?.(Array.isArray)) throw new Error("supernodes is no list of lists");
  for (const [name, ...members] of found.supernodes ?? []) {
    const mine = ids(members, "supernodes");
    if (!name || known.has(name) || Object.hasOwn(groups, name) || !mine.length || mine.some((id) => owned.has(id)))
      throw new Error(`supernode ${JSON.stringify(name)} needs a name of its own and members that no other has`);
    mine.forEach((id) => owned.add(id));
    groups[name] = mine;
  }
  const share = (value, name) => {
    if (typeof value !== "number" || !(value >= 0)) throw new Error(`${name} is no number from 0 on`);
    if (shares <= 1 && value > 1) throw new Error(`${name} is ${value}, and a share of influence is at most 1`);
    return value;
  };
  return {
    pinned: ids(found.pinnedIds ?? [], "pinnedIds"), groups,
    selection: ids(found.selected ?? (found.clickedId ? [found.clickedId] : []), "selected"),
    ...(found.node_threshold === undefined ? {} : { node_threshold: Math.min(shares, share(found.node_threshold, "node_threshold")) }),
    ...(found.edge_threshold === undefined ? {} : { threshold: share(found.edge_threshold, "edge_threshold") }),
  };
}
