// Pruning of an attribution graph, as circuits.graphs.influence has it: the fewest nodes that hold a share of all influence,
// then the fewest edges that hold a share of N[t, s] * (influence + weight)(t), then what hangs loose goes. Of a node Python
// says the share that is held by those before it (`before`); the rest is computed here, for any two shares.

const SMALLEST_SUM = 1e-10;

function makePruner(graph) {
  const { nodes, edges } = graph;
  const numbers = new Map(nodes.map((node, i) => [node.id, i]));
  const from = Int32Array.from(edges, (edge) => numbers.get(edge.source));
  const to = Int32Array.from(edges, (edge) => numbers.get(edge.target));
  const size = Float64Array.from(edges, (edge) => Math.abs(edge.score));
  const always = nodes.map((node) => node.kind === "token" || node.kind === "target");
  const order = edgesFromTargetsDown(nodes.length, from, to);
  let last = { key: null, kept: null };

  return (nodeShare, edgeShare) => {
    const key = `${nodeShare} ${edgeShare}`;
    if (last.key !== key) last = { key, kept: prune(nodeShare, edgeShare) };
    return last.kept;
  };

  function prune(nodeShare, edgeShare) {
    const stay = Uint8Array.from(nodes, (node, i) => always[i] || node.before === 0 || node.before < nodeShare);
    const sums = new Float64Array(nodes.length);
    const inside = (i) => stay[from[i]] && stay[to[i]] && size[i] > 0;
    for (let i = 0; i < edges.length; i++) if (inside(i)) sums[to[i]] += size[i];
    const output = Float64Array.from(nodes, (node) => node.weight ?? 0);
    const scores = new Float64Array(edges.length);
    for (const i of order) {
      if (!inside(i)) continue;
      scores[i] = (output[to[i]] * size[i]) / Math.max(sums[to[i]], SMALLEST_SUM);
      output[from[i]] += scores[i];
    }
    const least = Math.max(leastKept(scores, edgeShare), 2.2250738585072014e-308);
    const kept = Uint8Array.from(scores, (score) => (score >= least ? 1 : 0));
    for (let fewer = true; fewer; ) {
      fewer = false;
      const [leaving, entered] = [new Uint8Array(nodes.length), new Uint8Array(nodes.length)];
      for (let i = 0; i < edges.length; i++) {
        if (kept[i] && !inside(i)) kept[i] = 0;
        if (kept[i]) leaving[from[i]] = entered[to[i]] = 1;
      }
      for (let n = 0; n < nodes.length; n++) {
        if (!stay[n] || always[n] || (leaving[n] && (entered[n] || nodes[n].kind !== "latent"))) continue;
        stay[n] = 0;
        fewer = true;
      }
    }
    return { stay, edges: kept };
  }
}

// The smallest of the fewest scores that hold a share of their sum.
function leastKept(scores, share) {
  const ranked = Float64Array.from(scores).sort().reverse();
  const total = ranked.reduce((sum, score) => sum + score, 0);
  if (!total) return 0;
  let held = 0;
  for (const score of ranked) if ((held += score) / total >= share) return score;
  return ranked.at(-1);
}

// Edges in an order in which all that leave a node come before those that enter it.
function edgesFromTargetsDown(n, from, to) {
  const entering = Array.from({ length: n }, () => []);
  const open = new Int32Array(n);
  for (let i = 0; i < from.length; i++) {
    entering[to[i]].push(i);
    open[from[i]] += 1;
  }
  const ready = [...open.keys()].filter((node) => open[node] === 0);
  const order = [];
  while (ready.length) {
    for (const i of entering[ready.pop()]) {
      order.push(i);
      if (--open[from[i]] === 0) ready.push(from[i]);
    }
  }
  return order;
}

// A graph as it arrives: edges of an attribution graph are [number of the source, of the target, weight], and
// where they were measured whether they hold, and what was found. `inputs` is by node the sum of absolute scores of all
// edges into it: an attribution graph has more than were sent, and says so of each node.
const opened = new WeakMap();
function openGraph(sent) {
  if (!sent) return null;
  if (!opened.has(sent)) opened.set(sent, withInputs(sent.links ? withEdges(sent) : sent));
  return opened.get(sent);
}

function withInputs(graph) {
  const inputs = new Map();
  for (const { target, score } of graph.edges) inputs.set(target, (inputs.get(target) ?? 0) + Math.abs(score));
  for (const { id, inputs: sum } of graph.nodes) if (sum !== undefined) inputs.set(id, sum);
  return { ...graph, inputs };
}

function withEdges(sent) {
  const edges = sent.links.map(([source, target, score, holds, measured]) => ({
    source: sent.nodes[source].id, target: sent.nodes[target].id, reader: "", score, holds: holds === undefined ? null : holds !== 0, measured,
  }));
  const graph = { ...sent, edges };
  graph.pruner = makePruner(graph);
  return graph;
}
