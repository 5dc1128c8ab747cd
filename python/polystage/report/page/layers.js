// Where time, bytes and energy go, layer by layer: bars and the table.

const CAUSES = [["input", "c5"], ["weight", "c0"], ["intermediate", "c1"], ["output", "c2"], ["copy", "c3"]];
const LEVELS = [["mac", "c0"], ["register", "c5"], ["vector", "c2"], ["psum", "c4"], ["sbuf", "c1"], ["dram", "c3"], ["static", "c7"]];
const ENGINES = [["tensor", "c0"], ["vector", "c1"], ["scalar", "c4"], ["gpsimd", "c2"], ["dma", "c3"]];
const LEVEL_NAMES = { mac: "multiply-accumulate", register: "registers", vector: "lane engines", psum: "psum", sbuf: "scratchpad", dram: "DRAM", static: "static" };
const SHOWN_LAYERS = 24;

/** Return [name, colour, value] of every part that a measure of a layer has. */
const MEASURES = {
  "DRAM bytes by cause": {
    text: bytes, note: "Bytes that cross the DRAM interface, reads and writes, by what they are.",
    parts: (f) => CAUSES.map(([name, fill]) => [name, fill, (f.dram_read_by_cause[name] || 0) + (f.dram_write_by_cause[name] || 0)]),
    bound: (f) => f.compulsory_bytes, boundName: "compulsory",
  },
  "energy by level": {
    text: energy, note: "Energy by where it is spent.",
    parts: (f) => LEVELS.map(([name, fill]) => [LEVEL_NAMES[name], fill, f.energy_pj_by_level[name] || 0]),
    bound: (f) => f.energy_bound_pj, boundName: "bound",
  },
  "time lost": {
    text: time, note: "The time in which anything is under way for a layer: what it would be with all PEs at work, and what each limit adds.",
    parts: (f, run) => !f.losses_us ? [["no multiplications", "line", f.own_us ?? f.latency_us]]
      : [["at peak", "c0", f.losses_us[0]], ...run.loss_steps.map((step, i) => [step.title, STEP_COLORS[i], f.losses_us[i + 1] - f.losses_us[i]])],
  },
  "busy time by engine": {
    text: time, note: "How long each engine is busy. They work at the same time, so that the sum may exceed the latency.",
    parts: (f) => ENGINES.map(([name, fill]) => [name === "dma" ? "DMA" : name, fill, f.busy_us[name] || 0]),
  },
  "latency": {
    text: time, note: "What a layer adds to the time of the layers before it, with which it overlaps.",
    parts: (f) => [["latency", "c0", f.latency_us]], bound: (f) => f.latency_bound_us, boundName: "bound",
  },
};

function sumOf(parts) {
  return parts.reduce((sum, part) => sum + part[2], 0);
}

/** Bars of totals, of both runs where there are two. */
function totalBars(runs, name) {
  const measure = MEASURES[name];
  const all = runs.map((run) => measure.parts(run.totals, run));
  const largest = Math.max(...all.map(sumOf), ...runs.map((run) => measure.bound ? measure.bound(run.totals) : 0));
  const rows = element("div", { class: "rows" });
  runs.forEach((run, i) => {
    const label = runs.length > 1 ? (i ? "after" : "before") : "total";
    rows.append(...barRow(label, all[i], largest, measure.text, "total"));
    if (measure.bound) rows.append(...barRow(measure.boundName, [[measure.boundName, "faint", measure.bound(run.totals)]], largest, measure.text));
  });
  return rows;
}

function barRow(label, parts, largest, text, name = "") {
  const total = sumOf(parts);
  const stack = element("div", { class: "stack" }, parts.filter((part) => part[2] > 0).map(([, fill, value]) =>
    element("i", { style: `width:${(100 * value) / largest || 0}%;background:var(--${fill})` })));
  explained(stack, label, () => [...parts.filter((part) => part[2] > 0).map(([part, , value]) => [part, `${text(value)} (${percent(value / total)})`]), ["sum", text(total)]]);
  return [element("div", { class: `label ${name}`, title: label }, shortened(label, LONG_NAME)), stack, element("div", { class: `number ${name}` }, text(total))];
}

function measureLegend(run, name) {
  const names = new Map();
  for (const f of [run.totals, ...run.layers]) for (const [part, fill, value] of MEASURES[name].parts(f, run)) if (value > 0) names.set(part, fill);
  return legend([...names].map(([part, fill]) => [part, `var(--${fill})`]));
}

function totalsPanel(id, short, title, runs, name) {
  return section(id, short, title, MEASURES[name].note, measureLegend(runs[runs.length - 1], name), totalBars(runs, name));
}

/** Bars of layers, by a measure of the reader's choice. */
function barsPanel(runs) {
  const body = element("div");
  let measure = "time lost", all = false, order = "largest first", which = runs.length - 1;
  const show = () => {
    const run = runs[which];
    const rows = run.layers.map((layer) => [layer.name, MEASURES[measure].parts(layer, run)]);
    if (order === "largest first") rows.sort((a, b) => sumOf(b[1]) - sumOf(a[1]));
    const shown = all ? rows : rows.slice(0, SHOWN_LAYERS);
    const largest = Math.max(...rows.map((row) => sumOf(row[1])));
    body.replaceChildren(element("p", { class: "note" }, MEASURES[measure].note), measureLegend(run, measure),
      element("div", { class: "rows" }, shown.map(([name, parts]) => barRow(name, parts, largest, MEASURES[measure].text))),
      rows.length > SHOWN_LAYERS ? element("div", { class: "bar" }, element("button", { type: "button", onclick: () => { all = !all; show(); } },
        all ? `Show ${SHOWN_LAYERS}` : `Show all ${rows.length} layers`)) : "");
  };
  const panel = section("bars", "Layer by layer", "Layer by layer", null, element("div", { class: "bar" },
    choice("measure", Object.keys(MEASURES).sort((a, b) => (b === measure) - (a === measure)), measure, (name) => { measure = name; show(); }),
    choice("order", ["largest first", "program order"], order, (name) => { order = name; show(); }),
    runs.length > 1 ? choice("run", ["before", "after"], "after", (name) => { which = name === "after" ? 1 : 0; show(); }) : null), body);
  show();
  return panel;
}

// --- table -------------------------------------------------------------------------------------

const inUnits = (factor, decimals) => (value) => (value ? grouped(value / factor, decimals) : "-");
const asPercent = (value) => (Number.isFinite(value) ? grouped(100 * value, 1) : "-");

/** Columns: title, unit, value of a layer, text of a value, and whether shading shows its size. */
function columnGroups(run) {
  const total = run.totals;
  return {
    time: [
      ["bound", "µs", (f) => f.latency_bound_us, inUnits(1, 2)],
      ["over bound", "×", (f) => (f.latency_bound_us ? (f.own_us ?? f.latency_us) / f.latency_bound_us : NaN), (v) => (Number.isFinite(v) ? significant(v) : "-")],
      ["share", "%", (f) => f.latency_us / total.latency_us, asPercent, true],
      ["own time", "µs", (f) => f.own_us ?? f.latency_us, inUnits(1, 2)],
      ["hidden", "%", (f) => (f.own_us ? Math.max(0, 1 - f.latency_us / f.own_us) : NaN), asPercent],
      ["MACs", "M", (f) => f.macs, inUnits(1e6, 2)],
      ["intensity", "op/B", (f) => workOf(f) / (f.dram_read_bytes + f.dram_write_bytes), (v) => (Number.isFinite(v) ? significant(v) : "-")],
    ],
    engines: ENGINES.map(([name]) => [name === "dma" ? "DMA" : name, "% busy", (f) => (f.busy_us[name] || 0) / (f.own_us || total.latency_us), asPercent, true]),
    bytes: [...CAUSES.map(([name]) => [name, "kB", (f) => (f.dram_read_by_cause[name] || 0) + (f.dram_write_by_cause[name] || 0), inUnits(1e3, 1)]),
      ["compulsory", "kB", (f) => f.compulsory_bytes, inUnits(1e3, 1)], ["copied on chip", "kB", (f) => f.onchip_copy_bytes, inUnits(1e3, 1)],
      ["scratchpad", "KiB at peak", (f) => f.peak_sbuf_bytes, inUnits(1024, 1)]],
    energy: [...LEVELS.map(([name]) => [name === "mac" ? "MAC" : LEVEL_NAMES[name], "nJ", (f) => f.energy_pj_by_level[name] || 0, inUnits(1e3, 1)]),
      ["sum", "nJ", (f) => f.energy_pj, inUnits(1e3, 1)], ["bound", "nJ", (f) => f.energy_bound_pj, inUnits(1e3, 1)]],
    losses: [["used", "%", (f) => (f.losses_us ? f.losses_us[0] / f.losses_us[7] : NaN), asPercent],
      ...run.loss_steps.map((step, i) => [step.title, "leaves %", (f) => (f.losses_us ? f.losses_us[i] / f.losses_us[i + 1] : NaN), asPercent, true])],
  };
}

function tablePanel(runs) {
  const run = runs[runs.length - 1], groups = columnGroups(run);
  let group = "time", sort = { by: -1, down: false }, filter = "";
  const place = element("div", { class: "scroll" });
  const show = () => {
    const columns = [["#", "", (f) => run.layers.indexOf(f) + 1, (v) => String(v)], ["layer", "", (f) => f.name, (v) => v],
      ["latency", "µs", (f) => f.latency_us, inUnits(1, 2)], ...groups[group]];
    const rows = run.layers.filter((layer) => layer.name.toLowerCase().includes(filter));
    if (sort.by >= 0 && sort.by < columns.length) rows.sort(comparing(columns[sort.by][2], sort.down));
    place.replaceChildren(layerTable(columns, rows, run.totals, sort, show));
  };
  show();
  return section("layers", "Table", runs.length > 1 ? "Layers, after" : "Layers", "A click on a column sorts. Latency: what a layer adds to those before it. Own time: while anything is under way for it; its bound is of that. Hidden: the part of it that the latency of other layers covers.",
    element("div", { class: "bar" },
      choice("columns", Object.keys(groups), group, (name) => { group = name; if (sort.by > 2) sort.by = -1; show(); }),
      element("input", { type: "search", placeholder: "find a layer", "aria-label": "find a layer", oninput: (event) => { filter = event.target.value.toLowerCase(); show(); } })), place);
}

function comparing(value, down) {
  return (a, b) => {
    const [x, y] = [value(a), value(b)];
    const missing = (v) => typeof v === "number" && !Number.isFinite(v);
    if (missing(x) || missing(y)) return missing(x) - missing(y);
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return down ? -order : order;
  };
}

function layerTable(columns, rows, totals, sort, show) {
  const turn = (i) => {
    if (sort.by === i) sort.down = !sort.down;
    else Object.assign(sort, { by: i, down: i > 1 });
    show();
  };
  const head = columns.map(([title, unit], i) => element("th", {
    class: i === 1 ? "" : "number", tabindex: 0, scope: "col", "aria-sort": sort.by === i ? (sort.down ? "descending" : "ascending") : "none",
    onclick: () => turn(i), onkeydown: (event) => { if (event.key === "Enter") turn(i); } }, title, element("small", {}, unit || "\u00a0")));
  const most = columns.map(([, , value, , shaded]) => (shaded ? Math.max(...rows.map(value).filter(Number.isFinite), 1e-12) : 0));
  const body = rows.map((row) => element("tr", {}, columns.map((column, i) => tableCell(column, row, i, most[i]))));
  const foot = element("tr", {}, columns.map(([, , value, text], i) => element("td", { class: i === 1 ? "name" : "number" }, i === 0 ? "" : i === 1 ? "total" : text(value(totals)))));
  return element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body), element("tfoot", {}, foot));
}

function tableCell([, , value, text, shaded], row, i, most) {
  const v = value(row);
  if (!shaded || !Number.isFinite(v)) return element("td", { class: i === 1 ? "name" : "number", title: i === 1 ? v : null }, i === 1 ? shortened(v, LONG_NAME) : text(v));
  const strength = Math.round(38 * Math.max(0, Math.min(1, v / most)));
  return element("td", { class: "number" }, element("span", { class: "cell", style: `background:color-mix(in srgb, var(--accent) ${strength}%, transparent)` }, text(v)));
}
