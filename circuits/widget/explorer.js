// Draws a circuit, layer by layer, and keeps the selection in step with Python. Names come from the data and are set as
// text, never as HTML.
const SVG = "http://www.w3.org/2000/svg";
const GAP = { x: 84, y: 70 };

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function control(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

// Rows from the input at the bottom to the logits at the top; heads side by side, rows centred. MLPs stand in a column of
// their own, or edges that pass a row by would run through them.
function layout(nodes) {
  const rows = new Map();
  for (const node of nodes) rows.set(node.stage, [...(rows.get(node.stage) ?? []), node]);
  const stages = [...rows.keys()].sort((a, b) => a - b);
  const middle = Math.max(...stages.map((stage) => rows.get(stage).length)) * GAP.x;
  const places = new Map();
  stages.forEach((stage, row) => {
    const members = rows.get(stage);
    members.forEach((node, column) => {
      const centred = middle / 2 + (column - (members.length - 1) / 2) * GAP.x;
      const x = Number.isInteger(stage) ? centred : middle + GAP.x / 2;
      places.set(node.id, { x, y: (stages.length - row - 0.5) * GAP.y });
    });
  });
  return { places, width: middle + GAP.x, height: stages.length * GAP.y };
}

function render({ model, el }) {
  const { nodes, edges } = model.get("graph");
  const most = Math.max(1e-12, ...edges.map((edge) => Math.abs(edge.score)));
  const { places, width, height } = layout(nodes);
  const history = [];

  el.classList.add("deepfield-explorer");
  const bar = el.appendChild(control("div", { className: "bar" }));
  const label = bar.appendChild(control("label", { textContent: "edges from " }));
  const slider = label.appendChild(
    control("input", { type: "range", min: 0, max: 1, step: 0.001, value: model.get("threshold") / most }),
  );
  slider.setAttribute("aria-label", "least absolute score of an edge");
  const count = bar.appendChild(control("span", { className: "count" }));
  const undo = bar.appendChild(control("button", { textContent: "Undo", type: "button" }));
  const clear = bar.appendChild(control("button", { textContent: "Clear", type: "button" }));
  const metric = bar.appendChild(control("span", { className: "metric" }));
  const svg = el.appendChild(element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" }));
  const detail = el.appendChild(control("div", { className: "detail", textContent: "Point at a node or an edge." }));

  const lines = edges.map((edge) => {
    const from = places.get(edge.source);
    const to = places.get(edge.target);
    const bend = (from.y + to.y) / 2;
    const line = element("path", {
      d: `M${from.x},${from.y} C${from.x},${bend} ${to.x},${bend} ${to.x},${to.y}`,
      class: edge.score < 0 ? "edge negative" : "edge",
      "stroke-width": 0.6 + (6 * Math.abs(edge.score)) / most,
    });
    line.addEventListener("pointerenter", () => {
      detail.textContent = `${edge.source} → ${edge.reader}: ${edge.score.toPrecision(4)}`;
    });
    return svg.appendChild(line);
  });
  const circles = nodes.map((node) => {
    const place = places.get(node.id);
    const group = svg.appendChild(element("g", { class: "node", tabindex: 0, "data-id": node.id }));
    group.append(
      element("circle", { cx: place.x, cy: place.y, r: 9 }),
      element("text", { x: place.x, y: place.y + 24, "text-anchor": "middle" }, node.id),
    );
    const describe = () => {
      detail.textContent = `${node.id}: ${node.score.toPrecision(4)}`;
    };
    group.addEventListener("pointerenter", describe);
    group.addEventListener("focus", describe);
    group.addEventListener("click", () => toggle(node.id));
    group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") toggle(node.id);
    });
    return group;
  });

  function select(chosen) {
    model.set("selection", chosen);
    model.save_changes();
    draw();
  }
  function toggle(id) {
    const now = model.get("selection");
    history.push(now);
    select(now.includes(id) ? now.filter((other) => other !== id) : [...now, id]);
  }
  function draw() {
    const threshold = model.get("threshold");
    const chosen = new Set(model.get("selection"));
    let shown = 0;
    edges.forEach((edge, i) => {
      const visible = Math.abs(edge.score) >= threshold;
      shown += visible;
      lines[i].style.display = visible ? "" : "none";
      lines[i].classList.toggle("chosen", chosen.has(edge.source) || chosen.has(edge.target));
    });
    circles.forEach((group) => group.classList.toggle("chosen", chosen.has(group.dataset.id)));
    count.textContent = `${threshold.toPrecision(3)} · ${shown} of ${edges.length} shown`;
    undo.disabled = history.length === 0;
    metric.textContent = model.get("metric");
  }
  slider.addEventListener("input", () => {
    model.set("threshold", slider.value * most);
    model.save_changes();
    draw();
  });
  undo.addEventListener("click", () => history.length && select(history.pop()));
  clear.addEventListener("click", () => {
    history.push(model.get("selection"));
    select([]);
  });
  for (const name of ["selection", "threshold", "metric"]) model.on(`change:${name}`, draw);
  draw();
}

export default { render };
