// The sections that Python makes of a node: attention patterns, tokens by activation, lists of logits, the logit lens.

function heat(value, most) {
  return { "--heat": most > 0 ? `${Math.round(100 * Math.min(1, Math.abs(value) / most))}%` : "0%" };
}

// A table with a cell for every query (row) and key (column): a screen reader and a pointer find the numbers.
function attentionSection({ title, tokens, values, row }) {
  const said = make("div", { className: "said", "aria-live": "polite" }, "Point at a cell.");
  const cells = values.map((line, q) =>
    make("tr", { className: q === row ? "marked" : "" },
      make("th", { scope: "row", title: `position ${q}` }, quotedToken(tokens[q])),
      ...line.slice(0, q + 1).map((value, k) => {
        const cell = make("td", { style: heat(value, 1) });
        cell.dataset.said = `${quotedToken(tokens[q])} ${q} attends to ${quotedToken(tokens[k])} ${k}: ${number(value)}`;
        return cell;
      })));
  const table = make("table", { className: "pattern" }, make("tbody", {}, ...cells));
  table.onpointerover = (event) => {
    if (event.target.dataset.said) said.textContent = event.target.dataset.said;
  };
  const strongest = values[row ?? values.length - 1]
    .map((value, k) => [value, k]).sort((a, b) => b[0] - a[0]).slice(0, 3)
    .map(([value, k]) => `${quotedToken(tokens[k])} ${k} (${number(value)})`).join(", ");
  return [
    make("h4", {}, title),
    make("div", { className: "scroll" }, table),
    said,
    make("p", { className: "soft" }, `${quotedToken(tokens[row ?? values.length - 1])} attends most to ${strongest}.`),
  ];
}

function passageSection({ title, tokens, values, peak, most }) {
  const top = most ?? Math.max(...values.map(Math.abs));
  const spans = tokens.map((token, i) =>
    make("span", { className: i === peak ? "token peak" : "token", style: heat(values[i], top), title: number(values[i]) },
      shownToken(token)));
  const label = peak === null || peak === undefined ? number(top) : number(values[peak]);
  return [
    ...(title ? [make("h4", {}, title)] : []),
    make("div", { className: "passage" }, make("span", { className: "value" }, label), make("div", {}, ...spans)),
  ];
}

function tokenTable(caption, pairs) {
  return make("table", { className: "tokens" }, make("caption", {}, caption),
    ...pairs.map(([token, value]) =>
      make("tr", {}, make("td", {}, make("code", {}, quotedToken(token))),
        make("td", {}, (value > 0 ? "+" : "") + number(value)))));
}

function logitsSection({ title, raised, lowered }) {
  return [make("h4", {}, title),
    make("div", { className: "pair" }, tokenTable("raised", raised), tokenTable("lowered", lowered))];
}

function lensSection({ title, tokens, top, row }) {
  const lines = tokens.map((token, p) =>
    make("tr", { className: p === row ? "marked" : "" },
      make("th", { scope: "row", title: `position ${p}` }, quotedToken(token)),
      ...top[p].map(([word, value]) =>
        make("td", { style: heat(value, 1), title: `probability ${number(value)}` }, make("code", {}, quotedToken(word))))));
  return [make("h4", {}, title), make("div", { className: "scroll" },
    make("table", { className: "lens" },
      make("thead", {}, make("tr", {}, make("th", {}, "after"), ...["first", "second", "third"].map((n) => make("th", {}, n)))),
      make("tbody", {}, ...lines)))];
}

const SECTIONS = {
  attention: attentionSection,
  passage: passageSection,
  logits: logitsSection,
  lens: lensSection,
  heading: ({ text }) => [make("h3", {}, text)],
  note: ({ text }) => [make("p", { className: "soft" }, text)],
};

const detailSections = (sections) => sections.flatMap((section) => SECTIONS[section.kind](section));
