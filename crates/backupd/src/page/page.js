// The status page: asks for the overview every few seconds and draws it. It changes nothing.
"use strict";

const ASK_EVERY = 3000;
const BACKUPS_SHOWN = 30;
const SPANS = [["1 hour", 3.6e6], ["1 day", 8.64e7], ["1 week", 6.048e8], ["all", Infinity]];
const element = (id) => document.getElementById(id);
let span = Infinity;
let overview = null;
let chosen = null;
let view = null;

// ---- words

const pad = (number) => String(number).padStart(2, "0");
const time = (text) => text === null || text === undefined ? "not known" : new Date(text).toISOString().slice(0, 19).replace("T", " ") + " UTC";
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function size(bytes) {
  if (bytes === null || bytes === undefined) return "not known";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
  return `${bytes >= 100 || unit === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
}

function duration(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 86400 * 2) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
  return `${Math.floor(seconds / 86400)} days ${Math.floor(seconds % 86400 / 3600)} h`;
}

const age = (text) => duration(Date.parse(overview.now) - Date.parse(text));
const ahead = (text) => duration(Date.parse(text) - Date.parse(overview.now));

// ---- asking

async function ask(path) {
  const token = sessionStorage.getItem("token");
  const answer = await fetch(path, token ? { headers: { Authorization: `Bearer ${token}` } } : {});
  if (answer.status === 401) {
    element("refused").textContent = token ? "This token is not the right one." : "";
    element("login").hidden = false;
    sessionStorage.removeItem("token");
    throw new Error("a token is asked for");
  }
  element("login").hidden = true;
  const body = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body.error), { hint: body.hint });
  return body;
}

async function refresh() {
  try {
    overview = await ask("api/v1/overview");
    show();
  } catch (error) {
    state("bad", `the service does not answer: ${error.message}`);
  }
}

// ---- showing

function state(kind, text) {
  element("state").className = kind;
  element("state").textContent = text;
}

function make(name, attributes = {}, text = null) {
  const svg = ["g", "line", "path", "rect", "text", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

function show() {
  const { figures } = overview;
  element("cluster").textContent = overview.cluster;
  document.title = `${overview.ready ? "" : "✗ "}${overview.cluster} – Drydock`;
  if (!overview.ready) state("bad", overview.reasons.join("; "));
  else if (overview.server) state("good", `archiving from ${overview.server}, timeline ${overview.timeline}`);
  else state("good", "standing by: another service archives");
  element("about").textContent = `Drydock ${overview.version}, ${overview.repository}, ${time(overview.now)}`;
  const findings = figures ? figures.findings : [];
  element("findings").hidden = findings.length === 0;
  element("findings").replaceChildren(...findings.map((text) => make("p", {}, text)));
  showFacts();
  showNodes();
  if (!figures) return;
  showReach();
  drawTimeline();
  drawSizes();
  showBackups();
}

function showFacts() {
  const { figures } = overview;
  const facts = [];
  const add = (name, value, more = "") => facts.push([name, value, more]);
  const window = figures && figures.windows.at(-1);
  if (figures) {
    add("Restorable from", window ? time(window.from) : "nothing yet", window ? `${age(window.from)} ago` : "a backup and its WAL are needed");
    add("Restorable until", window ? time(window.to) : "nothing yet", window ? `WAL ends at ${window.to_lsn}` : "");
  }
  add("Lag", overview.lag_bytes === null ? "not known" : size(overview.lag_bytes),
    overview.behind_seconds > 1 ? `behind for ${duration(overview.behind_seconds * 1000)}` : "");
  if (figures) {
    const last = figures.backups.at(-1);
    add("Last backup", last ? `${age(last.finished_at)} ago` : "none",
      last ? `${size(last.size_bytes)} in ${duration(Date.parse(last.finished_at) - Date.parse(last.started_at))}` : "run backupctl backup");
    for (const running of figures.running_backups) add("Running backup", running.id, `by ${running.runner}`);
  }
  add("Next backup", overview.next_backup ? `in ${ahead(overview.next_backup)}` : "not scheduled", overview.next_backup ? time(overview.next_backup) : "");
  if (figures) {
    const { verified } = figures;
    add("Verified", verified ? `${age(verified.finished_at)} ago` : "never",
      verified ? (verified.findings ? plural(verified.findings, "finding") : "nothing found") : "run backupctl verify --read");
    add("Repository", size(figures.pack_bytes + figures.wal_bytes),
      `${size(figures.wal_bytes)} of it WAL${figures.free_bytes === null ? "" : `, ${size(figures.free_bytes)} free`}`);
  }
  element("facts").replaceChildren(...facts.map(([name, value, more]) => {
    const box = make("div");
    const told = make("dd", {}, value);
    if (more) told.append(make("small", {}, more));
    box.append(make("dt", {}, name), told);
    return box;
  }));
}

function table(id, heads, rows) {
  const row = (cells, kind) => {
    const made = make("tr");
    cells.forEach((text, at) => made.append(make(kind, heads[at].startsWith(">") ? { class: "number" } : {}, kind === "th" ? text.replace(/^>/, "") : text)));
    return made;
  };
  element(id).replaceChildren(row(heads, "th"), ...rows.map((cells) => row(cells, "td")));
}

function showNodes() {
  element("cluster-nodes").hidden = overview.nodes.length === 0;
  table("nodes", ["Node", "Role", ">Timeline", ">Slot keeps", ""], overview.nodes.map((node) => [
    node.node, node.reachable ? node.role : "✗ not reachable", node.timeline ?? "",
    node.slot_retained_bytes === null ? "" : size(node.slot_retained_bytes), node.followed ? "◀ streamed from" : "",
  ]));
}

function showReach() {
  const { windows, holes } = overview.figures;
  const told = windows.map((window) =>
    `Any moment from ${time(window.from)} to ${window.to ? time(window.to) : "a time that only an identity can tell"}, along timeline ${window.timeline}.`);
  const interrupted = holes.filter((hole) => hole.interrupts)
    .map((hole) => `Timeline ${hole.timeline} has a hole from ${hole.from} to ${hole.to}: ${hole.cause}.`);
  element("reach").textContent = [...(told.length ? told : ["Nothing can be restored: a backup and its WAL are needed."]), ...interrupted].join(" ");
}

function showBackups() {
  const { backups, unreadable_backups: unreadable } = overview.figures;
  const rows = backups.slice(-BACKUPS_SHOWN).reverse().map((backup) => [
    backup.id, `${age(backup.finished_at)} ago`, duration(Date.parse(backup.finished_at) - Date.parse(backup.started_at)),
    backup.timeline, size(backup.size_bytes), size(backup.stored_bytes),
    [backup.pin ? "△ pinned" : "", backup.corrupt_pages_total ? `✗ ${plural(backup.corrupt_pages_total, "corrupt page")}` : "", backup.note ?? ""].filter(Boolean).join(" "),
  ]);
  for (const one of unreadable) rows.unshift([one.id, "", "", "", "", "", `✗ cannot be restored: ${one.reason}`]);
  table("backups", ["Backup", "Finished", ">Took", ">Timeline", ">Size", ">Stored", ""], rows);
}

// ---- the recovery timeline

// What each timeline has, in milliseconds; what no transaction tells the time of is guessed from its neighbours.
function lanes() {
  const { figures } = overview;
  const now = Date.parse(overview.now);
  const streaming = overview.server !== null ? overview.timeline : null;
  const numbers = [...new Set([...figures.wal.map((wal) => wal.timeline), ...figures.backups.map((backup) => backup.timeline)])];
  const drawn = numbers.sort((a, b) => a - b).map((timeline) => {
    const backups = figures.backups.filter((backup) => backup.timeline === timeline);
    const ranges = figures.written.filter((range) => range.timeline === timeline).map((range) => {
      const inside = backups.filter((backup) => backup.start_lsn && lsn(backup.start_lsn) >= lsn(range.from) && lsn(backup.start_lsn) <= lsn(range.to));
      const times = inside.flatMap((backup) => [Date.parse(backup.started_at), Date.parse(backup.finished_at)]);
      if (range.earliest) times.push(Date.parse(range.earliest));
      if (range.latest) times.push(Date.parse(range.latest));
      return { from: Math.min(...times, now), to: Math.max(...times, -Infinity), begins: lsn(range.from), ends: lsn(range.to) };
    }).filter((range) => range.to >= range.from);
    const last = ranges.at(-1);
    if (last && timeline === streaming) last.to = Math.max(last.to, now);
    const holes = figures.holes.filter((hole) => hole.timeline === timeline).map((hole) => {
      const before = ranges.findLast((range) => range.ends <= lsn(hole.from));
      const after = ranges.find((range) => range.begins >= lsn(hole.to));
      const since = Date.parse(hole.since);
      return { from: before ? before.to : since, to: after ? Math.max(after.from, before ? before.to : 0) : since, hole };
    });
    return { timeline, backups, ranges, holes };
  });
  for (const fork of figures.forks) beginAtFork(drawn, fork);
  return drawn;
}

// The first segment of a timeline repeats its parent's WAL up to the fork, with its times.
function beginAtFork(drawn, fork) {
  const end = drawn.find((lane) => lane.timeline === fork.from_timeline)?.ranges.at(-1)?.to;
  const first = drawn.find((lane) => lane.timeline === fork.timeline)?.ranges[0];
  if (end && first) first.from = Math.max(first.from, Math.min(end, first.to));
}

function lsn(text) {
  const [high, low] = text.split("/");
  return parseInt(high, 16) * 2 ** 32 + parseInt(low, 16);
}

function frame(drawn) {
  const now = Date.parse(overview.now);
  const times = drawn.flatMap((lane) => [...lane.ranges.flatMap((range) => [range.from, range.to]), ...lane.backups.map((backup) => Date.parse(backup.started_at)), ...lane.holes.map((hole) => hole.from)]);
  const first = Math.min(now - 60000, ...times);
  const from = Math.max(first, now - span);
  const room = (now - from) * 0.03;
  return { from: from - room, to: now + room, now };
}

function drawTimeline() {
  const svg = element("timeline");
  const drawn = lanes();
  const width = Math.max(320, svg.clientWidth);
  const [left, top, lane] = [34, 26, 40];
  const height = top + lane * Math.max(1, drawn.length) + 22;
  const { from, to, now } = frame(drawn);
  const x = (at) => left + (Math.min(Math.max(at, from), to) - from) / (to - from) * (width - left - 8);
  const y = (timeline) => top + lane * (drawn.findIndex((one) => one.timeline === timeline) + 0.6);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  const parts = [make("title", { id: "drawn" }, "Backups and WAL over time")];
  for (const window of overview.figures.windows) {
    const until = window.to ? Date.parse(window.to) : now;
    parts.push(make("rect", { class: "band", x: x(Date.parse(window.from)), y: top, width: Math.max(2, x(until) - x(Date.parse(window.from))), height: height - top - 22 }));
  }
  parts.push(...ticks(from, to, x, top, height));
  for (const fork of overview.figures.forks) {
    const child = drawn.find((one) => one.timeline === fork.timeline);
    const begin = child && child.ranges[0];
    if (begin) parts.push(make("path", { class: "fork", d: `M${x(begin.from)} ${y(fork.from_timeline)} V${y(fork.timeline)}` }));
  }
  for (const { timeline, backups, ranges, holes } of drawn) {
    parts.push(make("text", { x: 6, y: y(timeline) + 4 }, `t${timeline}`));
    for (const range of ranges) {
      if (range.to >= from) parts.push(make("line", { class: "wal", x1: x(range.from), x2: Math.max(x(range.from) + 2, x(range.to)), y1: y(timeline), y2: y(timeline) }));
    }
    for (const { from: begins, to: ends, hole } of holes) {
      const middle = x((begins + ends) / 2);
      const cross = make("path", { class: "hole", "data-hole": hole.from, d: `M${middle - 7} ${y(timeline) - 7} l14 14 m0 -14 l-14 14` });
      cross.append(make("title", {}, `hole from ${hole.from} to ${hole.to}: ${hole.cause}`));
      parts.push(cross);
    }
    for (const backup of backups) {
      const at = Date.parse(backup.finished_at);
      if (at < from) continue;
      const mark = make("path", { class: backup.pin ? "backup pinned" : "backup", "data-backup": backup.id, d: `M${x(at)} ${y(timeline) - 16} l6 10 h-12 z` });
      mark.append(make("title", {}, `backup ${backup.id}, finished ${time(backup.finished_at)}`));
      parts.push(mark);
    }
  }
  parts.push(make("line", { class: "now", x1: x(now), x2: x(now), y1: top - 6, y2: height - 22 }), make("text", { x: x(now) - 12, y: top - 10 }, "now"));
  if (chosen) parts.push(make("line", { class: "chosen", x1: x(chosen.at), x2: x(chosen.at), y1: top - 6, y2: height - 22 }));
  svg.replaceChildren(...parts);
  view = { from, to, left, right: width - 8, width, top, lane, drawn };
  showLanes(drawn);
}

function showLanes(drawn) {
  const select = element("lane");
  const wanted = ["latest", ...drawn.map((lane) => String(lane.timeline))];
  if ([...select.options].map((option) => option.value).join() === wanted.join()) return;
  const kept = select.value;
  select.replaceChildren(...wanted.map((value) => make("option", { value }, value === "latest" ? "the newest" : value)));
  select.value = wanted.includes(kept) ? kept : "latest";
}

function ticks(from, to, x, top, height) {
  const steps = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 2592000, 7776000, 31536000].map((seconds) => seconds * 1000);
  const most = Math.max(2, Math.floor((x(to) - x(from)) / 90));
  const step = steps.find((one) => (to - from) / one <= most) ?? steps.at(-1);
  const parts = [];
  for (let at = Math.ceil(from / step) * step; at < to; at += step) {
    const text = new Date(at).toISOString();
    parts.push(make("line", { class: "tick", x1: x(at), x2: x(at), y1: top, y2: height - 22 }),
      make("text", { x: x(at), y: height - 7, "text-anchor": "middle" }, step >= 86400000 ? text.slice(0, 10) : text.slice(11, step < 60000 ? 19 : 16)));
  }
  return parts;
}

function drawSizes() {
  const svg = element("sizes");
  const backups = overview.figures.backups.slice(-60);
  svg.toggleAttribute("hidden", backups.length === 0);
  const [width, height] = [Math.max(320, svg.clientWidth), 90];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  const most = Math.max(1, ...backups.map((backup) => Math.max(backup.size_bytes, backup.stored_bytes)));
  const step = Math.min(40, (width - 16) / Math.max(1, backups.length));
  const parts = [make("title", { id: "sized" }, "Sizes of backups over time"), make("text", { x: 8, y: 14 }, `up to ${size(most)}`)];
  backups.forEach((backup, at) => {
    for (const [kind, bytes] of [["stored", backup.stored_bytes], ["size", backup.size_bytes]]) {
      const tall = Math.max(1, bytes / most * (height - 30));
      const bar = make("rect", { class: kind, x: 8 + at * step, y: height - 6 - tall, width: Math.max(2, step - 4), height: tall });
      bar.append(make("title", {}, `${backup.id}: ${size(backup.size_bytes)}, ${size(backup.stored_bytes)} added`));
      parts.push(bar);
    }
  });
  svg.replaceChildren(...parts);
}

// ---- pointing at a moment

function pointed(event) {
  if (!view) return;
  const box = element("timeline").getBoundingClientRect();
  const at = (event.clientX - box.left) / box.width * view.width;
  const share = Math.min(1, Math.max(0, (at - view.left) / (view.right - view.left)));
  const moment = Math.floor((view.from + share * (view.to - view.from)) / 1000) * 1000;
  const row = Math.floor(((event.clientY - box.top) - view.top) / view.lane);
  const lane = view.drawn[Math.min(view.drawn.length - 1, Math.max(0, row))];
  element("moment").value = new Date(moment).toISOString().slice(0, 19);
  // Along the newest timeline one gets to every moment that is in its history.
  element("lane").value = leftBefore(lane, moment) ? String(lane.timeline) : "latest";
  plan();
}

// Whether the cluster had left a timeline by then, so that the moment is on no newer one.
function leftBefore(lane, moment) {
  if (!lane || lane === view.drawn.at(-1)) return false;
  const fork = overview.figures.forks.find((one) => one.from_timeline === lane.timeline);
  if (!fork) return true;
  const child = view.drawn.find((one) => one.timeline === fork.timeline);
  return Boolean(child && child.ranges[0] && moment > child.ranges[0].from);
}

async function plan() {
  const moment = element("moment").value;
  const lane = element("lane").value;
  const asked = Date.parse(`${moment}Z`);
  if (Number.isNaN(asked)) return;
  chosen = { at: asked };
  drawTimeline();
  const text = new Date(asked).toISOString().replace(".000Z", "Z");
  const query = new URLSearchParams({ target_time: text });
  if (lane !== "latest") query.set("target_timeline", lane);
  const box = element("command");
  box.hidden = false;
  element("copy").hidden = true;
  element("shell").hidden = true;
  element("line").textContent = "";
  element("verdict").textContent = `asking how to get to ${time(text)} …`;
  try {
    const { command, plan: found } = await ask(`api/v1/restore-plan?${query}`);
    box.className = "";
    const steps = found.timelines.map((step) => step.timeline).join(" → ");
    element("verdict").textContent = `✓ ${time(text)} can be restored, from backup ${found.backup} along timeline ${steps}, with at most ${size(found.wal_bytes)} of WAL to replay.`;
    element("line").textContent = command;
    element("copy").hidden = false;
    element("shell").hidden = false;
  } catch (error) {
    box.className = "bad";
    element("verdict").textContent = `✗ ${time(text)} cannot be restored: ${error.message}`;
  }
}

function setUp() {
  element("spans").replaceChildren(...SPANS.map(([name, milliseconds]) => {
    const button = make("button", { type: "button", "aria-pressed": String(milliseconds === span) }, name);
    button.addEventListener("click", () => {
      span = milliseconds;
      for (const other of element("spans").children) other.setAttribute("aria-pressed", String(other === button));
      if (overview && overview.figures) drawTimeline();
    });
    return button;
  }));
  element("timeline").addEventListener("click", pointed);
  element("point").addEventListener("submit", (event) => { event.preventDefault(); plan(); });
  element("login").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("token", element("token").value);
    element("token").value = "";
    refresh();
  });
  element("copy").addEventListener("click", async () => {
    await navigator.clipboard.writeText(element("line").textContent);
    element("copy").textContent = "Copied";
    setTimeout(() => { element("copy").textContent = "Copy"; }, 1500);
  });
  window.addEventListener("resize", () => { if (overview && overview.figures) show(); });
  refresh();
  setInterval(refresh, ASK_EVERY);
}

setUp();
