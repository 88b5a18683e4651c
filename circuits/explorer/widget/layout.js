// Where things stand: rows are stages from the input at the bottom up, columns are positions or components. Only what is
// shown takes room, what stands in one cell flows side by side and then upwards, and the whole fills the canvas.

const TOUCH = globalThis.matchMedia?.("(pointer: coarse)").matches ?? false;
const BOX = { width: 52, height: 22, gap: 8 };
const DOT = { least: 6, most: 15, cell: TOUCH ? 27 : 18 };
const COLUMN = { label: 20, least: 1.5, gap: 6 };
const ROW = { label: 15, gap: 20 };
const LETTER = 6.8;
// How wide a cell may become, in cells of one thing: the widest first.
const LIMITS = [10, 7, 5, 4, 3, 2, 1];

const isWide = (node) => node.kind === "group" || node.kind === "target";

// What a thing takes, its distance to others included.
function sizeOf(node, dots) {
  if (isWide(node)) {
    const width = Math.max(BOX.width, Math.min(180, (node.kind === "group" ? 36 : 22) + LETTER * node.label.length));
    return { width: width + BOX.gap, height: (node.kind === "group" ? 28 : BOX.height) + BOX.gap };
  }
  return dots ? { width: DOT.cell, height: DOT.cell } : { width: BOX.width + BOX.gap, height: BOX.height + BOX.gap };
}

function flow(items, limit) {
  const lines = [];
  for (const item of items) {
    let line = lines.at(-1);
    if (!line || line.width + item.size.width > limit) lines.push((line = { items: [], width: 0, height: 0 }));
    line.items.push(item);
    line.width += item.size.width;
    line.height = Math.max(line.height, item.size.height);
  }
  return {
    lines,
    width: Math.max(...lines.map((line) => line.width)),
    height: lines.reduce((sum, line) => sum + line.height, 0),
  };
}

// `room` is the canvas between its axes, in pixels.
function arrange(graph, nodes, room, dots) {
  const cells = new Map();
  for (const node of nodes) {
    const key = `${node.row}/${node.column}`;
    if (!cells.has(key)) cells.set(key, { row: node.row, column: node.column, items: [] });
    cells.get(key).items.push({ id: node.id, size: sizeOf(node, dots) });
  }
  let best = null;
  for (const limit of LIMITS) {
    const found = packed(graph, [...cells.values()], limit * (dots ? DOT.cell : BOX.width + BOX.gap), room);
    found.over = Math.max(1, found.width / room.x, found.height / room.y);
    if (!best || found.over < best.over - 1e-9) best = found;
    if (best.over === 1) break;
  }
  // What is too large is drawn smaller, and fills the canvas then.
  return placed(best, { x: room.x * best.over, y: room.y * best.over });
}

function packed(graph, cells, limit, room) {
  const columns = graph.columns.map(() => ({ width: 0 }));
  const rows = graph.rows.map(() => ({ height: 0 }));
  const flows = cells.map((cell) => ({ ...cell, ...flow(cell.items, cell.column === null ? room.x : limit) }));
  let across = 0;
  for (const { row, column, width, height } of flows) {
    if (column === null) across = Math.max(across, width);
    else columns[column].width = Math.max(columns[column].width, width);
    rows[row].height = Math.max(rows[row].height, height);
  }
  for (const column of columns) column.full = column.width > 0;
  const full = columns.filter((column) => column.full);
  for (const column of full) column.width = Math.max(column.width + COLUMN.gap, COLUMN.label);
  // Columns of nothing are as wide as a name if there is room, and give way if there is none.
  const taken = full.reduce((sum, column) => sum + column.width, 0);
  const empty = columns.length - full.length;
  const narrow = empty ? Math.min(COLUMN.label, Math.max(COLUMN.least, (room.x - taken) / empty)) : 0;
  for (const column of columns) if (!column.full) column.width = narrow;
  for (const row of rows) row.height = row.height ? row.height + ROW.gap : ROW.label;
  const width = Math.max(across, taken + empty * narrow);
  return { flows, columns, rows, width, height: rows.reduce((sum, row) => sum + row.height, 0) };
}

function placed({ flows, columns, rows, ...size }, room) {
  const [width, height] = [Math.max(size.width, room.x), Math.max(size.height, room.y)];
  // What is left goes to columns with nodes.
  const within = columns.reduce((sum, column) => sum + column.width, 0);
  const full = columns.filter((column) => column.full).length;
  let edge = 0;
  const across = columns.map((column) => {
    const wide = column.width + (full ? Number(column.full) / full : 1 / columns.length) * (width - within);
    edge += wide;
    return edge - wide / 2;
  });
  const used = rows.filter((row) => row.height > ROW.label).length || 1;
  let top = 0;
  const up = new Array(rows.length);
  for (let row = rows.length - 1; row >= 0; row--) {
    const high = rows[row].height + (rows[row].height > ROW.label ? (height - size.height) / used : 0);
    up[row] = top + high / 2;
    top += high;
  }
  const places = new Map();
  for (const { row, column, lines, height: all } of flows) {
    // What belongs to no column stands in the middle.
    const middle = column === null ? width / 2 : across[column];
    let bottom = up[row] + all / 2;
    for (const line of lines) {
      let left = middle - line.width / 2;
      for (const { id, size: its } of line.items) {
        places.set(id, { x: left + its.width / 2, y: bottom - line.height / 2, width: its.width, height: its.height });
        left += its.width;
      }
      bottom -= line.height;
    }
  }
  return { places, columns: across, rows: up, width, height, over: size.over };
}

// Nodes and edges as they are drawn: groups in their members' place, weak ones left out, what is pinned kept.
function visible(graph, state, onlyPinned) {
  const pinned = new Set(state.get("pinned"));
  const owner = new Map();
  for (const [name, members] of Object.entries(state.get("groups"))) members.forEach((id) => owner.set(id, name));
  const kept = graph.pruner ? graph.pruner(state.get("node_threshold"), state.get("threshold")) : strongEnough(graph, state);
  const nodes = new Map();
  graph.nodes.forEach((node, i) => {
    const name = owner.get(node.id);
    if (onlyPinned ? !pinned.has(node.id) : !kept.stay[i] && !pinned.has(node.id) && name === undefined) return;
    if (name === undefined) nodes.set(node.id, { ...node, members: [node] });
    else if (nodes.has(name)) nodes.get(name).members.push(node);
    else nodes.set(name, { id: name, kind: "group", label: name, members: [node] });
  });
  for (const node of nodes.values()) {
    if (node.kind !== "group") continue;
    node.score = node.members.reduce((sum, member) => sum + member.score, 0);
    // It stands where its middle member stood.
    const middle = [...node.members].sort((a, b) => a.row - b.row)[Math.floor(node.members.length / 2)];
    const columns = node.members.map((member) => member.column).filter((column) => column !== null).sort((a, b) => a - b);
    Object.assign(node, { row: middle.row, column: columns[Math.floor(columns.length / 2)] ?? null });
  }
  const edges = new Map();
  let count = 0;
  graph.edges.forEach((edge, i) => {
    const [source, target] = [edge.source, edge.target].map((id) => owner.get(id) ?? id);
    if (source === target || !nodes.has(source) || !nodes.has(target)) return;
    if (!kept.edges[i] && !(pinned.has(edge.source) && pinned.has(edge.target))) return;
    // What was not measured is not said to hold.
    if (state.get("only_holds") && edge.holds !== true) return;
    count += 1;
    // Parallel edges of a group are one; those into a head keep apart by what they are read as.
    const grouped = owner.has(edge.source) || owner.has(edge.target);
    const key = `${source}\n${target}\n${grouped ? "" : edge.reader}`;
    const merged = edges.get(key) ?? { source, target, reader: grouped ? "" : edge.reader, score: 0, holds: false, parts: [] };
    merged.score += edge.score;
    merged.holds ||= edge.holds !== false;
    merged.parts.push(edge);
    edges.set(key, merged);
  });
  for (const node of nodes.values()) Object.assign(node, { into: 0, out: 0 });
  for (const { source, target } of edges.values()) {
    nodes.get(source).out += 1;
    nodes.get(target).into += 1;
  }
  // Of all that enters the target (or its members), drawn or not.
  const amount = (node) => node.members.reduce((sum, member) => sum + (graph.inputs.get(member.id) ?? 0), 0);
  for (const edge of edges.values()) edge.share = Math.abs(edge.score) / (amount(nodes.get(edge.target)) || 1);
  for (const node of [...nodes.values()]) {
    node.faint = graph.edges.length > 0 && node.into + node.out === 0 && !pinned.has(node.id);
    // A token's name stands below anyway.
    if (node.faint && node.kind === "token") nodes.delete(node.id);
  }
  return { nodes, edges: [...edges.values()], count };
}

function strongEnough(graph, state) {
  const [ofNodes, ofEdges] = [state.get("node_threshold"), state.get("threshold")];
  return {
    stay: graph.nodes.map((node) => node.kind === "embed" || node.kind === "logits" || Math.abs(node.score) >= ofNodes),
    edges: graph.edges.map((edge) => Math.abs(edge.score) >= ofEdges),
  };
}

const READERS = { q: -14, k: 0, v: 14 };

// Control points of a cubic curve from the top of one node to the bottom of another. One that would run through the nodes
// of its own column swings out.
function curve(from, to, reader, dots) {
  const half = (node) => (dots && !isWide(node) ? DOT.most / 3 : BOX.height / 2);
  const [x0, y0] = [from.x, from.y - half(from)];
  const [x3, y3] = [to.x + (dots ? 0 : (READERS[reader] ?? 0)), to.y + half(to)];
  const out = Math.abs(x3 - x0) < BOX.width / 2 && y0 - y3 > 90 ? 30 + (y0 - y3) / 14 : 0;
  const bend = Math.max(16, (y0 - y3) * (out ? 0.25 : 0.5));
  return [x0, y0, x0 + out, y0 - bend, x3 + out, y3 + bend, x3, y3];
}

function along([x0, y0, x1, y1, x2, y2, x3, y3], t) {
  const s = 1 - t;
  const [a, b, c, d] = [s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t];
  return [a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3];
}
