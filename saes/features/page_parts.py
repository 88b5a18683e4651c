"""Style, skeleton and script of the feature browser. Plain browser features only, nothing is fetched."""

STYLE = """
:root { --page: #f6f7f9; --panel: #fff; --ink: #1c2430; --soft: #5b6675; --line: #e1e5ea; --accent: #3355b8;
  --mark: #e8803a; --strength: 80%; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --page: #11151b; --panel: #191f28; --ink: #e6e9ee; --soft: #9aa5b4;
  --line: #2b333f; --accent: #8aa6f0; --mark: #d2691e; --strength: 70%; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header { padding: 1.4rem 1.5rem 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.02em; }
h2 { font-size: 1.35rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.8rem 0 .6rem; }
p { margin: .15rem 0; max-width: 60rem; }
.soft { color: var(--soft); font-size: .9rem; }
a { color: var(--accent); }
.columns { display: grid; grid-template-columns: 19rem minmax(0, 1fr); gap: 1rem; padding: 0 1.5rem 2rem; }
nav, article { background: var(--panel); border: 1px solid var(--line); border-radius: 12px; }
nav { display: flex; flex-direction: column; height: calc(100vh - 2rem); position: sticky; top: 1rem;
  overflow: hidden; }
.tools { padding: .8rem; border-bottom: 1px solid var(--line); display: grid; gap: .5rem; }
input, select { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--line);
  border-radius: 8px; padding: .4rem .6rem; width: 100%; }
#list { overflow-y: auto; flex: 1; position: relative; }
#list a { display: grid; grid-template-columns: 4.2rem 1fr auto; gap: .5rem; padding: .4rem .8rem; color: inherit;
  text-decoration: none; border-bottom: 1px solid var(--line); font-size: .9rem; }
#list a:hover, #list a[aria-current] { background: var(--page); }
#list a[aria-current] { box-shadow: inset 3px 0 var(--accent); }
#list b, .number { font-variant-numeric: tabular-nums; }
#list code { overflow: hidden; text-overflow: ellipsis; white-space: pre; }
article { padding: 1.3rem 1.5rem 1.6rem; min-height: 20rem; }
.cards { display: flex; flex-wrap: wrap; gap: .7rem 2.4rem; }
.cards span { display: block; font-size: .85rem; color: var(--soft); }
.cards b { font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.example { display: grid; grid-template-columns: 4.5rem minmax(0, 1fr); gap: .8rem; padding: .5rem 0;
  border-top: 1px solid var(--line); }
.example .number { text-align: right; color: var(--soft); font-size: .85rem; line-height: 1.8; }
.passage { white-space: pre-wrap; overflow-wrap: anywhere; font: .92rem/1.65 ui-monospace, monospace; }
.passage span { background: color-mix(in srgb, var(--mark) calc(var(--a) * var(--strength)), transparent);
  border-radius: 3px; }
.passage .peak { outline: 2px solid var(--mark); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 0 2rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--soft); font-size: .85rem; padding-bottom: .3rem; }
td { padding: .22rem 0; border-top: 1px solid var(--line); }
td code { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--page); border-radius: 4px;
  padding: .05rem .25rem; }
td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.near { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; font-variant-numeric: tabular-nums; }
@media (max-width: 760px) { .columns { grid-template-columns: minmax(0, 1fr); }
  nav { height: 18rem; position: static; } }
"""

BODY = """
<header><h1 id="title"></h1><p id="subtitle" class="soft"></p><p id="scope" class="soft"></p></header>
<div class="columns"><nav aria-label="latents"><div class="tools">
<input id="query" type="search" placeholder="Number or token text" aria-label="Search by number or token text"
  autocomplete="off">
<select id="order" aria-label="Order"><option value="density">Densest first</option>
<option value="rare">Rarest first</option><option value="max">Largest activation first</option>
<option value="id">By number</option></select><span id="hits" class="soft"></span></div>
<div id="list"></div></nav><article id="detail"></article></div>
"""

SCRIPT = r"""
'use strict';
const content = JSON.parse(document.getElementById('content').textContent);
const at = id => document.getElementById(id);
const byId = new Map(content.latents.map(latent => [latent.id, latent]));
// Spaces and line ends are what many tokens consist of.
const shown = index => content.vocabulary[index].replace(/\r?\n/g, '↵');
const quoted = index => shown(index).replace(/ /g, '·').replace(/\t/g, '→') || '(empty)';

// The only way anything gets onto the page: as text, never as markup.
function make(tag, text, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

const number = count => count.toLocaleString('en');
const percent = share => (100 * share).toPrecision(share < 1e-3 ? 2 : 3) + ' %';
const density = latent => latent.active / content.measured;
for (const latent of content.latents) {
  const peaks = latent.examples.map(e => e.tokens[e.peak]);
  latent.peak = peaks[0];
  const active = latent.examples.flatMap(e => e.tokens.filter((_, i) => e.acts[i] > 0));
  const texts = indices => [...new Set(indices)].map(i => content.vocabulary[i].toLowerCase()).join('\u0000');
  latent.peaks = texts(peaks);
  latent.words = texts([...active, ...(latent.raised || []).map(pair => pair[0])]);
}

const orders = {
  density: (a, b) => b.active - a.active || a.id - b.id,
  rare: (a, b) => a.active - b.active || a.id - b.id,
  max: (a, b) => b.max - a.max || a.id - b.id,
  id: (a, b) => a.id - b.id,
};

// 0 is the best match: that number, then a strongest token with this text, then any active or raised token, or a
// number that begins with it.
function rank(latent, query) {
  if (query === '') return 0;
  const digits = query.trim().replace(/^#/, '');
  if (digits === String(latent.id)) return 0;
  if (latent.peaks.includes(query)) return 1;
  if (latent.words.includes(query)) return 2;
  return /^\d+$/.test(digits) && String(latent.id).startsWith(digits) ? 3 : Infinity;
}

function list() {
  const query = at('query').value.toLowerCase(), order = orders[at('order').value];
  const found = content.latents.map(latent => [rank(latent, query), latent]).filter(pair => pair[0] < Infinity);
  found.sort((a, b) => a[0] - b[0] || order(a[1], b[1]));
  at('hits').textContent = found.length
    ? found.length + ' of ' + content.latents.length
    : 'No latent on this page has this number or text.';
  at('list').replaceChildren(...found.map(([, latent]) => make('a', undefined, { href: '#' + latent.id },
    make('b', '#' + latent.id), make('code', latent.peak === undefined ? '' : shown(latent.peak).trim()),
    make('span', percent(density(latent)), { className: 'number soft' }))));
  mark();
  return found;
}

function mark() {
  for (const link of at('list').children) {
    if (link.hash === location.hash) link.setAttribute('aria-current', 'true');
    else link.removeAttribute('aria-current');
  }
}

function passage(example, max) {
  const spans = example.tokens.map((token, i) => {
    const span = make('span', shown(token), { title: 'activation ' + example.acts[i],
      className: i === example.peak ? 'peak' : '' });
    span.style.setProperty('--a', max > 0 ? Math.max(0, example.acts[i] / max) : 0);
    return span;
  });
  return make('div', undefined, { className: 'example' },
    make('div', String(example.acts[example.peak]), { className: 'number',
      title: 'row ' + example.row + ', position ' + example.position }),
    make('div', undefined, { className: 'passage' }, ...spans));
}

const effects = (title, pairs) => make('table', undefined, {}, make('caption', title), ...pairs.map(([token, value]) =>
  make('tr', undefined, {}, make('td', undefined, {}, make('code', quoted(token))),
    make('td', (value > 0 ? '+' : '') + value))));
const card = (label, value) => make('div', undefined, {}, make('span', label), make('b', value));

function detail() {
  const latent = byId.get(Number(location.hash.slice(1)));
  mark();
  const current = at('list').querySelector('[aria-current]');
  // Not scrollIntoView, which would move the page too.
  if (current) at('list').scrollTop = Math.min(current.offsetTop, Math.max(at('list').scrollTop,
    current.offsetTop + current.offsetHeight - at('list').clientHeight));
  if (!latent) {
    const where = location.hash.length > 1 ? location.hash + ' is not on this page.' : 'Choose a latent.';
    return at('detail').replaceChildren(make('p', where, { className: 'soft' }));
  }
  const parts = [make('h2', 'Latent ' + latent.id), make('div', undefined, { className: 'cards' },
    card('Density', percent(density(latent))),
    card('Active on', number(latent.active) + ' of ' + number(content.measured) + ' tokens'),
    card('Largest activation', String(latent.max)))];
  parts.push(make('h3', 'Where it is most active'));
  parts.push(...latent.examples.map(example => passage(example, latent.max)));
  if (!latent.examples.length) parts.push(make('p', 'It is never active on this text.', { className: 'soft' }));
  parts.push(make('h3', 'Effect on the next token'));
  if (latent.raised) parts.push(make('div', undefined, { className: 'pair' },
    effects('Raised, logit a unit of activation', latent.raised), effects('Lowered', latent.lowered)));
  parts.push(make('p', content.note, { className: 'soft' }));
  parts.push(make('h3', 'Nearest latents, cosine of decoder rows'));
  parts.push(make('div', undefined, { className: 'near' }, ...latent.nearest.map(([id, cosine]) =>
    make('span', undefined, {}, byId.has(id) ? make('a', '#' + id, { href: '#' + id }) :
      make('span', '#' + id, { className: 'soft', title: 'not on this page' }), ' ' + cosine.toFixed(3)))));
  at('detail').replaceChildren(...parts);
}

document.title = content.title;
for (const id of ['title', 'subtitle', 'scope']) at(id).textContent = content[id];
at('query').addEventListener('input', list);
at('order').addEventListener('change', list);
addEventListener('hashchange', detail);
const first = list()[0];
if (location.hash.length < 2 && first) history.replaceState(null, '', '#' + first[1].id);
detail();
"""
