// Where nodes stand, and what is shown of a graph: rows are stages from the input at the bottom up, columns are positions
// or components, and nodes of one cell stand side by side.

const NODE = { width: 52, height: 22, gap: 8 };
const PER_LINE = { byPosition: 2, byComponent: 4 };
const EMPTY_COLUMN = 30;
const SHAPE = { ratio: 1.35, gap: 34, widestGap: 120 };

function arrange(graph) {
  const perLine = graph.by_position ? PER_LINE.byPosition : PER_LINE.byComponent;
  const cells = new Map();
  for (const node of graph.nodes) {
    const key = `${node.row}/${node.column}`;
    cells.set(key, [...(cells.get(key) ?? []), node]);
  }
  const widest = graph.columns.map(() => 0);
  const lines = graph.rows.map(() => 1);
  for (const members of cells.values()) {
    const { row, column } = members[0];
    if (column !== null) widest[column] = Math.max(widest[column], Math.min(members.length, perLine));
    lines[row] = Math.max(lines[row], Math.ceil(members.length / perLine));
  }
  let edge = 0;
  const columns = widest.map((count) => {
    const width = count ? count * (NODE.width + NODE.gap) + 10 : EMPTY_COLUMN;
    edge += width;
    return edge - width / 2;
  });
  const width = Math.max(edge, 240);
  // A wide graph is also drawn higher, or its edges would lie flat.
  const heights = lines.map((count) => count * (NODE.height + NODE.gap));
  const room = width / SHAPE.ratio - heights.reduce((sum, height) => sum + height, 0);
  const gap = Math.max(SHAPE.gap, Math.min(SHAPE.widestGap, room / lines.length));
  let top = 0;
  const rows = new Array(lines.length);
  for (let row = lines.length - 1; row >= 0; row--) {
    const height = heights[row] + gap;
    rows[row] = top + height / 2;
    top += height;
  }
  const places = new Map();
  for (const members of cells.values()) {
    const { row, column } = members[0];
    const count = Math.ceil(members.length / perLine);
    members.forEach((node, i) => {
      const inLine = Math.min(perLine, members.length - perLine * Math.floor(i / perLine));
      places.set(node.id, {
        x: (column === null ? width / 2 : columns[column]) + ((i % perLine) - (inLine - 1) / 2) * (NODE.width + NODE.gap),
        y: rows[row] + (Math.floor(i / perLine) - (count - 1) / 2) * (NODE.height + NODE.gap),
      });
    });
  }
  return { places, columns, rows, width, height: top };
}

// Nodes and edges as they are drawn: groups in their members' place, weak ones left out, what is pinned kept.
function visible(graph, arrangement, state, onlyPinned) {
  const pinned = new Set(state.get("pinned"));
  const owner = new Map();
  for (const [name, members] of Object.entries(state.get("groups"))) members.forEach((id) => owner.set(id, name));
  const nodes = new Map();
  for (const node of graph.nodes) {
    const name = owner.get(node.id);
    const always = pinned.has(node.id) || name !== undefined || node.kind === "embed" || node.kind === "logits";
    if (onlyPinned ? !pinned.has(node.id) : !always && Math.abs(node.score) < state.get("node_threshold")) continue;
    const place = arrangement.places.get(node.id);
    if (name === undefined) {
      nodes.set(node.id, { ...node, ...place, members: [node] });
    } else if (nodes.has(name)) {
      nodes.get(name).members.push(node);
    } else {
      nodes.set(name, { id: name, kind: "group", label: name, members: [node], row: node.row });
    }
  }
  for (const node of nodes.values()) {
    if (node.kind !== "group") continue;
    const at = node.members.map((member) => arrangement.places.get(member.id));
    node.x = at.reduce((sum, place) => sum + place.x, 0) / at.length;
    node.y = at.reduce((sum, place) => sum + place.y, 0) / at.length;
    node.score = node.members.reduce((sum, member) => sum + member.score, 0);
  }
  const edges = new Map();
  let count = 0;
  for (const edge of graph.edges) {
    const [source, target] = [edge.source, edge.target].map((id) => owner.get(id) ?? id);
    if (source === target || !nodes.has(source) || !nodes.has(target)) continue;
    const kept = pinned.has(edge.source) && pinned.has(edge.target);
    if (!kept && Math.abs(edge.score) < state.get("threshold")) continue;
    count += 1;
    // Parallel edges of a group are one; those into a head keep apart by what they are read as.
    const grouped = owner.has(edge.source) || owner.has(edge.target);
    const key = `${source}\n${target}\n${grouped ? "" : edge.reader}`;
    const merged = edges.get(key) ?? { source, target, reader: grouped ? "" : edge.reader, score: 0, parts: [] };
    merged.score += edge.score;
    merged.parts.push(edge);
    edges.set(key, merged);
  }
  for (const node of nodes.values()) Object.assign(node, { into: 0, out: 0 });
  for (const { source, target } of edges.values()) {
    nodes.get(source).out += 1;
    nodes.get(target).into += 1;
  }
  for (const node of nodes.values())
    node.faint = graph.edges.length > 0 && node.into + node.out === 0 && !pinned.has(node.id);
  for (const edge of edges.values()) edge.curve = curve(nodes.get(edge.source), nodes.get(edge.target), edge.reader);
  return { nodes, edges: [...edges.values()], count };
}

const READERS = { q: -14, k: 0, v: 14 };

// Control points of a cubic curve from the top of one node to the bottom of another. One that would run through the nodes
// of its own column swings out.
function curve(from, to, reader) {
  const [x0, y0] = [from.x, from.y - NODE.height / 2];
  const [x3, y3] = [to.x + (READERS[reader] ?? 0), to.y + NODE.height / 2];
  const out = Math.abs(x3 - x0) < NODE.width / 2 && y0 - y3 > 90 ? 30 + (y0 - y3) / 14 : 0;
  const bend = Math.max(16, (y0 - y3) * (out ? 0.25 : 0.5));
  return [x0, y0, x0 + out, y0 - bend, x3 + out, y3 + bend, x3, y3];
}

function along([x0, y0, x1, y1, x2, y2, x3, y3], t) {
  const s = 1 - t;
  const [a, b, c, d] = [s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t];
  return [a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3];
}
