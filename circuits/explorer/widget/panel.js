// Beside the graph: what is selected and what can be done with it, what the metric says, and the detail of one node.

function makePanel(state, actions) {
  const selected = make("section", { className: "selected" });
  const measured = make("section", { className: "measured", "aria-live": "polite" });
  const detail = make("section", { className: "detail", "aria-live": "polite" });
  const root = make("div", { className: "panel" }, selected, measured, detail);
  const about = state.get("about");
  let renaming = null;

  function drawSelection(shown) {
    const selection = state.get("selection");
    const chosen = [...shown.nodes.values()].filter((node) => node.members.every((m) => selection.includes(m.id)));
    const group = chosen.length === 1 && chosen[0].kind === "group" ? chosen[0].id : null;
    const chips = chosen.slice(0, 12).map((node) =>
      button(node.label, `Show ${node.id}`, () => actions.show(node.id), { className: "chip" }));
    if (chosen.length > 12) chips.push(make("span", { className: "soft" }, `and ${chosen.length - 12} more`));
    const pinned = selection.length > 0 && selection.every((id) => state.get("pinned").includes(id));
    const none = !selection.length;
    const parts = [
      make("h3", {}, none ? "Nothing selected" : `Selected: ${selection.length === 1 ? "1 node" : `${selection.length} nodes`}`),
      make("div", { className: "chips" }, ...(none ? [make("p", { className: "soft" },
        "Click a node; with Shift, add to the selection. Shift and drag selects a box.")] : chips)),
      make("div", { className: "actions" },
        button(pinned ? "Unpin" : "Pin", "Keep in sight whatever the sliders say (P)", actions.pin, { disabled: none }),
        group === null
          ? button("Group", "Draw the selection as one supernode (G)", actions.group, { disabled: selection.length < 2 })
          : button("Ungroup", "Draw the members again (G)", () => actions.ungroup(group)),
        button("Clear", "Select nothing (Escape)", actions.clear, { disabled: none })),
    ];
    if (group !== null) {
      const name = make("input", { value: renaming ?? group, "aria-label": "Name of the group", size: 16 });
      name.oninput = () => (renaming = name.value);
      const rename = () => {
        const wanted = name.value.trim();
        renaming = null;
        actions.rename(group, wanted);
      };
      name.onkeydown = (event) => event.key === "Enter" && rename();
      parts.push(make("div", { className: "actions" }, name, button("Rename", "Give the group this name", rename)));
      parts.push(make("p", { className: "soft" }, chosen[0].members.map((member) => member.id).join(", ")));
    } else {
      renaming = null;
    }
    refill(selected, ...parts);
  }

  function choice(label, name, options) {
    const experiment = state.get("experiment");
    const select = make("select", { "aria-label": label },
      ...options.map(([value, text]) => make("option", { value, selected: experiment[name] === value }, text)));
    select.onchange = () => state.set({ experiment: { ...state.get("experiment"), [name]: select.value } });
    return select;
  }

  // One prompt has no standard error.
  function gauge({ value, standard_error: known }) {
    const error = known ?? 0;
    const [low, high] = [Math.min(-0.1, value - error), Math.max(1.1, value + error)];
    const at = (v) => `${(100 * (v - low)) / (high - low)}%`;
    const tick = (v, text) => make("span", { className: "tick", style: { left: at(v) } }, text);
    return make("div", { className: "gauge", role: "img", "aria-label": `${number(value)}, where 1 is the clean run and 0 the corrupt run` },
      make("span", { className: "zero", style: { left: at(0) } }), make("span", { className: "zero", style: { left: at(1) } }),
      make("span", { className: "bar", style: { left: at(Math.min(0, value)), width: `${(100 * Math.abs(value)) / (high - low)}%` } }),
      make("span", { className: "error", style: { left: at(value - error), width: `${(200 * error) / (high - low)}%` } }),
      tick(0, "0"), tick(1, "1"));
  }

  function drawMeasured() {
    const found = state.get("measured");
    const parts = [make("h3", {}, "Metric")];
    if (about.measures && !about.saved) {
      parts.push(make("div", { className: "actions" },
        choice("What the selection is set to", "to", about.values), choice("Where", "within", about.within)));
    }
    if (found.value !== undefined) {
      parts.push(
        make("div", { className: "result" }, make("b", {}, number(found.value)),
          found.standard_error === null ? " n = 1" : ` ± ${number(+found.standard_error.toPrecision(1))}`),
        gauge(found));
    }
    if (found.words) parts.push(make("p", { className: found.failed ? "failed" : "soft" }, found.words));
    if (about.saved) parts.push(make("p", { className: "soft" }, about.saved));
    else if (!about.measures) parts.push(make("p", { className: "soft" },
      "Pass model=… and task=… to the Explorer: it then runs the model without the selection."));
    refill(measured, ...parts);
  }

  // Tables of what leads to a node and from it; their rows are the way to edges without a pointer.
  function edgeTable(title, edges, end, nameOf) {
    const strongest = [...edges].sort((a, b) => Math.abs(b.score) - Math.abs(a.score)).slice(0, 6);
    if (!strongest.length) return [];
    return [make("table", { className: "edges" },
      make("caption", {}, edges.length > 6 ? `${title}: 6 strongest of ${edges.length}` : title),
      ...strongest.map((edge) => make("tr", {},
        make("td", {}, button(nameOf(edge[end]), `Show ${edge[end]}`, () => actions.show(edge[end]), { className: "link" })),
        make("td", { className: "soft" }, edge.reader ? `as ${READS[edge.reader]}` : ""),
        make("td", {}, number(edge.score)))))];
  }

  function drawDetail(node, shown, answer, prompt) {
    if (!node) {
      return refill(detail, make("h3", {}, "Detail"),
        make("p", { className: "soft" }, "Click a node to see what it does."));
    }
    const nameOf = (id) => shown.nodes.get(id)?.label ?? id;
    const { columns, by_position: byPosition } = state.graph();
    const named = (id) => {
      const position = shown.nodes.get(id)?.position;
      return byPosition && typeof position === "number" ? `${nameOf(id)} at ${position} ${quotedToken(columns[position])}` : nameOf(id);
    };
    const parts = [
      make("h3", {}, actions.describe(node)[0]),
      make("p", { className: "soft" }, actions.describe(node).slice(1).join(" · ")),
      ...edgeTable("It reads from", shown.edges.filter((edge) => edge.target === node.id), "source", named),
      ...edgeTable("It writes to", shown.edges.filter((edge) => edge.source === node.id), "target", named),
    ];
    if (node.kind === "group") {
      parts.push(make("table", { className: "edges" }, make("caption", {}, "members"),
        ...node.members.map((member) => make("tr", {}, make("td", {}, member.id), make("td", {}, number(member.score))))));
    } else if (about.details) {
      if (about.prompts > 1 && !about.saved) {
        const choose = make("select", { "aria-label": "Prompt" },
          ...Array.from({ length: about.prompts }, (_, i) =>
            make("option", { value: i, selected: i === prompt }, `prompt ${i + 1} of ${about.prompts}`)));
        choose.onchange = () => actions.show(node.id, Number(choose.value));
        parts.push(make("div", { className: "actions" }, choose));
      }
      if (!answer) parts.push(make("p", { className: "soft waiting" }, "Computing …"));
      else if (answer.error) parts.push(make("p", { className: "failed" }, answer.error));
      else parts.push(...(answer.made ??= detailSections(answer.sections)));
    } else {
      parts.push(make("p", { className: "soft" },
        "Pass model=… and task=… to the Explorer for attention patterns, logits and examples."));
    }
    refill(detail, ...parts);
  }

  return { root, drawSelection, drawMeasured, drawDetail };
}

const READS = { q: "query", k: "key", v: "value" };
