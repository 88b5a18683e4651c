// Plain browser features only, and nothing is fetched.
'use strict';
const content = JSON.parse(document.getElementById('content').textContent);
const at = id => document.getElementById(id);
const byId = new Map(content.latents.map(latent => [String(latent.id), latent]));
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
  latent.said_words = ((latent.said || {}).text || '').toLowerCase();
  latent.words = texts([...active, ...(latent.raised || []).map(pair => pair[0])]);
}

const orders = {
  density: (a, b) => b.active - a.active || orders.id(a, b),
  rare: (a, b) => a.active - b.active || orders.id(a, b),
  max: (a, b) => b.max - a.max || orders.id(a, b),
  id: (a, b) => a.part - b.part || a.number - b.number,
};

// 0 is the best match: that number, then a strongest token with this text, then any active or raised token, or a
// number that begins with it.
function rank(latent, query) {
  if (query === '') return 0;
  const digits = query.trim().replace(/^#/, '');
  if (digits === String(latent.id)) return 0;
  if (latent.peaks.includes(query)) return 1;
  if (latent.words.includes(query) || latent.said_words.includes(query)) return 2;
  return /^[\d/]+$/.test(digits) && String(latent.id).startsWith(digits) ? 3 : Infinity;
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

function passage(example, max, copies, cosine, attention) {
  const most = attention && Math.max(1, ...attention.filter((_, i) => i + example.position > example.peak));
  const spans = example.tokens.map((token, i) => {
    const span = make('span', shown(token), { title: 'activation ' + example.acts[i]
      + (attention ? ', ' + attention[i] + ' % of attention' : ''),
      className: i === example.peak ? 'peak' : '' });
    span.style.setProperty('--a', max > 0 ? Math.max(0, example.acts[i] / max) : 0);
    if (attention) span.style.setProperty('--b', Math.min(1, attention[i] / most));
    return span;
  });
  return make('div', undefined, { className: 'example' },
    make('div', cosine ?? example.acts[example.peak] + (copies > 1 ? ' × ' + copies : ''), { className: 'number',
      title: 'row ' + example.row + ', position ' + example.position
        + (copies > 1 ? '; ' + copies + ' nearly equal passages are among these' : '') }),
    make('div', undefined, { className: 'passage' }, ...spans));
}

function missed(latent) {
  const misses = latent.misses;
  if (!misses || misses.typical === null) return [];
  const title = make('h3', 'Where it should fire and does not');
  if (misses.typical <= 0) return [title, make('p', 'This cannot be told: half of the tokens on which it fires do not '
    + 'lie along what it writes (cosine with its decoder row ' + misses.typical + ').', { className: 'soft' })];
  return [title,
    make('p', 'Silent on ' + number(misses.silent) + ' tokens whose activation lies as much along what it writes (cosine with '
      + 'its decoder row ' + misses.typical + ' or more) as on half of those on which it fires, '
      + number(misses.fires) + '. ' + (misses.examples.length ? 'The closest, with their cosine:' : ''),
      { className: 'soft' }),
    ...misses.examples.map((example, i) => passage(example, latent.max, 1, misses.cosines[i].toFixed(2)))];
}

// Clusters of its contexts, as many as stand out from noise.
function facets(latent) {
  const found = latent.facets;
  if (!found) return [];
  const title = make('h3', 'Facets, the reasons for which it fires'), soft = { className: 'soft' };
  if (!found.facets) return [title, make('p', 'It is active in ' + number(found.contexts) + ' contexts that could be '
    + 'clustered, two at most from one row; that takes 20.', soft)];
  const figure = value => value === null ? 'none' : value.toFixed(3);
  const compared = number(found.contexts) + ' contexts, strong and weak, silhouette ' + figure(found.silhouette)
    + '; 95 % of noise of the same covariance stays below ' + figure(found.null);
  if (found.facets.length === 1) return [title, make('p', 'One reason: no more than the null'),
    make('p', compared + '.', soft)];
  return [title, make('p', found.facets.length + ' facets, stability ' + found.stability
    + ' (adjusted Rand index)' + (found.more ? '; there may be more' : '')),
    make('p', compared + '. Nearest to the centre first.', soft),
    ...found.facets.flatMap((facet, i) => [make('h4', 'Facet ' + (i + 1) + ': share ' + facet.share
      + ', mean activation ' + facet.activation),
      ...facet.examples.map((example, j) => passage(example, latent.max, facet.copies[j]))])];
}

// Counts on a root scale, or all but the weakest activations would be one pixel high.
function histogram(latent) {
  const most = Math.max(...latent.histogram), step = latent.max / latent.histogram.length;
  const text = i => number(latent.histogram[i]) + ' tokens from ' + (i * step).toPrecision(3) + ' to '
    + ((i + 1) * step).toPrecision(3);
  const bars = latent.histogram.map((count, i) => {
    const bar = make('i', undefined, { title: text(i) });
    bar.style.height = 100 * Math.sqrt(count / most) + '%';
    return bar;
  });
  return make('div', undefined, { className: 'histogram' },
    make('div', undefined, { className: 'bars', role: 'img', ariaLabel: latent.histogram.map((_, i) => text(i)).join('; ') },
      ...bars), make('div', undefined, { className: 'ends soft' }, make('span', '0'), make('span', String(latent.max))));
}

const effects = (title, pairs) => make('table', undefined, {}, make('caption', title), ...pairs.map(([token, value]) =>
  make('tr', undefined, {}, make('td', undefined, {}, make('code', quoted(token))),
    make('td', (value > 0 ? '+' : '') + value))));
function norms(latent) {
  const largest = Math.max(...latent.written.map(pair => pair[1]));
  return make('table', undefined, { className: 'norms' }, make('caption', 'It reads ' + latent.read),
    ...latent.written.map(([place, norm]) => {
      const bar = make('div', undefined, { className: 'bar' });
      bar.style.setProperty('--part', largest > 0 ? norm / largest : 0);
      return make('tr', undefined, {}, make('td', place), make('td', undefined, {}, bar), make('td', String(norm)));
    }));
}
// What a judge says of it, and how far that holds.
function said(latent) {
  if (!latent.said) return [];
  const scores = latent.said.scores, meant = 'How often a judge with this sentence alone is right: whether the latent is ' +
    'active in a passage (detection), on marked tokens (fuzzing), which tokens a clamp of it raises (effects). Chance is 0.5.';
  return [make('p', latent.said.text || 'The judge gave no sentence.', { className: 'said' }),
    ...[...scores, ...(scores.length ? [meant] : []), 'Said by ' + latent.said.by]
      .map(line => make('p', line, { className: 'soft' }))];
}
const card = (label, value) => make('div', undefined, {}, make('span', label), make('b', value));

function detail() {
  const latent = byId.get(location.hash.slice(1));
  mark();
  const current = at('list').querySelector('[aria-current]');
  // Not scrollIntoView, which would move the page too.
  if (current) at('list').scrollTop = Math.min(current.offsetTop, Math.max(at('list').scrollTop,
    current.offsetTop + current.offsetHeight - at('list').clientHeight));
  if (!latent) {
    const where = location.hash.length > 1 ? location.hash + ' is not on this page.' : 'Choose a latent.';
    return at('detail').replaceChildren(make('p', where, { className: 'soft' }));
  }
  const parts = [make('h2', 'Latent ' + latent.id), ...said(latent), make('div', undefined, { className: 'cards' },
    card('Density', percent(density(latent))),
    card('Active on', number(latent.active) + ' of ' + number(content.measured) + ' tokens'),
    card('Largest activation', String(latent.max)))];
  if (latent.written) parts.push(make('h3', 'Where it writes, norm of its decoder row'), norms(latent));
  if (latent.active) parts.push(make('h3', 'Tokens by activation (root scale)'), histogram(latent));
  parts.push(make('h3', 'Where it is most active'));
  parts.push(...latent.examples.map((example, i) => passage(example, latent.max, latent.copies[i], undefined,
    latent.attention && latent.attention[i])));
  if (latent.examples.length && content.attends) parts.push(make('p', content.attends, { className: 'soft' }));
  if (!latent.examples.length) parts.push(make('p', 'It is never active on this text.', { className: 'soft' }));
  for (const [title, examples] of [['At half its strength', latent.middle], ['Where it is weak', latent.weak]]) {
    if (examples.length) parts.push(make('h3', title), ...examples.map(example => passage(example, latent.max, 1)));
  }
  parts.push(...facets(latent), ...missed(latent));
  parts.push(make('h3', 'Effect on the next token'));
  if (latent.raised) parts.push(make('div', undefined, { className: 'pair' },
    effects('Raised, logit a unit of activation', latent.raised), effects('Lowered', latent.lowered)));
  parts.push(make('p', content.note, { className: 'soft' }));
  parts.push(make('h3', 'Nearest latents, cosine of decoder rows'));
  parts.push(make('div', undefined, { className: 'near' }, ...latent.nearest.map(([id, cosine]) =>
    make('span', undefined, {}, byId.has(String(id)) ? make('a', '#' + id, { href: '#' + id }) :
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
