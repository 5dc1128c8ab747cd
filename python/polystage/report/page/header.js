// The head of the page: what ran, and its totals beside their bounds; of two runs, the second beside the first.

function facts(run) {
  const parts = [["target", run.target], ["arithmetic", run.dtype], ["batch", run.batch], ["order", run.order],
    run.machine.area_mm2 ? ["area estimate", `${significant(Object.values(run.machine.area_mm2).reduce((a, b) => a + b, 0))} mm²`] : null,
    run.cores > 1 ? ["cores", run.cores] : null, run.flow && run.flow.inferences > 1 ? ["inferences", run.flow.inferences] : null];
  return element("p", { class: "facts" }, parts.filter((p) => p && p[1]).map(([name, value], i) =>
    [i ? " · " : "", `${name} `, element("b", {}, String(value))]).flat(), " · ", checkText(run.check));
}

function checkText(check) {
  if (check.reference === null) return element("span", {}, `result not checked: ${check.reason}`);
  const error = check.max_rel_error === null ? "not finite" : check.max_rel_error.toExponential(1);
  return element("span", { class: check.passed ? "passed" : "failed" },
    `${check.passed ? "equal to" : "DIFFERS from"} ${check.reference}: error ${error}, allowed ${check.tolerance.toExponential(1)}`);
}

/** One figure: `lowerIsBetter` is null where neither is. */
function totalsOf(run) {
  const t = run.totals, machine = run.machine;
  const capacity = machine.sbuf_partitions * machine.sbuf_bytes_per_partition;
  const dram = t.dram_read_bytes + t.dram_write_bytes;
  const many = run.inferences > 1;
  const entries = [
    [many ? `Time of ${grouped(run.inferences)} runs` : "Latency", t.latency_us, time, t.latency_bound_us, (b) => `bound ${time(b)}, ${times(t.latency_us / b)} that`, true],
    ["Throughput", run.flow.throughput_per_s, (v) => `${significant(v, 4)} /s`, (1e6 * run.inferences * run.cores) / t.latency_bound_us,
      (b) => `bound ${significant(b, 4)} inferences/s`, false],
    ["Utilisation", t.utilization, (v) => percent(v), t.utilization_bound, (b) => `at most ${percent(b)}`, false],
    ["DRAM traffic", dram, bytes, t.compulsory_bytes, (b) => `compulsory ${bytes(b)}, ${times(dram / b)} that`, true],
    ["Energy", t.energy_pj, energy, t.energy_bound_pj, (b) => `bound ${energy(b)}, ${times(t.energy_pj / b)} that`, true],
    ["Scratchpad peak", t.peak_sbuf_bytes, binary, capacity, (b) => `of ${binary(b)}, ${percent(t.peak_sbuf_bytes / b)}`, null],
  ];
  return entries.map(([what, value, text, bound, boundText, lowerIsBetter]) => ({ what, value, text, bound, boundText, lowerIsBetter }));
}

function tiles(runs) {
  const all = runs.map(totalsOf);
  return element("div", { class: "tiles" }, all[0].map((first, i) => {
    const figure = all[all.length - 1][i];
    const ratio = figure.lowerIsBetter === true ? figure.bound / figure.value : figure.value / figure.bound;
    const [number, unit] = split(figure.text(figure.value));
    return element("div", { class: "tile" },
      element("div", { class: "what" }, figure.what),
      element("div", { class: "value" }, number, element("small", {}, unit)),
      element("div", { class: "meter", title: "share of the bound" }, element("i", { style: `width:${Math.min(100, 100 * ratio || 0)}%` })),
      element("div", { class: "bound" }, figure.boundText(figure.bound)),
      runs.length > 1 ? changeLine(first, figure) : null);
  }));
}

function split(text) {
  const at = text.indexOf(" ");
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at)];
}

function changeLine(before, after) {
  return element("div", { class: "bound" }, `before ${before.text(before.value)}, `, change(before.value, after.value, after.lowerIsBetter));
}

/** Return "+12.3 %" in the colour of good or bad. */
function change(before, after, lowerIsBetter) {
  if (before === after) return element("span", {}, "the same");
  if (!before) return element("span", {}, "new");
  const ratio = after / before - 1;
  const better = lowerIsBetter === null ? null : ratio < 0 === lowerIsBetter;
  const name = better === null || Math.abs(ratio) < 5e-4 ? "" : better ? "better" : "worse";
  return element("span", { class: name }, `${ratio < 0 ? "−" : "+"}${grouped(100 * Math.abs(ratio), 1)} %`);
}

function header(runs) {
  const last = runs[runs.length - 1];
  const same = runs.every((run) => run.model === last.model);
  const title = runs.length > 1 && !same ? `${runs[0].model} → ${last.model}` : last.model;
  const about = runs.length > 1
    ? runs.map((run, i) => element("p", { class: "facts" }, element("b", {}, i ? "after" : "before"), `  ${run.model}`, facts(run)))
    : [facts(last)];
  return element("header", {}, element("h1", {}, title), about, tiles(runs));
}

/** Throughput, latency and how many are in flight, which Little's law ties together. */
function flowNote(run) {
  const f = run.flow;
  if (!f || f.inferences < 2) return null;
  return element("p", { class: "note" }, `${grouped(f.inferences)} inferences in ${time(f.total_us)}: ${significant(f.throughput_per_s, 5)} per second, ` +
    `each ${time(f.mean_latency_us)} from its first instruction to its last; on average ${significant(f.mean_in_flight, 4)} in flight (Little's law: throughput × latency).` +
    (run.cores > 1 ? ` Time, utilisation, bytes, energy and layers are those of core 0 and its ${grouped(run.inferences)} inferences.` : ""));
}
