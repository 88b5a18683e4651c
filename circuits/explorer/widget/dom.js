// Everything that reaches the page is made here. Strings become text nodes, never markup.

function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") made.setAttribute(key, value);
    else if (key === "style") Object.entries(value).forEach(([name, its]) => made.style.setProperty(name, its));
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

// Three digits, and a minus sign of the width of a plus.
function number(value) {
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size >= 1e-3 && size < 1e5 ? String(+value.toPrecision(3)) : value.toExponential(1);
  return text.replace("-", "−");
}

// Of a share: whole numbers, but for small ones.
const percent = (share) => (share > 0 && share < 0.0005 ? "< 0.1" : share < 0.0995 ? String(+(100 * share).toFixed(1)) : String(Math.round(100 * share)));

// Spaces and line ends are what many tokens consist of.
const shownToken = (text) => text.replace(/\r?\n/g, "⏎").replace(/\t/g, "→");
const quotedToken = (text) => shownToken(text).replace(/^ | $/g, "·") || "(empty)";

const button = (text, title, click, properties = {}) =>
  make("button", { type: "button", title, onclick: click, ...properties }, text);

// New children that keep the reader's place: the scroll, and the focus of a control of the same name; where that is gone,
// the graph gets the keys.
function refill(parent, ...children) {
  const active = parent.getRootNode().activeElement;
  const nameOf = (control) => control.getAttribute("aria-label") || control.title;
  const name = active && parent.contains(active) ? nameOf(active) : null;
  const scroll = parent.scrollTop;
  parent.replaceChildren(...children);
  parent.scrollTop = scroll;
  if (!name) return;
  const same = [...parent.querySelectorAll("button, select, input")].find((control) => nameOf(control) === name);
  (same && !same.disabled ? same : parent.closest(".deepfield-explorer").querySelector(".stage")).focus({ preventScroll: true });
}

// Calls of one frame become one.
function oncePerFrame(call) {
  let asked = 0;
  return () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      call();
    });
  };
}

// The surroundings decide, whatever application they are: dark text on light ground, or the other way round.
function isDark(el) {
  for (let at = el; at; at = at.parentElement ?? at.getRootNode().host) {
    const [r, g, b, a] = (getComputedStyle(at).backgroundColor.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    if (a !== 0) return 0.299 * r + 0.587 * g + 0.114 * b < 128;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

function followTheme(el, call) {
  const apply = () => {
    const theme = isDark(el.parentElement ?? el) ? "dark" : "light";
    if (el.dataset.theme !== theme) {
      el.dataset.theme = theme;
      call();
    }
  };
  const observer = new MutationObserver(apply);
  for (const at of [document.documentElement, document.body])
    observer.observe(at, { attributes: true, attributeFilter: ["class", "style", "data-jp-theme-light", "theme"] });
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  scheme.addEventListener("change", apply);
  requestAnimationFrame(apply);
  return () => {
    observer.disconnect();
    scheme.removeEventListener("change", apply);
  };
}
