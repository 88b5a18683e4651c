// A drawn graph: choose a node to see its edges alone, find nodes by name, draw more edges or fewer.
document.querySelectorAll('.attribution').forEach(root => {
  const find = selector => root.querySelector(selector);
  const svg = find('.graph'), panel = find('.panel'), most = find('.most'), held = find('.held');
  const details = JSON.parse(find('.details').textContent);
  const paths = [...root.querySelectorAll('.edges path')];
  const nodes = new Map([...root.querySelectorAll('.nodes > *')].map(node => [node.dataset.id, node]));
  const hint = panel.firstElementChild;
  let chosen = null;

  const draw = () => {
    paths.forEach((path, order) => {
      const mine = chosen === null ? order < most.value : path.dataset.s === chosen || path.dataset.t === chosen;
      path.toggleAttribute('hidden', !mine || Boolean(held?.checked && path.classList.contains('loose')));
    });
    find('.count').textContent = paths.filter(path => !path.hasAttribute('hidden')).length;
    const near = new Set([chosen]);
    paths.forEach(path => path.hasAttribute('hidden') || near.add(path.dataset.s).add(path.dataset.t));
    svg.classList.toggle('chosen', chosen !== null);
    nodes.forEach((node, id) => {
      node.classList.toggle('near', chosen !== null && near.has(id));
      node.classList.toggle('here', id === chosen);
    });
  };

  const made = (tag, text, parent) => {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.append(element);
    return element;
  };

  const list = (title, rows) => {
    if (!rows.length) return;
    made('h4', title, panel);
    rows.forEach(([id, name, weight, measured]) => {
      const row = made('button', `${weight}  ${name}`, panel);
      if (measured) made('small', measured, row);
      row.onclick = () => choose(id);
    });
  };

  const choose = id => {
    chosen = id;
    panel.replaceChildren();
    if (id === null) panel.append(hint);
    else {
      const it = details[id];
      made('h3', it.name, panel);
      const facts = made('dl', '', panel);
      it.facts.forEach(([what, value]) => { made('dt', what, facts); made('dd', value, facts); });
      list('What adds to it', it.into);
      list('What it adds to', it.out);
    }
    draw();
  };

  svg.addEventListener('click', event => choose(event.target.closest('[data-id]')?.dataset.id ?? null));
  document.addEventListener('keydown', event => { if (event.key === 'Escape') choose(null); });
  most.addEventListener('input', draw);
  held?.addEventListener('change', draw);
  find('.find').addEventListener('input', event => {
    const text = event.target.value.toLowerCase();
    svg.classList.toggle('searched', Boolean(text));
    nodes.forEach((node, id) => node.classList.toggle('found', details[id].name.toLowerCase().includes(text)));
  });
  draw();
  find('.canvas').scrollLeft = svg.clientWidth;  // targets stand at the last token
});
