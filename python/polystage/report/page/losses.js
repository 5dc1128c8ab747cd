// From peak to achieved in seven steps, for the program or a layer.

const STEP_COLORS = ["c4", "c6", "c5", "c2", "c1", "c3", "c7"];

function lossPanel(runs) {
  const body = element("div");
  const names = runs[runs.length - 1].layers.filter((layer) => layer.losses_us).map((layer) => layer.name);
  const show = (i) => body.replaceChildren(lossSteps(runs, i ? names[i - 1] : null));
  show(0);
  return section("losses", "Losses", "From peak to achieved",
    "Each limit turns the bound before it into a lower one. The product of the seven shares is the measured utilisation of the tensor engine.",
    element("div", { class: "bar" }, selection("of", ["the whole program", ...names], show)), body);
}

/** Return the eight times of the program or a layer of a run. */
function lossTimes(run, name) {
  if (name === null) return run.totals.losses_us;
  const layer = run.layers.find((candidate) => candidate.name === name);
  return layer ? layer.losses_us : null;
}

function lossSteps(runs, name) {
  const all = runs.map((run) => lossTimes(run, name)).filter(Boolean);
  if (!all.length) return element("p", { class: "note" }, "Nothing is multiplied on the tensor engine.");
  const steps = runs[0].loss_steps;
  const last = all[all.length - 1];
  const grid = element("div", { class: all.length > 1 ? "steps two" : "steps" },
    ["", "share of the peak", "leaves", "bound"].map((text, i) => element("div", { class: i > 1 ? "head number" : "head" }, text)));
  const row = (title, small, tracks, leaves, bound, last) => grid.append(
    element("div", { class: "name" }, title, small ? element("small", {}, small) : null),
    element("div", { class: last ? "last" : "" }, tracks),
    element("div", { class: "number" }, leaves), element("div", { class: "number" }, bound));
  row("peak", `all ${grouped(runs[0].machine.rows)} × ${grouped(runs[0].machine.columns)} PEs in every cycle`,
    all.map((t) => track([[1, "all", ""]], `peak: ${time(t[0])}`)), "", percent(1), false);
  steps.forEach((step, i) => {
    const tracks = all.map((t) => track([[t[0] / t[i + 1], "kept", ""], [t[0] / t[i] - t[0] / t[i + 1], "", STEP_COLORS[i]]],
      `${step.title}: ${time(t[i])} becomes ${time(t[i + 1])}`));
    const cells = (text) => all.map((t) => text(t)).join("  →  ");
    row(step.title, step.explanation, tracks, `× ${cells((t) => (t[i] / t[i + 1]).toFixed(3))}`, cells((t) => percent(t[0] / t[i + 1])), false);
  });
  row(element("b", {}, "achieved"), `${time(last[7])}${name === null ? "" : " in which anything is under way for this layer"}`,
    all.map((t) => track([[t[0] / t[7], "kept", ""]], "achieved")), "", element("b", {}, all.map((t) => percent(t[0] / t[7])).join("  →  ")), true);
  return grid;
}

function track(parts, title) {
  return element("div", { class: "track", title }, parts.map(([share, name, fill]) =>
    element("i", { class: name, style: `width:${100 * Math.max(0, share)}%${fill ? `;background:var(--${fill})` : ""}` })));
}
