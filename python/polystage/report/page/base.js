// What every chart needs: elements, units, colours of the theme, the tooltip, axes.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; texts of the model only ever become text nodes. */
function element(tag, attributes = {}, ...children) {
  const drawn = ["svg", "g", "path", "line", "circle", "rect", "text", "title", "clipPath", "defs"];
  const node = drawn.includes(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** A part of the page; `short` stands in the navigation. */
function section(id, short, title, note, ...children) {
  return element("section", { id, "data-short": short }, element("h2", {}, title),
    note ? element("p", { class: "note" }, note) : null, ...children);
}

// --- units -------------------------------------------------------------------------------------

function scaled(value, steps, digits = 3) {
  if (!Number.isFinite(value)) return "-";
  if (value === 0) return `0 ${steps[steps.length - 1][1]}`;
  const [factor, unit] = steps.find(([f]) => Math.abs(value) >= f) || steps[steps.length - 1];
  return `${significant(value / factor, digits)} ${unit}`;
}

function significant(value, digits = 3) {
  if (!Number.isFinite(value)) return "-";
  if (value === 0) return "0";
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value)) + 1e-9));
  return grouped(value, Math.min(decimals, 6));
}

function grouped(value, decimals = 0) {
  return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

const TIME = [[1e6, "s"], [1e3, "ms"], [1, "µs"], [1e-3, "ns"]];
const BYTES = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]];
const BINARY = [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
const ENERGY = [[1e12, "J"], [1e9, "mJ"], [1e6, "µJ"], [1e3, "nJ"], [1, "pJ"]];
const RATE = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const time = (us) => scaled(us, TIME);
const bytes = (count) => scaled(count, BYTES);
/** Return bytes in powers of 1024, without decimals that say nothing. */
function binary(count) {
  const [factor, unit] = BINARY.find(([f]) => count >= f) || BINARY[3];
  return `${(count / factor).toLocaleString("en-US", { maximumFractionDigits: count / factor < 100 ? 2 : 1 })} ${unit}`;
}

const energy = (pj) => scaled(pj, ENERGY);
const operations = (perSecond) => `${scaled(perSecond, RATE)}op/s`;
const percent = (share, decimals = 1) => (Number.isFinite(share) ? `${grouped(100 * share, decimals)} %` : "-");
const times = (ratio) => (Number.isFinite(ratio) ? `${significant(ratio)}×` : "-");

const LONG_NAME = 36;
let sharedPrefix = "";

/** Learn what most names begin with, up to a dot or slash; where some are long, `shortened` leaves it out. */
function learnNames(names) {
  const counts = new Map();
  if (names.every((name) => name.length <= LONG_NAME)) return;
  for (const name of names) for (const match of name.matchAll(/[./]/g)) {
    const prefix = name.slice(0, match.index + 1);
    counts.set(prefix, (counts.get(prefix) || 0) + 1);
  }
  const usual = [...counts].filter(([, count]) => count > names.length / 2).map(([prefix]) => prefix);
  sharedPrefix = usual.sort((a, b) => b.length - a.length)[0] || "";
}

/** Return a name in at most `most` characters: without what most names begin with, then without its middle. */
function shortened(name, most) {
  if (sharedPrefix && name.startsWith(sharedPrefix)) name = `…${name.slice(sharedPrefix.length)}`;
  const head = Math.floor(most / 3);
  return name.length <= most ? name : `${name.slice(0, head)}…${name.slice(name.length - (most - head - 1))}`;
}

// --- theme -------------------------------------------------------------------------------------

const redraws = [];

/** Draw now, and again when theme or width change. */
function drawn(draw) {
  redraws.push(draw);
  draw();
}

function redraw() {
  for (const draw of redraws) draw();
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function themeButton() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const apply = () => {
    root.dataset.theme = chosen || (system.matches ? "dark" : "light");
    button.textContent = root.dataset.theme === "dark" ? "Light" : "Dark";
    redraw();
  };
  const button = element("button", {
    type: "button", id: "theme", title: "Change between light and dark",
    onclick: () => {
      chosen = root.dataset.theme === "dark" ? "light" : "dark";
      apply();
    },
  });
  system.addEventListener("change", apply);
  apply();
  return button;
}

// --- tooltip -----------------------------------------------------------------------------------

const tip = element("div", { id: "tip", role: "tooltip" });

/** Show a title and pairs of name and value beside the pointer. */
function showTip(event, title, pairs) {
  const list = element("dl", {}, pairs.filter(Boolean).map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
  tip.replaceChildren(element("b", {}, title), list);
  const { width, height } = tip.getBoundingClientRect();
  const right = event.clientX + 16 + width > innerWidth;
  const below = event.clientY + 16 + height > innerHeight;
  tip.style.left = `${Math.max(4, right ? event.clientX - width - 12 : event.clientX + 16)}px`;
  tip.style.top = `${Math.max(4, below ? event.clientY - height - 12 : event.clientY + 16)}px`;
  tip.style.visibility = "visible";
}

function hideTip() {
  tip.style.visibility = "hidden";
}

/** Explain a node while the pointer is on it. */
function explained(node, title, pairs) {
  node.addEventListener("pointermove", (event) => showTip(event, title, typeof pairs === "function" ? pairs() : pairs));
  node.addEventListener("pointerleave", hideTip);
  return node;
}

// --- controls ----------------------------------------------------------------------------------

/** Buttons of which one is pressed; names must differ. */
function choice(label, names, chosen, change) {
  const group = element("span", { class: "choice", role: "group", "aria-label": label });
  for (const name of names) {
    group.append(element("button", {
      type: "button", "aria-pressed": String(name === chosen),
      onclick: (event) => {
        for (const other of group.children) other.setAttribute("aria-pressed", String(other === event.currentTarget));
        change(name);
      },
    }, name));
  }
  return group;
}

function selection(label, options, change) {
  const select = element("select", { onchange: () => change(Number(select.value)) },
    options.map((name, i) => element("option", { value: i }, name)));
  return element("label", {}, label, select);
}

function legend(entries) {
  return element("div", { class: "legend" }, entries.map(([name, fill]) =>
    element("span", {}, element("i", { style: `background:${fill}` }), name)));
}

// --- axes --------------------------------------------------------------------------------------

/** Return round numbers from low to high, about `count` of them. */
function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw * 0.999);
  const result = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) result.push(i * step || 0);
  return result;
}

/** Return powers of ten from low to high, thinned to about `count`. */
function powers(low, high, count) {
  const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
  const step = Math.max(1, Math.ceil((last - first + 1) / count));
  const result = [];
  for (let p = first; p <= last; p += step) result.push(10 ** p);
  return result;
}

/** Return a canvas context in CSS pixels at the screen's resolution. */
function sharp(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Return running sums: times are stored as differences. */
function summed(differences) {
  let sum = 0;
  return Float64Array.from(differences, (d) => (sum += d));
}

let resizing = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(redraw);
});
