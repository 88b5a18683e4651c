// What a reader does to the graph, shared with Python through the model, and its history.

const KEPT = ["view", "selection", "pinned", "groups", "threshold", "node_threshold"];
const STEPS = 100;

function makeState(model) {
  const get = (name) => model.get(name);
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
    undo: () => step("past", "future"),
    redo: () => step("future", "past"),
    graph: () => get("graphs")[get("view")],
    // The nodes behind a name: a group's members, or the node itself.
    members: (id) => get("groups")[id] ?? [id],
    groupOf: (id) => Object.keys(get("groups")).find((name) => get("groups")[name].includes(id)),
  };
}
