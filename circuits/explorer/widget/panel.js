// Beside the graph, in three leaves: the selected node, all nodes as a list, and the state of the view as text.

const LISTED = 8;

function makePanel(state, actions) {
  const selected = make("section", { className: "selected" });
  const measured = make("section", { className: "measured", "aria-live": "polite" });
  const detail = make("section", { className: "detail", "aria-live": "polite" });
  const about = state.get("about");
  const nodeLeaf = make("div", { role: "tabpanel" }, selected, measured, detail);
  const list = makeList(state, actions);
  const view = makeViewText(state, actions);
  const leaves = [["Node", nodeLeaf], ["List", list.root], ["View", view.root]];
  const tabs = leaves.map(([name], i) => button(name, `Show: ${name}`, () => open(i), { role: "tab" }));
  const root = make("div", { className: "panel" },
    make("div", { className: "switch tabs", role: "tablist" }, ...tabs), ...leaves.map(([, leaf]) => leaf));
  let [renaming, refused] = [null, ""];
  let opened = 0;
  let sorting = "score";
  let all = false;

  function open(which) {
    opened = which;
    leaves.forEach(([, leaf], i) => {
      leaf.hidden = i !== which;
      tabs[i].setAttribute("aria-selected", i === which);
    });
    actions.redraw();
  }
  leaves.forEach(([, leaf], i) => {
    leaf.hidden = i !== 0;
    tabs[i].setAttribute("aria-selected", i === 0);
  });

  function drawSelection(shown) {
    const selection = state.get("selection");
    const chosen = [...shown.nodes.values()].filter((node) => node.members.every((m) => selection.includes(m.id)));
    const group = chosen.length === 1 && chosen[0].kind === "group" ? chosen[0].id : null;
    const chips = chosen.slice(0, 12).map((node) =>
      button(node.label, `Show ${node.id}`, () => actions.show(node.id), { className: "chip" }));
    if (chosen.length > 12) chips.push(make("span", { className: "soft" }, `and ${chosen.length - 12} more`));
    const pinned = selection.length > 0 && selection.every((id) => state.get("pinned").includes(id));
    const none = !selection.length;
    const unseen = selection.length - chosen.reduce((sum, node) => sum + node.members.length, 0);
    const parts = [
      make("h3", {}, none ? "Nothing selected" : `Selected: ${selection.length === 1 ? "1 node" : `${selection.length} nodes`}`),
      make("div", { className: "chips" }, ...(none ? [make("p", { className: "soft" },
        "Click a node; with Shift, add to the selection. Shift and drag selects a box.")] : chips)),
      ...(unseen > 0 ? [make("p", { className: "soft" }, `${unseen} not drawn at these thresholds.`)] : []),
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
        refused = actions.refused(group, wanted);
        renaming = refused ? wanted : null;
        if (refused) actions.redraw();
        else actions.rename(group, wanted);
      };
      name.onkeydown = (event) => event.key === "Enter" && rename();
      parts.push(make("div", { className: "actions" }, name, button("Rename", "Give the group this name", rename)));
      if (refused) parts.push(make("p", { className: "failed", role: "alert" }, refused));
      parts.push(make("p", { className: "soft" }, chosen[0].members.map((member) => member.name ?? member.id).join(", ")));
    } else {
      [renaming, refused] = [null, ""];
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

  // Latents set, scaled or added to, in one of three modes: what targets do, beside what the graph's edges say.
  function intervention() {
    const found = state.get("measured");
    const amount = make("input", { type: "number", step: "any", value: state.get("experiment").value, "aria-label": "Value", className: "amount" });
    amount.onchange = () => state.set({ experiment: { ...state.get("experiment"), value: Number(amount.value) } });
    const some = state.get("selection").length > 0;
    const signed = (value) => (value > 0 ? "+" : "") + number(value);
    const row = (...cells) => make("tr", {}, ...cells.map((cell, i) => make(i ? "td" : "th", i ? {} : { scope: "row" }, cell)));
    return [
      make("h3", {}, "Intervention"),
      make("div", { className: "actions" }, choice("What happens to the selected latents", "how", about.hows), amount,
        choice("What is held", "mode", about.modes), button("Run", "Run the model with the selected latents changed", () => actions.intervene(), { disabled: !some })),
      ...(found.words ? [make("p", { className: found.failed ? "failed" : "soft" }, found.words)] : []),
      ...(found.rows ? [make("table", { className: "numbers targets" },
        make("tr", {}, make("th", {}, "change of"), make("th", {}, "edges say"), make("th", {}, "measured")),
        ...found.rows.map(([name, said, measuredAs]) => row(name, signed(said), signed(measuredAs))))] : []),
      ...(found.tokens ? [make("table", { className: "numbers" },
        make("tr", {}, make("th", {}, "next token"), make("th", {}, "before"), make("th", {}, "after")),
        ...found.tokens.map(([token, after, before]) => row(quotedToken(token), number(before), number(after))))] : []),
    ];
  }

  function drawMeasured() {
    if (about.intervenes && !about.saved) return refill(measured, ...intervention());
    measured.hidden = Boolean(about.shares) && !about.saved;
    if (about.shares) return refill(measured, make("p", { className: "soft" }, about.saved));
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
  function edgeTable(title, edges, end, shown, named) {
    if (!edges.length) return [];
    const place = (edge) => shown.nodes.get(edge[end]);
    const by = {
      node: (a, b) => place(b).row - place(a).row || (place(a).column ?? 0) - (place(b).column ?? 0),
      score: (a, b) => Math.abs(b.score) - Math.abs(a.score),
      share: (a, b) => b.share - a.share,
    }[sorting];
    const ordered = [...edges].sort(by);
    const listed = all ? ordered : ordered.slice(0, LISTED);
    const head = (name, text, what) => make("th", { scope: "col", "aria-sort": sorting === name ? "descending" : "none" },
      button(text, `Sort by ${what}`, () => (sorting = name, actions.redraw()), { className: "link" }));
    const measuredAs = edges.some((edge) => edge.parts.some((part) => part.measured));
    const note = (edge) => edge.parts.length > 1 ? `${edge.parts.length} edges` : (edge.parts[0].measured ?? "");
    return [make("table", { className: "edges" }, make("caption", {}, `${title}: ${edges.length} ${edges.length === 1 ? "edge" : "edges"}`),
      make("tr", {}, head("node", "node", "place"), make("th", {}, measuredAs ? "measured" : ""), head("score", about.shares ? "weight" : "score", "size"), head("share", "share", about.shares ? "share of the absolute weights of all edges into the target, drawn or not" : "share of the absolute scores of all edges into the target, drawn or not")),
      ...listed.map((edge) => make("tr", { className: edge.holds === false ? "loose" : "" },
        make("td", {}, button(named(edge[end]), `Show ${named(edge[end])}`, () => actions.choose(edge[end], false), { className: "link" })),
        make("td", { className: "soft" }, edge.reader ? `as ${READS[edge.reader]}` : note(edge)),
        make("td", {}, number(edge.score)), make("td", {}, `${percent(edge.share)} %`)))),
      ...(edges.length > LISTED ? [button(all ? "Fewer" : `All ${edges.length}`, `${all ? "Fewer" : "All"} edges (${title})`, () => (all = !all, actions.redraw()))] : [])];
  }

  function drawDetail(node, shown, answer, prompt) {
    if (!node) {
      return refill(detail, make("h3", {}, "Detail"),
        make("p", { className: "soft" }, "Click a node to see what it does."));
    }
    const nameOf = (id) => shown.nodes.get(id)?.name ?? shown.nodes.get(id)?.label ?? id;
    const { columns, by_position: byPosition } = state.graph();
    const named = (id) => {
      const { position, name } = shown.nodes.get(id) ?? {};
      return byPosition && typeof position === "number" && !name ? `${nameOf(id)} at ${position} ${quotedToken(columns[position])}` : nameOf(id);
    };
    const parts = [
      make("h3", {}, actions.describe(node)[0]),
      make("p", { className: "soft" }, actions.describe(node).slice(1).join(" · ")),
      ...edgeTable("It reads from", shown.edges.filter((edge) => edge.target === node.id), "source", shown, named),
      ...edgeTable("It writes to", shown.edges.filter((edge) => edge.source === node.id), "target", shown, named),
    ];
    if (node.kind === "group") {
      parts.push(make("table", { className: "numbers" }, make("caption", {}, "members"),
        ...node.members.map((member) => make("tr", {}, make("td", {}, member.name ?? member.id), make("td", {}, number(member.score))))));
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

  function draw(shown, focused, answer) {
    if (opened === 0) {
      drawSelection(shown);
      drawMeasured();
      drawDetail(shown.nodes.get(focused.id) ?? null, shown, answer, focused.prompt);
    } else if (opened === 1) list.draw(shown);
    else view.draw();
  }

  return { root, draw, open, find: () => (open(1), list.find()) };
}

// All nodes that are drawn, with a search that also marks them in the graph.
function makeList(state, actions) {
  const search = make("input", { type: "search", placeholder: "Find a node: name, token, layer …", "aria-label": "Find a node" });
  const rows = make("div", { className: "rows-of-nodes" });
  const said = make("p", { className: "soft", role: "status" });
  const root = make("section", { className: "list", role: "tabpanel" }, search, said, rows);
  let by = "size";
  const sort = make("select", { "aria-label": "Order of the list" },
    ...[["size", "largest first"], ["place", "from the top down"], ["label", "by name"]].map(([value, text]) => make("option", { value }, text)));
  sort.onchange = () => (by = sort.value, actions.redraw());
  search.after(sort);
  search.oninput = () => {
    state.keep({ search: search.value.trim().toLowerCase() });
    actions.redraw();
  };
  function draw(shown) {
    const orders = {
      size: (a, b) => Math.abs(b.score) - Math.abs(a.score),
      place: (a, b) => b.row - a.row || (a.column ?? 0) - (b.column ?? 0),
      label: (a, b) => actions.describe(a)[0].localeCompare(actions.describe(b)[0], undefined, { numeric: true }),
    };
    const found = [...shown.nodes.values()].filter(actions.matches).sort(orders[by]);
    const chosen = new Set(state.get("selection"));
    said.textContent = `${found.length} of ${shown.nodes.size}`;
    refill(rows, ...found.map((node) => button("", actions.describe(node).join(", "), (event) => {
      actions.choose(node.id, event.shiftKey || event.ctrlKey || event.metaKey);
    }, { className: `row${node.members.every((m) => chosen.has(m.id)) ? " chosen" : ""}` })));
    [...rows.children].forEach((row, i) => row.append(
      make("i", { className: `node dot ${found[i].kind}` }), make("span", {}, actions.describe(found[i])[0]),
      make("small", {}, found[i].text || actions.describe(found[i])[1] || "")));
  }
  return { root, draw, find: () => search.focus() };
}

function makeViewText(state, actions) {
  const text = make("textarea", { rows: 14, spellcheck: false, "aria-label": "State of the view as JSON" });
  const said = make("p", { className: "soft", role: "status" });
  const copy = async () => {
    text.select();
    try {
      await navigator.clipboard.writeText(text.value);
      said.textContent = "Copied.";
    } catch {
      said.textContent = "Marked: copy it with Ctrl+C.";
    }
  };
  const restore = () => {
    try {
      state.change(viewFromText(text.value, state.graph(), state.get("about").shares));
      said.textContent = "Restored.";
    } catch (error) {
      said.textContent = `Not restored: ${error.message}.`;
    }
  };
  const root = make("section", { className: "view", role: "tabpanel" },
    make("p", { className: "soft" }, "Pins, supernodes, thresholds and selection. Paste another state and restore it; in Python: explorer.restore(text)."),
    text,
    make("div", { className: "actions" }, button("Copy", "Copy the state", copy), button("Restore", "Show what the text says", restore)), said);
  return { root, draw: () => text.getRootNode().activeElement !== text && (text.value = viewAsText(state)) };
}

const READS = { q: "query", k: "key", v: "value" };
