// Every layer under the roofs of engines and memories, both axes logarithmic. A multiply-accumulate is two operations.

function workOf(layer) {
  return 2 * layer.macs + Object.values(layer.operations).reduce((a, b) => a + b, 0);
}

function rooflinePanel(runs) {
  const box = element("div", { class: "chart", id: "roofline-chart" });
  let over = "DRAM";
  drawn(() => box.replaceChildren(...rooflineChart(runs, over, box.clientWidth || 640)));
  const panel = section("roofline", "Roofline", "Roofline",
    "Operations per second of every layer while anything is under way for it, over operations per byte. A multiply-accumulate is two operations; area grows with latency.",
    element("div", { class: "bar" }, element("label", {}, "bytes of",
      choice("memory", ["DRAM", "scratchpad"], over, (name) => { over = name; redraw(); }))), box);
  return panel;
}

function rooflinePoints(runs, over) {
  const points = [];
  runs.forEach((run, which) => run.layers.forEach((layer) => {
    const work = workOf(layer);
    const moved = over === "DRAM" ? layer.dram_read_bytes + layer.dram_write_bytes : layer.sbuf_bytes;
    if (!layer.own_us) return;
    points.push({ layer, which, work, moved, x: moved ? work / moved : Infinity, y: (1e6 * work) / layer.own_us, share: layer.latency_us / run.totals.latency_us });
  }));
  return points;
}

function roofsOf(machine) {
  const levels = [["tensor engine", 2e9 * machine.peak_macs_per_ns], ...Object.entries(machine.lane_operations_per_ns).map(([name, rate]) => [name, 1e9 * rate])];
  const memories = [["DRAM", 1e9 * machine.dram_bytes_per_ns], ["scratchpad", 1e9 * machine.sbuf_bytes_per_ns]];
  return { levels, memories };
}

function rooflineChart(runs, over, width) {
  const machine = runs[runs.length - 1].machine;
  const { levels, memories } = roofsOf(machine);
  const points = rooflinePoints(runs, over);
  const plotted = points.filter((p) => p.work > 0 && Number.isFinite(p.x));
  const silent = points.filter((p) => p.work === 0), unbounded = points.filter((p) => p.work > 0 && !Number.isFinite(p.x));
  const peak = levels[0][1], ridge = peak / memories[0][1];
  const xs = plotted.map((p) => p.x), ys = plotted.map((p) => p.y);
  const low = Math.min(ridge / 300, peak / memories[1][1] / 8, ...xs.map((x) => x / 2)), high = Math.max(ridge * 12, ...xs.map((x) => x * 2));
  const bottom = Math.min(peak / 3000, ...ys.map((y) => y / 2)), top = peak * 2.6;
  const height = Math.max(330, Math.min(460, width * 0.66));
  const left = 66, right = width - 12, up = 10, down = height - 44;
  const x = (v) => left + (Math.log(v / low) / Math.log(high / low)) * (right - left);
  const y = (v) => down - (Math.log(v / bottom) / Math.log(top / bottom)) * (down - up);
  const chart = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "roofline" });
  if (runs.length > 1) formerRoofs(chart, runs[0].machine, machine, over, { low, high, bottom, x, y });
  rooflineAxes(chart, { low, high, bottom, top, left, right, up, down, x, y, over });
  rooflineRoofs(chart, { levels, memories, low, high, bottom, left, right, up, down, x, y, peak, over });
  /** Whether a box lies on the roof of a memory, or on what is written along it. */
  const crosses = (a, b, above, below) => memories.some(([, rate]) => {
    const heights = [a, b].map((at) => y(rate * low * (high / low) ** ((at - left) / (right - left))));
    return Math.max(...heights) > above - 4 && Math.min(...heights) - 22 < below;
  });
  rooflineDots(chart, plotted, runs, { x, y, left, right, up, down, crosses });
  const notes = [];
  const listed = (found, text) => found.length ? notes.push(element("p", { class: "note", title: found.map((p) => p.layer.name).join("\n") },
    `${grouped(found.length)} ${found.length > 1 ? "layers" : "layer"} ${text}`)) : null;
  listed(silent, "without arithmetic, which only move data, have no place here.");
  listed(unbounded, `move no bytes of ${over} and are bounded by engines alone: ${unbounded.slice(0, 4).map((p) => p.layer.name).join(", ")}${unbounded.length > 4 ? ", …" : ""}.`);
  const names = runs.length > 1 ? [["before", color("c7")], ["after: tensor engine", color("c0")], ["after: lanes only", color("c1")]]
    : [["on the tensor engine", color("c0")], ["on lane engines only", color("c1")]];
  return [legend(names), chart, ...notes];
}

function rooflineAxes(chart, f) {
  const grid = (attributes) => chart.append(element("line", { ...attributes, stroke: "var(--line)" }));
  for (const v of powers(f.low, f.high, (f.right - f.left) / 60)) {
    grid({ x1: f.x(v), x2: f.x(v), y1: f.up, y2: f.down });
    chart.append(element("text", { x: f.x(v), y: f.down + 17, "text-anchor": "middle" }, plain(v)));
  }
  for (const v of powers(f.bottom, f.top, (f.down - f.up) / 34)) {
    grid({ x1: f.left, x2: f.right, y1: f.y(v), y2: f.y(v) });
    chart.append(element("text", { x: f.left - 8, y: f.y(v) + 4, "text-anchor": "end" }, scaled(v, RATE, 1)));
  }
  chart.append(element("text", { x: (f.left + f.right) / 2, y: f.down + 38, "text-anchor": "middle" }, `operations per byte of ${f.over}`));
  chart.append(element("text", { x: 13, y: (f.up + f.down) / 2, "text-anchor": "middle", transform: `rotate(-90 13 ${(f.up + f.down) / 2})` }, "operations per second"));
}

/** Draw the roofs that bound the run before, where they are others. */
function formerRoofs(chart, before, after, over, f) {
  const [old, now] = [before, after].map((machine) => {
    const { levels, memories } = roofsOf(machine);
    return [levels[0][1], memories.find(([name]) => name === over)[1]];
  });
  if (old[0] === now[0] && old[1] === now[1]) return;
  const [peak, rate] = old, start = Math.max(f.low, f.bottom / rate), ridge = Math.min(f.high, peak / rate);
  const points = [[start, start * rate], [ridge, ridge * rate], [f.high, Math.min(peak, f.high * rate)]];
  chart.append(element("path", { d: `M${points.map(([a, b]) => `${f.x(a)} ${f.y(b)}`).join("L")}`, fill: "none", stroke: "var(--c7)", "stroke-width": 1.6, class: "former" }));
}

const plain = (v) => (v >= 0.001 && v < 1e5 ? String(Number(v.toPrecision(1))) : v.toExponential(0));

function rooflineRoofs(chart, f) {
  f.memories.forEach(([name, rate], i) => {
    const start = Math.max(f.low, f.bottom / rate), end = Math.min(f.high, f.peak / rate);
    if (end <= start) return;
    const strong = name === f.over;
    chart.append(element("line", { x1: f.x(start), y1: f.y(rate * start), x2: f.x(end), y2: f.y(rate * end),
      stroke: "var(--ink)", "stroke-width": strong ? 1.8 : 1.1, "stroke-dasharray": strong ? null : "5 4", class: "roof" }));
    const at = Math.exp(Math.log(start) + (Math.log(end) - Math.log(start)) * (i ? 0.5 : 0.36));
    const angle = (Math.atan2(f.y(rate * end) - f.y(rate * start), f.x(end) - f.x(start)) * 180) / Math.PI;
    chart.append(element("text", { class: "strong", "text-anchor": "middle", transform: `translate(${f.x(at)} ${f.y(rate * at)}) rotate(${angle}) translate(0 -6)` },
      `${name} ${scaled(rate, BYTES)}/s`));
  });
  const rate = f.memories.find(([name]) => name === f.over)[1];
  const labels = [];
  for (const [name, level] of f.levels) {
    const start = Math.max(f.low, level / f.memories[1][1]);
    chart.append(element("line", { x1: f.x(start), x2: f.right, y1: f.y(level), y2: f.y(level), class: "roof",
      stroke: "var(--ink)", "stroke-width": level === f.peak ? 1.8 : 1, "stroke-dasharray": level === f.peak ? null : "2 3" }));
    const near = labels.find((label) => Math.abs(label.y - f.y(level)) < 15);
    if (near) {
      near.names.push(name);
      near.y = Math.min(near.y, f.y(level));
    }
    else labels.push({ y: f.y(level), names: [name], level });
  }
  for (const { y, names, level } of labels) {
    const text = names.length > 1 ? names.join(", ") : `${names[0]} ${operations(level)}`;
    chart.append(element("text", { class: "strong", x: f.right, y: y - 5, "text-anchor": "end" }, text));
  }
  const ridge = f.peak / rate;
  if (ridge > f.low && ridge < f.high) {
    chart.append(element("line", { x1: f.x(ridge), x2: f.x(ridge), y1: f.y(f.peak), y2: f.down, stroke: "var(--faint)", "stroke-dasharray": "1 4" }));
    chart.append(element("text", { x: f.x(ridge) + 5, y: f.down - 7 }, `ridge ${significant(ridge)}`));
  }
}

function rooflineDots(chart, points, runs, f) {
  const largest = [...points].sort((a, b) => b.share - a.share);
  for (const p of largest) {
    const before = runs.length > 1 && p.which === 0;
    const fill = before ? "none" : p.layer.macs ? "var(--c0)" : "var(--c1)";
    const dot = element("circle", { cx: f.x(p.x), cy: f.y(p.y), r: 3 + 13 * Math.sqrt(Math.max(0, Math.min(1, p.share))), fill, class: "dot",
      "fill-opacity": 0.62, stroke: before ? "var(--c7)" : fill, "stroke-width": 1.2 });
    chart.append(explained(dot, p.layer.name, () => [runs.length > 1 ? ["run", p.which ? "after" : "before"] : null,
      ["achieved", operations(p.y)], ["intensity", `${significant(p.x)} op/B`], ["operations", scaled(p.work, RATE)], ["bytes", bytes(p.moved)],
      ["latency", `${time(p.layer.latency_us)} (${percent(p.share)})`], ["own time", time(p.layer.own_us)]]));
  }
  const placed = [];
  for (const p of largest.filter((q) => q.which === runs.length - 1).slice(0, 12)) {
    const name = shortened(p.layer.name, 26);
    const w = name.length * 6.6, cx = f.x(p.x), cy = f.y(p.y), r = 5 + 13 * Math.sqrt(Math.max(0, p.share));
    const spots = [[cx + r, cy + 4], [cx - r - w, cy + 4], [cx - w / 2, cy + r + 11], [cx - w / 2, cy - r - 3]];
    const free = spots.find(([a, b]) => a > f.left && a + w < f.right && b > f.up + 10 && b < f.down - 4 &&
      !f.crosses(a, a + w, b - 12, b + 4) && !placed.some((q) => a < q[0] + q[2] && a + w > q[0] && Math.abs(b - q[1]) < 14) &&
      !points.some((q) => q !== p && f.x(q.x) > a - 4 && f.x(q.x) < a + w + 4 && f.y(q.y) > b - 13 && f.y(q.y) < b + 5));
    if (!free || placed.length > 5) continue;
    placed.push([free[0], free[1], w]);
    chart.append(element("text", { x: free[0], y: free[1], "pointer-events": "none" }, name));
  }
}
