// The picture: a canvas of edges under buttons for nodes, panned and zoomed together, with the names of rows and columns
// along its sides, which move only one way and keep their size.

const ZOOM = { least: 0.08, most: 4, step: 1.25 };
const MARGIN = { left: 84, top: 14, right: 20, bottom: 84 };
const NARROW = { left: 62, top: 10, right: 12, bottom: 74 };
const APART = { rows: 14, columns: 17 };
// While the picture moves, the canvases move as they are. They reach beyond the sides by this share, and are drawn anew at
// rest, or when moved so far that an end would show, or zoomed so far that it would.
const OVER = 0.25;
const REST_MS = 150;

function makeStage(state, actions) {
  // What stands out has a canvas of its own, so that pointing at a node draws a few edges and not all.
  const [canvas, outCanvas] = [0, 1].map(() => make("canvas", { "aria-hidden": "true" }));
  const layer = make("div", { className: "nodes" });
  const [rowAxis, columnAxis] = [0, 1].map(() => make("div"));
  const tip = make("div", { className: "tip", hidden: true, role: "status" });
  const box = make("div", { className: "box", hidden: true });
  const root = make(
    "div",
    { className: "stage", tabIndex: -1, role: "group", "aria-label": "Graph of the circuit, from the input up" },
    canvas, outCanvas, layer,
    make("div", { className: "rows", "aria-hidden": "true" }, rowAxis),
    make("div", { className: "columns", "aria-hidden": "true" }, columnAxis),
    box, tip,
  );
  const [edges, outEdges] = [canvas, outCanvas].map(makeEdges);
  const at = { x: 0, y: 0, k: 1 };
  let drawnAt = { ...at };
  let arrangementNumber = 0;
  let spread = null; // how the names along the sides stand
  let fitted = true; // nobody has moved or zoomed the graph
  let shown = { nodes: new Map(), edges: [] };
  let arrangement = null;
  let graph = null;
  let buttons = new Map();
  let colours = {};
  let hovered = null;
  let most = 1;
  let dots = false;
  let current = null; // the node that Tab comes to

  function place() {
    layer.style.transform = `translate(${at.x}px, ${at.y}px) scale(${at.k})`;
    rowAxis.style.transform = `translateY(${at.y}px)`;
    columnAxis.style.transform = `translateX(${at.x}px)`;
    const how = `${at.k} ${arrangement.number}`;
    if (spread !== how) {
      spread = how;
      spreadNames(rowAxis, arrangement.rows, arrangement.fullRows, "top", APART.rows);
      spreadNames(columnAxis, arrangement.columns, arrangement.fullColumns, "left", APART.columns);
    }
    const grown = at.k / drawnAt.k;
    for (const one of [canvas, outCanvas])
      one.style.transform = `translate(${at.x - grown * drawnAt.x}px, ${at.y - grown * drawnAt.y}px) scale(${grown})`;
  }

  // Names that would lie on each other give way, those of rows and columns without a node first.
  function spreadNames(axis, places, full, side, apart) {
    const shownAt = [];
    const free = (x) => shownAt.every((other) => Math.abs(other - x) >= apart);
    const kept = new Set();
    for (const want of [true, false]) {
      let last = -Infinity;
      places.forEach((place, i) => {
        const x = at.k * place;
        if (full.has(i) !== want || (want ? Math.abs(x - last) < apart : !free(x))) return;
        last = x;
        kept.add(i);
        shownAt.push(x);
      });
    }
    [...axis.children].forEach((name, i) => {
      name.style[side] = `${at.k * places[i]}px`;
      name.hidden = !kept.has(i);
    });
  }

  function strokeAll() {
    if (!arrangement) return;
    drawnAt = { ...at };
    const [x, y] = [at.x + OVER * root.clientWidth, at.y + OVER * root.clientHeight];
    for (const one of [edges, outEdges]) one.draw({ x, y, k: at.k }, colours);
    place();
  }
  const draw = oncePerFrame(strokeAll);

  // A layer of its own moves without being painted again, and is blurred by zooming until it is.
  let resting = 0;
  function move() {
    fitted = false;
    root.classList.add("moved");
    layer.style.willChange = "transform";
    clearTimeout(resting);
    resting = setTimeout(() => {
      layer.style.willChange = "";
      draw();
    }, REST_MS);
    const grown = at.k / drawnAt.k;
    const far = Math.max(Math.abs(at.x - grown * drawnAt.x) / root.clientWidth, Math.abs(at.y - grown * drawnAt.y) / root.clientHeight);
    if (grown > 1.6 || grown < 0.6 || far > OVER) draw();
    else placeSoon();
  }
  const placeSoon = oncePerFrame(() => arrangement && place());

  const margin = () => (root.clientWidth < 520 ? NARROW : MARGIN);
  // Between the axes; something where the page has no size yet.
  function room() {
    const { left, right, top, bottom } = margin();
    return { x: (root.clientWidth || 900) - left - right, y: (root.clientHeight || 560) - top - bottom };
  }

  function fit() {
    fitted = true;
    root.classList.remove("moved");
    if (!arrangement || !root.clientWidth) return;
    const { left, top } = margin();
    const { x, y } = room();
    at.k = Math.max(ZOOM.least, Math.min(1, x / arrangement.width, y / arrangement.height));
    at.x = left + (x - at.k * arrangement.width) / 2;
    at.y = top + (y - at.k * arrangement.height) / 2;
    draw();
  }

  function zoom(factor, x = root.clientWidth / 2, y = root.clientHeight / 2) {
    const k = Math.max(ZOOM.least, Math.min(ZOOM.most, at.k * factor));
    Object.assign(at, { x: x - ((x - at.x) * k) / at.k, y: y - ((y - at.y) * k) / at.k, k });
    move();
  }

  function pan(x, y) {
    at.x += x;
    at.y += y;
    move();
  }

  const where = (event) => {
    const frame = root.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  const inGraph = ([x, y]) => [(x - at.x) / at.k, (y - at.y) / at.k];

  function showTip(lines, [x, y]) {
    tip.replaceChildren(...lines.map((line, i) => make(i ? "div" : "b", {}, line)));
    tip.hidden = false;
    const left = x + 14 + tip.offsetWidth > root.clientWidth ? x - tip.offsetWidth - 10 : x + 14;
    const top = Math.min(y + 14, root.clientHeight - tip.offsetHeight - 4);
    Object.assign(tip.style, { left: `${Math.max(0, left)}px`, top: `${Math.max(0, top)}px` });
  }

  function hover(id) {
    if (hovered === id) return;
    hovered = id;
    lightUp();
  }

  function lightUp() {
    const lit = new Set(hovered === null ? [] : [hovered]);
    for (const id of state.get("selection")) lit.add(state.groupOf(id) ?? id);
    outEdges.set(lit.size ? shown.edges.filter((edge) => lit.has(edge.source) || lit.has(edge.target)) : [], most);
    canvas.style.opacity = lit.size ? 0.14 : 0.6;
    strokeOut();
  }
  const strokeOut = oncePerFrame(() => {
    const [x, y] = [drawnAt.x + OVER * root.clientWidth, drawnAt.y + OVER * root.clientHeight];
    outEdges.draw({ x, y, k: drawnAt.k }, colours);
  });

  function nodeButton(node) {
    const made = make("button", { type: "button", className: `node ${node.kind}`, tabIndex: -1 });
    made.dataset.id = node.id;
    made.onclick = (event) => {
      made.focus({ preventScroll: true });
      actions.choose(node.id, event.shiftKey || event.ctrlKey || event.metaKey);
    };
    made.onpointerenter = () => {
      hover(node.id);
      const { x, y } = shown.nodes.get(node.id);
      showTip(actions.describe(shown.nodes.get(node.id)), [at.x + at.k * (x + made.offsetWidth / 2), at.y + at.k * y]);
    };
    made.onpointerleave = () => {
      hover(null);
      tip.hidden = true;
    };
    made.onfocus = () => {
      setCurrent(node.id);
      const { x, y } = shown.nodes.get(node.id);
      const [px, py] = [at.x + at.k * x, at.y + at.k * y];
      const inside = { x: Math.min(Math.max(px, margin().left), root.clientWidth - 12) };
      inside.y = Math.min(Math.max(py, 12), root.clientHeight - margin().bottom);
      if (inside.x !== px || inside.y !== py) pan(inside.x - px, inside.y - py);
    };
    return made;
  }

  function setCurrent(id) {
    buttons.get(current)?.setAttribute("tabindex", -1);
    current = buttons.has(id) ? id : (buttons.keys().next().value ?? null);
    buttons.get(current)?.setAttribute("tabindex", 0);
  }

  function update(newGraph, newArrangement, newShown, newMost, asDots) {
    const other = newGraph !== graph;
    [graph, arrangement, shown, most, dots] = [newGraph, newArrangement, newShown, newMost, asDots];
    root.classList.toggle("dots", dots);
    const things = [...shown.nodes.values()];
    arrangement.number = (arrangementNumber += 1);
    arrangement.fullRows = new Set(things.map((node) => node.row));
    arrangement.fullColumns = new Set(things.map((node) => node.column));
    if (other) {
      rowAxis.replaceChildren(...graph.rows.map((name) => make("span", {}, name)));
      columnAxis.replaceChildren(
        ...graph.columns.map((name, i) =>
          make("span", { title: graph.by_position ? `position ${i}` : name },
            make("span", {}, graph.by_position ? quotedToken(name) : name,
              ...(graph.by_position ? [make("small", {}, ` ${i}`)] : [])))),
      );
    }
    const strongest = things.reduce((top, node) => Math.max(top, Math.abs(node.score)), 1e-12);
    const selection = new Set(state.get("selection"));
    const pinned = new Set(state.get("pinned"));
    const now = new Map();
    for (const node of shown.nodes.values()) {
      const made = buttons.get(node.id) ?? nodeButton(node);
      const share = node.size ?? Math.abs(node.score) / strongest;
      const asDot = dots && !isWide(node);
      const chosen = node.members.every((member) => selection.has(member.id));
      const marks = {
        negative: node.score < 0,
        zero: node.score === 0,
        faint: node.faint && !chosen,
        chosen,
        pinned: node.members.some((member) => pinned.has(member.id)),
        dot: asDot,
        found: state.get("search") !== "" && actions.matches(node),
      };
      const names = ["node", node.kind, ...Object.keys(marks).filter((name) => marks[name])].join(" ");
      // Most stay as they are, and writing costs more than comparing.
      if (made.className !== names) made.className = names;
      // The ink of a box is read on its tone: half of it at most.
      const look = `${Math.round(8 + (asDot ? 77 : 42) * share)}%|${node.x}|${node.y}|${asDot}|${node.width}|${node.label}`;
      if (made.dataset.look !== look) {
        made.dataset.look = look;
        made.style.setProperty("--share", look.split("|")[0]);
        made.style.setProperty("--size", asDot ? `${Math.round(DOT.least + (DOT.most - DOT.least) * Math.sqrt(share))}px` : "");
        made.style.width = `${asDot ? DOT.cell - 2 : node.width - BOX.gap}px`;
        made.style.height = asDot ? `${DOT.cell - 2}px` : "";
        made.style.transform = `translate(${node.x}px, ${node.y}px) translate(-50%, -50%)`;
        made.textContent = asDot ? "" : node.label;
      }
      const label = actions.describe(node).join(", ");
      if (made.ariaLabel !== label) made.ariaLabel = label;
      if (made.ariaPressed !== String(chosen)) made.ariaPressed = String(chosen);
      now.set(node.id, made);
    }
    for (const [id, made] of buttons) if (!now.has(id)) made.remove();
    for (const [id, made] of now) if (!buttons.has(id)) layer.append(made);
    buttons = now;
    setCurrent(current);
    edges.set(shown.edges, most);
    lightUp();
    if (other || fitted) fit();
    else draw();
  }

  // Pan by dragging the ground; with Shift, select what the dragged box holds.
  let drag = null;
  const fingers = new Map();
  const spread2 = () => {
    const [[ax, ay], [bx, by]] = [...fingers.values()];
    return { apart: Math.hypot(ax - bx, ay - by), x: (ax + bx) / 2, y: (ay + by) / 2 };
  };
  root.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    fingers.set(event.pointerId, where(event));
    if (fingers.size === 2) drag = null;
  });
  for (const gone of ["pointerup", "pointercancel", "lostpointercapture"])
    root.addEventListener(gone, (event) => fingers.delete(event.pointerId));
  root.onpointercancel = () => (drag = null);
  root.onpointerdown = (event) => {
    if (fingers.size > 1) return;
    if (event.button !== 0 || event.target.closest("button")) return;
    drag = { from: where(event), last: where(event), boxed: event.shiftKey, moved: false };
    root.setPointerCapture(event.pointerId);
    event.preventDefault();
    root.focus({ preventScroll: true });
  };
  root.onpointermove = (event) => {
    const now = where(event);
    if (fingers.size === 2 && fingers.has(event.pointerId)) {
      const before = spread2();
      fingers.set(event.pointerId, now);
      const after = spread2();
      pan(after.x - before.x, after.y - before.y);
      return zoom(after.apart / Math.max(1, before.apart), after.x, after.y);
    }
    if (drag) {
      const [x, y] = [now[0] - drag.last[0], now[1] - drag.last[1]];
      drag.moved ||= Math.hypot(now[0] - drag.from[0], now[1] - drag.from[1]) > 3;
      drag.last = now;
      tip.hidden = true;
      if (!drag.boxed) return pan(x, y);
      const [left, top] = [0, 1].map((i) => Math.min(now[i], drag.from[i]));
      const [width, height] = [0, 1].map((i) => Math.abs(now[i] - drag.from[i]));
      box.hidden = false;
      Object.entries({ left, top, width, height }).forEach(([name, size]) => (box.style[name] = `${size}px`));
      return;
    }
    if (event.target.closest("button")) return;
    const edge = edges.at(...inGraph(now), 6 / at.k);
    tip.hidden = !edge;
    if (edge) showTip(actions.describeEdge(edge), now);
  };
  root.onpointerup = (event) => {
    if (!drag) return;
    const [first, last] = [inGraph(drag.from), inGraph(where(event))];
    const { boxed, moved } = drag;
    drag = null;
    box.hidden = true;
    if (!moved) return actions.clear();
    if (!boxed) return;
    const within = (value, i) => value >= Math.min(first[i], last[i]) && value <= Math.max(first[i], last[i]);
    actions.chooseAll([...shown.nodes.values()].filter((node) => within(node.x, 0) && within(node.y, 1)));
  };
  root.onpointerleave = () => (tip.hidden = true);
  // A plain wheel scrolls the notebook.
  root.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), ...where(event));
  }, { passive: false });

  const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
  root.addEventListener("keydown", (event) => {
    const way = ARROWS[event.key];
    if (!way || event.altKey) return;
    event.preventDefault();
    const here = shown.nodes.get(event.target.dataset?.id);
    if (!here) return pan(-60 * way[0], -60 * way[1]);
    // The nearest node that way; what lies to the side counts double.
    let best = null;
    let least = Infinity;
    for (const node of shown.nodes.values()) {
      const [x, y] = [node.x - here.x, node.y - here.y];
      const ahead = x * way[0] + y * way[1];
      const aside = Math.abs(x * way[1]) + Math.abs(y * way[0]);
      if (ahead > 1 && ahead + 2 * aside < least) [best, least] = [node.id, ahead + 2 * aside];
    }
    if (best !== null) buttons.get(best).focus({ preventScroll: true });
  });

  const resized = new ResizeObserver(() => actions.redraw());
  resized.observe(root);

  return {
    root, update, fit, zoom, pan, draw, room,
    focus: (id) => buttons.get(id)?.focus({ preventScroll: true }),
    recolour() {
      const style = getComputedStyle(root);
      colours = Object.fromEntries(["positive", "negative", "loose"].map((name) => [name, style.getPropertyValue(`--${name}`)]));
      draw();
    },
    stop() {
      resized.disconnect();
      clearTimeout(resting);
    },
  };
}
