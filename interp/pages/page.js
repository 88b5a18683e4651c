// Figures are drawn on a transparent ground; only their ink follows the reader's colour scheme.
const dark = matchMedia('(prefers-color-scheme: dark)');
const ink = () => document.querySelectorAll('.js-plotly-plot').forEach(plot => {
  const change = {'font.color': dark.matches ? '#c6cdd8' : '#3a4452'};
  const line = dark.matches ? '#2b333f' : '#e1e5ea';
  Object.keys(plot._fullLayout).filter(key => /^[xy]axis/.test(key)).forEach(axis => {
    change[axis + '.gridcolor'] = line; change[axis + '.zerolinecolor'] = line; change[axis + '.linecolor'] = line;
  });
  // An axis of less than a decade and a half would have one tick or two.
  Object.entries(plot._fullLayout).filter(([key, axis]) => /^[xy]axis/.test(key) && axis.type === 'log'
    && axis.dtick === 1 && Math.abs(axis.range[1] - axis.range[0]) < 1.5).forEach(([key]) => { change[key + '.dtick'] = 'D2'; });
  Object.keys(plot._fullLayout).filter(key => /^scene\d*$/.test(key)).forEach(scene => ['x', 'y', 'z'].forEach(axis => {
    const walls = `${scene}.${axis}axis`;
    change[walls + '.backgroundcolor'] = dark.matches ? '#191f28' : '#fff'; change[walls + '.gridcolor'] = line;
  }));
  Plotly.relayout(plot, change);
  // Bars' errors have a dark ink of their own.
  const bars = plot.data.flatMap((trace, i) => trace.type === 'bar' && trace.error_y ? [i] : []);
  if (bars.length) Plotly.restyle(plot, {'error_y.color': change['font.color']}, bars);
});
ink(); dark.addEventListener('change', ink);
// A table that sorts by a click on its column, and keeps the rows that hold what is typed; the first of many, until all
// are asked for.
const FIRST = 20;
document.querySelectorAll('table.interactive').forEach(table => {
  const [head, ...rows] = table.rows;
  const filter = Object.assign(document.createElement('input'), {placeholder: 'Only rows with …', type: 'search'});
  filter.setAttribute('aria-label', 'Only rows with this text');
  table.parentElement.before(filter);
  let most = rows.length > FIRST + 5 ? FIRST : Infinity;
  const more = Object.assign(document.createElement('button'), {className: 'more', type: 'button'});
  table.after(more);
  const show = () => {
    const found = rows.filter(row => row.textContent.toLowerCase().includes(filter.value.toLowerCase()));
    const shown = new Set(found.slice(0, most));
    rows.forEach(row => { row.hidden = !shown.has(row); });
    more.hidden = shown.size === found.length;
    more.textContent = `Show all ${found.length.toLocaleString('en')} rows`;
  };
  filter.oninput = show;
  more.onclick = () => { most = Infinity; show(); };
  show();
  [...head.cells].forEach((cell, column) => {
    const text = row => row.cells[column].textContent;
    const size = row => { const found = parseFloat(text(row).replaceAll(',', '')); return isNaN(found) ? -Infinity : found; };
    const number = cell.classList.contains('number');
    let sign = number ? 1 : -1;  // the first click puts the largest number, or A, on top
    cell.onclick = () => {
      sign = -sign;
      rows.sort((a, b) => sign * (number ? Math.sign(size(a) - size(b)) || 0 : text(a).localeCompare(text(b))));
      rows.forEach(row => table.tBodies[0].append(row));
      show();
    };
  });
});
// Titles of axes are cut where they are longer than the axis: they take a second line.
const lines = (text, most) => text.split(' ').reduce((found, word) => {
  const last = found.at(-1);
  return last && last.length + word.length < most ? [...found.slice(0, -1), `${last} ${word}`] : [...found, word];
}, []).join('<br>');
const titles = async plot => {
  const {width} = plot._fullLayout, above = plot.layout.title?.text;
  if (above && !above.includes('<')) {
    const text = lines(above, (width - 50) / 8.2), more = text.split('<br>').length - 1;
    if (more) await Plotly.relayout(plot, {'title.text': text, 'margin.t': plot.layout.margin.t + 19 * more});
  }
  const texts = Object.keys(plot._fullLayout).filter(key => /^[xy]axis\d*$/.test(key))
    .map(key => [key, plot.layout[key]?.title?.text]).filter(([, text]) => text && !text.includes('<'));
  for (const side of ['y', 'x']) {  // lines beside a plot leave less room below it
    const {w, h} = plot._fullLayout._size;
    const change = texts.filter(([axis]) => axis[0] === side).map(([axis, text]) => {
      const {domain: [from, to]} = plot._fullLayout[axis];
      return [axis + '.title.text', lines(text, (to - from) * (side === 'x' ? w : h) / 8)];
    });
    if (change.length) await Plotly.relayout(plot, Object.fromEntries(change));
  }
};
// Names of columns that stand closer than their letters are high: upright, smaller, and only every second or third. What
// stands beside a narrow plot leaves it room; what stands in the corners of a space is not cut.
const narrow = async plot => {
  const {width, _size: {w}} = plot._fullLayout, change = {};
  for (const [key, axis] of Object.entries(plot._fullLayout).filter(([key]) => /^xaxis\d*$/.test(key))) {
    if (axis.tickmode !== 'array' || !axis.tickangle) continue;
    const room = (axis.domain[1] - axis.domain[0]) * w / axis.tickvals.length;
    if (room > 17) continue;
    const every = Math.ceil(12 / room), kept = values => values.filter((_, i) => i % every === 0);
    Object.assign(change, {[key + '.tickangle']: -90, [key + '.tickfont.size']: 11,
      [key + '.tickvals']: kept(axis.tickvals), [key + '.ticktext']: kept(axis.ticktext)});
  }
  if (width < 400) {
    change['legend.font.size'] = 11;
    Object.keys(plot._fullLayout).filter(key => /^scene\d*$/.test(key)).forEach(scene => ['x', 'y', 'z'].forEach(axis => {
      change[`${scene}.camera.eye.${axis}`] = 1.7 * plot._fullLayout[scene].camera.eye[axis];
      Object.assign(change, {[`${scene}.${axis}axis.title.font.size`]: 11, [`${scene}.${axis}axis.tickfont.size`]: 10});
    }));
    const maps = plot.data.flatMap((trace, i) => trace.type === 'heatmap' && trace.showscale !== false ? [i] : []);
    if (maps.length) await Plotly.restyle(plot, {'colorbar.thickness': 12}, maps);
  }
  if (Object.keys(change).length) await Plotly.relayout(plot, change);
};
// The first figure of a row was drawn before its neighbour stood beside it.
document.querySelectorAll('.js-plotly-plot').forEach(async plot => {
  await Plotly.Plots.resize(plot);
  await narrow(plot);
  await titles(plot);
});
