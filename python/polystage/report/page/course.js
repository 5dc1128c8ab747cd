// The course of a run on one axis of time: queues, DRAM bandwidth, and who occupies which bytes on chip.

const TRACK = 20, GUTTER = 86, CURVE = 56, MAP = 190, HAIR = 0.6;

function coursePanels(runs) {
  let course = new Course(runs[runs.length - 1]);
  const boxes = { timeline: element("div"), memory: element("div") };
  const place = () => {
    boxes.timeline.replaceChildren(course.overview, course.timeline, course.readout);
    boxes.memory.replaceChildren(...course.maps);
    course.draw();
  };
  const picked = runs.length > 1 ? choice("run", ["before", "after"], "after", (name) => {
    course = new Course(runs[name === "after" ? 1 : 0]);
    place();
  }) : null;
  const button = (text, title, act) => element("button", { type: "button", title, onclick: () => act() }, text);
  const names = runs[runs.length - 1].layers.map((layer) => layer.name);
  const timeline = section("timeline", "Timeline", "Timeline",
    "What every queue does when. Drag over the strip on top to look closer, drag the chart to move, turn the wheel with Ctrl to zoom; arrow keys, + and − do too.",
    element("div", { class: "bar" }, picked, button("+", "Look closer", () => course.zoom(0.5)), button("−", "Look from further away", () => course.zoom(2)),
      button("Whole run", "Show everything", () => course.show(0, course.end)),
      selection("go to", ["choose a layer", ...names], (i) => { if (i) course.goTo(names[i - 1]); })), boxes.timeline);
  const memory = section("memory", "Memory", "On-chip memory over time",
    "Each block is a buffer: when it is in use, and which bytes of every partition it has. Colours tell neighbouring layers apart, as in the timeline, with which it shares the axis.", boxes.memory);
  const panels = [timeline, memory];
  new ResizeObserver(() => course.draw()).observe(boxes.timeline);
  drawn(() => { if (boxes.timeline.isConnected) course.draw(); });
  place();
  return panels;
}

class Course {
  constructor(run) {
    this.run = run;
    const t = run.timeline;
    this.end = Math.max(1, t.end_ns);
    this.from = 0;
    this.to = this.end;
    this.starts = summed(t.start_ns);
    this.tracks = this.usedTracks();
    this.spans = layerSpans(run, this.starts);
    this.overview = this.canvas("overview", "overview of the run; drag to choose a part");
    this.timeline = this.canvas("queues", "timeline of the queues");
    this.readout = element("p", { class: "note readout" });
    const memory = run.memory;
    this.residences = { start: summed(memory.start_ns) };
    this.maps = this.mapList().map((map) => {
      map.canvas = this.canvas("map", `${map.name} over time`);
      return element("div", {}, element("h3", {}, map.title), map.canvas);
    });
    if (memory.left_out) this.maps.push(element("p", { class: "note" }, `${grouped(memory.left_out)} of the shortest stays are left out.`));
    this.listen();
  }

  canvas(name, label) {
    return element("canvas", { class: name, tabindex: 0, role: "img", "aria-label": label });
  }

  usedTracks() {
    const t = this.run.timeline, used = new Set(t.track);
    return [...used].sort((a, b) => a - b).map((track) => {
      const core = Math.floor(track / t.queues.length), queue = t.queues[track % t.queues.length];
      return { track, name: t.cores > 1 ? `${core}: ${queue}` : queue };
    });
  }

  mapList() {
    const machine = this.run.machine, found = [];
    for (let core = 0; core < this.run.timeline.cores; core++) {
      for (const [memory, name, size] of [[0, "sbuf", machine.sbuf_bytes_per_partition], [1, "psum", machine.psum_bytes_per_partition]]) {
        if (!size) continue;
        const suffix = this.run.timeline.cores > 1 ? `, core ${core}` : "";
        const label = memory ? "psum" : "Scratchpad (sbuf)";
        const partitions = memory ? machine.psum_partitions : machine.sbuf_partitions;
        const parts = partitions > 1 ? ` in each of ${partitions} partitions` : "";
        found.push({ core, memory, name, size, title: `${label}${suffix}: ${binary(size)}${parts}` });
      }
    }
    this.mapsOf = found;
    return found;
  }

  // --- geometry ---

  get width() {
    return this.timeline.clientWidth || 800;
  }

  x(ns) {
    return GUTTER + ((ns - this.from) / (this.to - this.from)) * (this.width - GUTTER - 8);
  }

  ns(x) {
    return this.from + ((x - GUTTER) / (this.width - GUTTER - 8)) * (this.to - this.from);
  }

  show(from, to) {
    const length = Math.min(this.end, Math.max(20, to - from));
    this.from = Math.max(0, Math.min(this.end - length, from));
    this.to = this.from + length;
    this.draw();
  }

  zoom(factor, around = (this.from + this.to) / 2) {
    this.show(around - (around - this.from) * factor, around + (this.to - around) * factor);
  }

  goTo(name) {
    const layer = this.run.layers.findIndex((candidate) => candidate.name === name);
    const t = this.run.timeline;
    let from = Infinity, to = 0;
    t.layer.forEach((number, i) => {
      if (number !== layer) return;
      from = Math.min(from, this.starts[i]);
      to = Math.max(to, this.starts[i] + t.busy_ns[i]);
    });
    if (to) this.show(from - (to - from) * 0.05, to + (to - from) * 0.05);
  }

  // --- events ---

  listen() {
    for (const canvas of [this.timeline, ...this.mapsOf.map((map) => map.canvas)]) {
      this.pan(canvas);
      canvas.addEventListener("wheel", (event) => {
        if (event.ctrlKey || event.metaKey) this.zoom(Math.exp(event.deltaY / 300), this.ns(event.offsetX));
        else if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.shift(event.deltaX);
        else return;
        event.preventDefault();
      }, { passive: false });
      canvas.addEventListener("keydown", (event) => {
        const act = { ArrowLeft: () => this.shift(-80), ArrowRight: () => this.shift(80), "+": () => this.zoom(0.5), "-": () => this.zoom(2), Home: () => this.show(0, this.end) }[event.key];
        if (act) { event.preventDefault(); act(); }
      });
      canvas.addEventListener("dblclick", (event) => this.zoom(0.25, this.ns(event.offsetX)));
      canvas.addEventListener("pointerleave", hideTip);
    }
    this.timeline.addEventListener("pointermove", (event) => this.explainQueue(event));
    for (const map of this.mapsOf) map.canvas.addEventListener("pointermove", (event) => this.explainBuffer(map, event));
    this.brush();
  }

  shift(pixels) {
    const by = (pixels / (this.width - GUTTER)) * (this.to - this.from);
    this.show(this.from + by, this.to + by);
  }

  pan(canvas) {
    let last = null;
    canvas.addEventListener("pointerdown", (event) => { last = event.clientX; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointerup", () => { last = null; });
    canvas.addEventListener("pointermove", (event) => {
      if (last === null) return;
      this.shift(last - event.clientX);
      last = event.clientX;
    });
  }

  brush() {
    const whole = (x) => Math.max(0, Math.min(1, (x - GUTTER) / (this.width - GUTTER - 8))) * this.end;
    let start = null;
    this.overview.addEventListener("pointerdown", (event) => { start = whole(event.offsetX); this.overview.setPointerCapture(event.pointerId); });
    this.overview.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const now = whole(event.offsetX);
      if (Math.abs(now - start) > this.end / 2000) this.show(Math.min(start, now), Math.max(start, now));
    });
    this.overview.addEventListener("pointerup", (event) => {
      if (start !== null && Math.abs(whole(event.offsetX) - start) <= this.end / 2000) {
        const half = (this.to - this.from) / 2;
        this.show(start - half, start + half);
      }
      start = null;
    });
    this.overview.addEventListener("dblclick", () => this.show(0, this.end));
  }

  // --- drawing ---

  palette() {
    const keys = ["c0", "c1", "c2", "c4", "c5", "c3", "c6"];
    return { layers: keys.map(color), ink: color("ink"), muted: color("muted"), line: color("line"), panel: color("panel"), accent: color("accent"), hover: color("hover") };
  }

  draw() {
    if (!this.timeline.clientWidth) return;
    this.colors = this.palette();
    this.drawOverview();
    this.drawTimeline();
    for (const map of this.mapsOf) this.drawMap(map);
  }

  fill(layer) {
    return layer < 0 ? this.colors.muted : this.colors.layers[layer % this.colors.layers.length];
  }

  label(context, text, y, strong = false) {
    context.fillStyle = strong ? this.colors.ink : this.colors.muted;
    context.textAlign = "right";
    context.fillText(text, GUTTER - 8, y);
    context.textAlign = "left";
  }

  font(context) {
    context.font = '12px system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif';
    context.textBaseline = "middle";
  }

  drawOverview() {
    const height = 40, width = this.width, t = this.run.timeline;
    const context = sharp(this.overview, width, height);
    this.font(context);
    const room = width - GUTTER - 8, busy = new Float64Array(Math.ceil(room));
    const engines = this.tracks.filter((track) => !this.isDma(track.track)).map((track) => track.track);
    t.track.forEach((track, i) => {
      if (!engines.includes(track)) return;
      const a = (this.starts[i] / this.end) * room, b = ((this.starts[i] + t.busy_ns[i]) / this.end) * room;
      for (let x = Math.floor(a); x < Math.min(busy.length, Math.ceil(b)); x++) busy[x] += Math.max(0, Math.min(b, x + 1) - Math.max(a, x));
    });
    this.label(context, "engines", 13);
    this.label(context, "at work", 27);
    context.fillStyle = this.colors.hover;
    context.fillRect(GUTTER, 2, room, height - 4);
    context.fillStyle = this.colors.accent;
    const most = Math.max(1, engines.length);
    busy.forEach((value, x) => context.fillRect(GUTTER + x, height - 2 - ((height - 4) * value) / most, 1, ((height - 4) * value) / most));
    const from = GUTTER + (this.from / this.end) * room, to = GUTTER + (this.to / this.end) * room;
    context.fillStyle = this.colors.panel;
    context.globalAlpha = 0.66;
    context.fillRect(GUTTER, 0, from - GUTTER, height);
    context.fillRect(to, 0, GUTTER + room - to, height);
    context.globalAlpha = 1;
    context.strokeStyle = this.colors.ink;
    context.strokeRect(Math.round(from) + 0.5, 0.5, Math.max(2, Math.round(to - from) - 1), height - 1);
  }

  isDma(track) {
    const t = this.run.timeline;
    return t.queues[track % t.queues.length].startsWith("dma");
  }

  drawTimeline() {
    const rows = this.tracks.length + 1, top = 24, height = top + rows * TRACK + 12 + 2 * (CURVE + 12);
    const context = sharp(this.timeline, this.width, height);
    this.font(context);
    this.drawAxis(context, top, height);
    this.label(context, this.run.timeline.cores > 1 ? "0: layers" : "layers", top + TRACK / 2, true);
    this.spans.forEach((span) => this.block(context, span.start, span.end, top, this.fill(span.layer), this.run.layers[span.layer].name));
    this.rowOf = new Map();
    this.tracks.forEach((track, i) => {
      const y = top + (i + 1) * TRACK;
      this.rowOf.set(track.track, y);
      context.fillStyle = this.colors.hover;
      context.fillRect(GUTTER, y + 2, this.width - GUTTER - 8, TRACK - 4);
      this.label(context, track.name, y + TRACK / 2, true);
    });
    const t = this.run.timeline;
    for (let i = 0; i < this.starts.length; i++) this.block(context, this.starts[i], this.starts[i] + t.busy_ns[i], this.rowOf.get(t.track[i]), this.fill(t.layer[i]), this.opName(i));
    let y = top + rows * TRACK + 14;
    const dram = this.run.dram;
    const peak = t.cores > 1 ? this.run.machine.device_dram_bytes_per_ns : this.run.machine.dram_bytes_per_ns;
    this.curve(context, y, "DRAM", `${scaled(1e9 * peak, BYTES)}/s`, dram.bytes_per_ns.map((v, i) => [i * dram.bin_ns, v]), peak, this.colors.layers[5]);
    y += CURVE + 12;
    const capacity = this.run.machine.sbuf_bytes_per_partition * this.run.machine.sbuf_partitions * t.cores;
    this.curve(context, y, "sbuf", binary(capacity), this.occupied(), capacity, this.colors.layers[1]);
  }

  opName(i) {
    const t = this.run.timeline, op = t.ops[t.op[i]];
    return (op ? op[0] : "").replace(/^npu\./, "");
  }

  drawAxis(context, top, height) {
    context.fillStyle = this.colors.muted;
    context.strokeStyle = this.colors.line;
    context.lineWidth = 1;
    const room = this.width - GUTTER;
    const marks = ticks(this.from, this.to, Math.max(2, room / 110));
    for (const mark of marks) {
      const x = Math.round(this.x(mark)) + 0.5;
      context.beginPath();
      context.moveTo(x, top - 6);
      context.lineTo(x, height);
      context.stroke();
      context.textAlign = x > this.width - 40 ? "right" : x < GUTTER + 20 ? "left" : "center";
      context.fillText(axisTime(mark, marks.length > 1 ? marks[1] - marks[0] : mark, this.to), x, 9);
    }
    context.textAlign = "left";
  }

  block(context, start, end, y, fill, name) {
    if (end < this.from || start > this.to) return;
    const a = Math.max(GUTTER, this.x(start)), b = Math.min(this.width - 8, this.x(end));
    const width = Math.max(HAIR, b - a - (b - a > 4 ? 0.7 : 0));
    context.fillStyle = fill;
    context.fillRect(a, y + 2, width, TRACK - 4);
    if (width > 30) this.inside(context, name, a + 4, y + TRACK / 2 + 0.5, width - 8);
  }

  inside(context, text, x, y, room) {
    const width = context.measureText(text).width;
    if (width > room) {
      const fits = Math.floor((text.length * room) / width) - 1;
      if (fits < 3) return;
      text = `${text.slice(0, fits)}…`;
    }
    context.fillStyle = color("on");
    context.fillText(text, x, y);
  }

  curve(context, y, name, most, points, peak, fill) {
    this.label(context, name, y + 12, true);
    this.label(context, most, y + 28);
    context.fillStyle = this.colors.hover;
    context.fillRect(GUTTER, y, this.width - GUTTER - 8, CURVE);
    context.save();
    context.beginPath();
    context.rect(GUTTER, y, this.width - GUTTER - 8, CURVE);
    context.clip();
    context.fillStyle = fill;
    context.beginPath();
    context.moveTo(this.x(0), y + CURVE);
    let height = 0;
    for (const [at, value] of points) {
      context.lineTo(this.x(at), y + CURVE - height);
      height = (CURVE * Math.min(value, peak)) / peak;
      context.lineTo(this.x(at), y + CURVE - height);
    }
    context.lineTo(this.x(this.end), y + CURVE - height);
    context.lineTo(this.x(this.end), y + CURVE);
    context.fill();
    context.restore();
  }

  /** Return [time, bytes] whenever the occupied bytes of sbuf change. */
  occupied() {
    if (this.occupancy) return this.occupancy;
    const m = this.run.memory, changes = new Map();
    this.residences.start.forEach((start, i) => {
      if (m.memory[i] !== 0) return;
      const size = m.bytes[i] * m.partitions[i], end = start + m.length_ns[i];
      changes.set(start, (changes.get(start) || 0) + size);
      changes.set(end, (changes.get(end) || 0) - size);
    });
    let sum = 0;
    this.occupancy = [...changes].sort((a, b) => a[0] - b[0]).map(([at, by]) => [at, (sum += by)]);
    return this.occupancy;
  }

  drawMap(map) {
    const top = 22, height = top + (map.memory ? MAP * 0.62 : MAP) + 6, down = height - 6;
    const context = sharp(map.canvas, this.width, height);
    this.font(context);
    context.fillStyle = this.colors.hover;
    context.fillRect(GUTTER, top, this.width - GUTTER - 8, down - top);
    this.drawAxis(context, top, height);
    map.y = (address) => down - (address / map.size) * (down - top);
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      const y = Math.min(down - 5, Math.max(top + 6, map.y(part * map.size)));
      this.label(context, binary(part * map.size), y);
    }
    const m = this.run.memory;
    this.residences.start.forEach((start, i) => {
      if (m.memory[i] !== map.memory || m.core[i] !== map.core) return;
      const end = start + m.length_ns[i];
      if (end < this.from || start > this.to) return;
      const a = Math.max(GUTTER, this.x(start)), b = Math.min(this.width - 8, this.x(end));
      const y = map.y(m.address[i] + m.bytes[i]), h = map.y(m.address[i]) - y;
      context.fillStyle = this.fill(m.layer[i]);
      context.globalAlpha = 0.86;
      context.fillRect(a, y, Math.max(HAIR, b - a - (b - a > 5 ? 0.7 : 0)), Math.max(HAIR, h - (h > 4 ? 0.7 : 0)));
      context.globalAlpha = 1;
      if (b - a > 60 && h > 14) this.inside(context, m.names[m.name[i]], a + 4, y + h / 2, b - a - 8);
    });
  }

  // --- explanations ---

  explainQueue(event) {
    const at = this.ns(event.offsetX), y = event.offsetY, t = this.run.timeline;
    const near = (this.to - this.from) / this.width;
    if (y > 24 && y < 24 + TRACK) {
      const span = this.spans.find((s) => at >= s.start && at < s.end);
      if (!span) return hideTip();
      const layer = this.run.layers[span.layer];
      return showTip(event, layer.name, [["latency", time(layer.latency_us)], ["bound", time(layer.latency_bound_us)], ["used", percent(layer.macs ? layer.losses_us[0] / layer.losses_us[7] : NaN)]]);
    }
    let best = -1;
    for (const [track, row] of this.rowOf) {
      if (y < row || y >= row + TRACK) continue;
      for (let i = 0; i < this.starts.length; i++) {
        if (t.track[i] === track && this.starts[i] - near <= at && at <= this.starts[i] + t.busy_ns[i] + near) best = i;
      }
    }
    if (best < 0) return hideTip();
    const op = t.ops[t.op[best]] || ["", ""];
    const many = t.instructions[best] > 1;
    return showTip(event, many ? `${t.instructions[best]} instructions` : op[0], [["layer", this.run.layers[t.layer[best]].name], many ? null : ["kernel", op[1]],
      ["starts", time(this.starts[best] / 1e3)], ["busy", time(t.busy_ns[best] / 1e3)], this.run.inferences > 1 ? ["inference", t.inference[best]] : null]);
  }

  explainBuffer(map, event) {
    const at = this.ns(event.offsetX), near = (this.to - this.from) / this.width, m = this.run.memory;
    let best = -1;
    this.residences.start.forEach((start, i) => {
      if (m.memory[i] !== map.memory || m.core[i] !== map.core || start - near > at || start + m.length_ns[i] + near < at) return;
      if (event.offsetY >= map.y(m.address[i] + m.bytes[i]) - 1 && event.offsetY <= map.y(m.address[i]) + 1) best = i;
    });
    if (best < 0) return hideTip();
    const start = this.residences.start[best];
    return showTip(event, m.names[m.name[best]], [["layer", m.layer[best] < 0 ? "-" : this.run.layers[m.layer[best]].name],
      ["addresses", `${grouped(m.address[best])} to ${grouped(m.address[best] + m.bytes[best])}`], ["size", `${binary(m.bytes[best])} in ${m.partitions[best]} partitions`],
      ["from", time(start / 1e3)], ["for", time(m.length_ns[best] / 1e3)]]);
  }
}

/** Return the layers' parts of the first core's run: each from where the ones before it have ended to its own end. */
function layerSpans(run, starts) {
  const t = run.timeline, spans = [];
  const ends = new Map();
  t.layer.forEach((layer, i) => {
    if (t.track[i] >= t.queues.length) return; // of another core
    const key = layer * 65536 + t.inference[i];
    const stop = starts[i] + t.busy_ns[i];
    if (!(ends.get(key)?.end >= stop)) ends.set(key, { layer, end: stop, inference: t.inference[i] });
  });
  let reached = 0;
  for (const { layer, end } of [...ends.values()].sort((a, b) => a.inference - b.inference || a.layer - b.layer)) {
    if (end > reached) spans.push({ layer, start: reached, end });
    reached = Math.max(reached, end);
  }
  return spans;
}

/** Return a time of an axis whose marks are `step` apart, in the unit of its last one. */
function axisTime(ns, step, last) {
  const [factor, unit] = [[1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]].find(([f]) => last >= f) || [1, "ns"];
  const decimals = Math.max(0, Math.min(6, -Math.floor(Math.log10(step / factor) + 1e-9)));
  return `${grouped(ns / factor, decimals)} ${unit}`;
}
