// The page: one run, or two beside each other.

const runs = JSON.parse(document.getElementById("data").textContent).runs;

function portPanel(run) {
  if (!run.port_conflicts.length) return null;
  const rows = run.port_conflicts.map((c) => element("tr", {}, [c.memory, c.queue, c.op, c.other].map((text) => element("td", {}, text)),
    [grouped(c.count), time(c.stall_us)].map((text) => element("td", { class: "number" }, text))));
  return section("ports", "Ports", "Waits for a port", "Some engines cannot use a memory at the same time; who waited for whom.",
    element("table", {}, element("thead", {}, element("tr", {}, ["memory", "queue", "operation", "waited for"].map((t) => element("th", {}, t)),
      ["times", "in all"].map((t) => element("th", { class: "number" }, t)))), element("tbody", {}, rows)));
}

function phasesNote(run) {
  const text = Object.entries(run.phases_s).map(([name, seconds]) => `${name} ${seconds.toFixed(2)} s`).join(", ");
  return element("p", { class: "note", style: "margin-top:18px" }, `Simulated, not measured; energy and area after the figures of the target file. ${text ? `This took: ${text}.` : ""}`);
}

function build() {
  const last = runs[runs.length - 1];
  learnNames(last.layers.map((layer) => layer.name));
  const nav = element("nav");
  const page = document.getElementById("page");
  document.body.append(tip);
  const head = header(runs);
  page.append(nav, head, ...runs.map(flowNote).filter(Boolean));
  const panels = [runs.length > 1 ? comparePanel(runs) : null, lossPanel(runs)].filter(Boolean);
  page.append(...panels);
  const pair = element("div", { class: "pair" });
  page.append(pair);
  const roofline = element("div");
  page.append(roofline);
  pair.append(totalsPanel("bytes", "Bytes", "Bytes by cause", runs, "DRAM bytes by cause"), totalsPanel("energy", "Energy", "Energy by level", runs, "energy by level"));
  roofline.append(rooflinePanel(runs));
  page.append(barsPanel(runs));
  const place = element("div");
  page.append(place);
  place.append(...coursePanels(runs));
  page.append(tablePanel(runs), portPanel(last) || "", phasesNote(last));
  for (const found of page.querySelectorAll("section")) nav.append(element("a", { href: `#${found.id}` }, found.dataset.short));
  nav.append(element("span", { class: "space" }), themeButton());
}

build();
