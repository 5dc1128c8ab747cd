// Two runs beside each other: what changed in every layer.

function comparePanel([before, after]) {
  const changes = pairedLayers(before, after);
  const head = [["layer", ""], ["before", "µs"], ["after", "µs"], ["change", "µs"], ["change", "%"], ["DRAM before", "kB"], ["DRAM after", "kB"],
    ["energy before", "µJ"], ["energy after", "µJ"]];
  let sort = { by: 3, down: false };
  const place = element("div", { class: "scroll" });
  const value = (row, i) => [row.name, row.a?.latency_us, row.b?.latency_us, row.delta, row.a && row.b ? row.b.latency_us / row.a.latency_us : NaN,
    row.a && traffic(row.a), row.b && traffic(row.b), row.a?.energy_pj, row.b?.energy_pj][i];
  const show = () => {
    const rows = [...changes].sort(comparing((row) => value(row, sort.by) ?? NaN, sort.down));
    if (sort.by === 3 && !sort.down) rows.sort((x, y) => Math.abs(y.delta) - Math.abs(x.delta));
    place.replaceChildren(compareTable(head, rows, sort, show, before, after));
  };
  show();
  const only = changes.filter((row) => !row.a || !row.b).length;
  return section("compare", "Changes", "What changed",
    `Layers are matched by name${only ? `; ${only} of ${changes.length} are in one of the runs only` : ""}. Largest change first until you sort.`, deltaBars(changes), place);
}

const traffic = (layer) => layer.dram_read_bytes + layer.dram_write_bytes;

function pairedLayers(before, after) {
  const old = new Map(before.layers.map((layer) => [layer.name, layer]));
  const names = new Set(after.layers.map((layer) => layer.name));
  const rows = after.layers.map((b) => ({ name: b.name, a: old.get(b.name), b }));
  for (const a of before.layers) if (!names.has(a.name)) rows.push({ name: a.name, a, b: undefined });
  for (const row of rows) row.delta = (row.b?.latency_us || 0) - (row.a?.latency_us || 0);
  return rows;
}

/** The largest changes of latency; where there are both, to the left what became faster. */
function deltaBars(changes) {
  const rows = [...changes].filter((row) => row.delta).sort((x, y) => Math.abs(y.delta) - Math.abs(x.delta)).slice(0, 12);
  if (!rows.length) return element("p", { class: "note" }, "No layer's latency changed.");
  const most = Math.abs(rows[0].delta), both = rows.some((row) => row.delta < 0) && rows.some((row) => row.delta > 0);
  return element("div", { class: "rows", style: "margin:10px 0 14px" }, rows.map((row) => {
    const width = ((both ? 50 : 100) * Math.abs(row.delta)) / most, faster = row.delta < 0;
    const bar = element("div", { class: "stack" },
      element("i", { style: `margin-left:${both ? (faster ? 50 - width : 50) : 0}%;width:${width}%;background:var(--${faster ? "good" : "bad"})` }));
    return [element("div", { class: "label", title: row.name }, shortened(row.name, LONG_NAME)), bar, element("div", { class: "number" }, `${faster ? "−" : "+"}${time(Math.abs(row.delta))}`)];
  }));
}

function compareTable(head, rows, sort, show, before, after) {
  const turn = (i) => {
    if (sort.by === i) sort.down = !sort.down;
    else Object.assign(sort, { by: i, down: i > 0 && i !== 3 });
    show();
  };
  const cells = (name, a, b) => [element("td", { class: "name", title: name }, shortened(name, LONG_NAME)),
    ...[a?.latency_us, b?.latency_us, (b?.latency_us || 0) - (a?.latency_us || 0)].map((v, i) => number(v, 1, 2, i === 2)),
    element("td", { class: "number" }, a && b ? change(a.latency_us, b.latency_us, true) : element("span", {}, a ? "gone" : "new")),
    number(a && traffic(a), 1e3, 1), number(b && traffic(b), 1e3, 1), number(a?.energy_pj, 1e6, 2), number(b?.energy_pj, 1e6, 2)];
  const number = (v, factor, decimals, signed) => element("td", { class: "number" }, v === undefined ? "-" : `${!signed || !v ? "" : v > 0 ? "+" : "−"}${grouped(signed ? Math.abs(v) / factor : v / factor, decimals)}`);
  return element("table", {}, element("thead", {}, element("tr", {}, head.map(([title, unit], i) => element("th", { class: i ? "number" : "", tabindex: 0, scope: "col",
    "aria-sort": sort.by === i && i !== 3 ? (sort.down ? "descending" : "ascending") : "none", onclick: () => turn(i), onkeydown: (event) => { if (event.key === "Enter") turn(i); } }, title, element("small", {}, unit || "\u00a0"))))),
  element("tbody", {}, rows.map((row) => element("tr", {}, cells(row.name, row.a, row.b)))),
  element("tfoot", {}, element("tr", {}, cells("total", before.totals, after.totals))));
}
