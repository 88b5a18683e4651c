// Edges on a canvas, in a few strokes: some of one colour and about one width are one path. Those that were measured and do
// not hold are grey.

const WIDTHS = 8;
// A path of hundreds of curves takes longer to fill than the same curves in several.
const CURVES = 16;

function edgeWidth(score, most) {
  return 0.6 + 5.4 * Math.min(1, Math.abs(score) / most);
}

function makeEdges(canvas) {
  const pen = canvas.getContext("2d");
  let strokes = [];
  let drawn = [];

  function strokesOf(edges, most) {
    const strokes = [];
    const open = new Map();
    for (const edge of edges) {
      const step = Math.round((WIDTHS - 1) * Math.min(1, Math.abs(edge.score) / most));
      const colour = edge.holds === false ? "loose" : edge.score < 0 ? "negative" : "positive";
      const key = `${colour} ${step}`;
      let stroke = open.get(key);
      if (!stroke || stroke.curves === CURVES) {
        open.set(key, (stroke = { path: new Path2D(), colour, step, curves: 0 }));
        strokes.push(stroke);
      }
      const [x0, y0, ...rest] = edge.curve;
      const { path } = stroke;
      stroke.curves += 1;
      path.moveTo(x0, y0);
      path.bezierCurveTo(...rest);
    }
    return strokes.sort((a, b) => a.step - b.step);
  }

  function set(edges, most) {
    drawn = edges;
    strokes = strokesOf(edges, most);
  }

  function draw({ x, y, k }, colours) {
    const ratio = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.setTransform(ratio * k, 0, 0, ratio * k, ratio * x, ratio * y);
    const weakest = drawn.length > 300 ? Math.max(0.16, 0.5 * Math.sqrt(300 / drawn.length)) : 0.6;
    for (const { path, colour, step } of strokes) {
      pen.strokeStyle = colours[colour];
      // Thousands of weak edges would hide the strong ones.
      pen.globalAlpha = Math.max(weakest, Math.sqrt(step / (WIDTHS - 1)));
      // Lines of a graph seen from afar would vanish.
      pen.lineWidth = edgeWidth(step / (WIDTHS - 1), 1) / Math.min(1, Math.sqrt(k));
      pen.stroke(path);
    }
  }

  // The nearest edge within a few pixels of a point of the graph.
  function at(x, y, reach) {
    let best = null;
    let least = reach;
    for (const edge of drawn) {
      const [x0, y0, x1, , x2, , x3, y3] = edge.curve;
      if (x < Math.min(x0, x1, x2, x3) - reach || x > Math.max(x0, x1, x2, x3) + reach) continue;
      if (y < y3 - reach || y > y0 + reach) continue;
      for (let t = 0; t <= 1; t += 1 / 24) {
        const [px, py] = along(edge.curve, t);
        const away = Math.hypot(px - x, py - y);
        if (away < least) [best, least] = [edge, away];
      }
    }
    return best;
  }

  return { set, draw, at };
}
