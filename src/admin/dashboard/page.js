// Asks the API every two seconds and follows its events. All text goes in as text, never as HTML.
"use strict";

const PERIOD = 2000;
const KEPT = 60; // points of a line: two minutes
const MOST_ROWS = 200; // of a pool; what is not up comes first
const MOST_EVENTS = 200;
const COLOURS = {
  up: "good", ok: "good", ready: "good",
  unproven: "info", draining: "info", maintenance: "info", disabled: "info",
  damped: "warn", ejected: "warn", degraded: "warn",
};

// What turns a line round, ends it or takes no room; as in `clean.rs`.
const UNSEEN = /[\p{Cc}\u{ad}\u{61c}\u{180e}\u{200b}-\u{200f}\u{2028}-\u{202e}\u{2060}-\u{206f}\u{feff}\u{e0000}-\u{e007f}]/gu;

const $ = (id) => document.getElementById(id);
const lines = new Map(); // of the tiles
const before = new Map(); // counters of the last look
const open = new Set(); // backends that are explained
let token = sessionStorage.getItem("evenkeel-token") || "";
let seen = null; // the last answers, and when they came
let following = false;

/** Text of others as it may be shown. */
const clean = (text) => (typeof text === "string" ? text.replace(UNSEEN, "?") : text);

/** An element with attributes and children; texts become text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else element.setAttribute(name, clean(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined).map(clean));
  return element;
}

const colour = (word) => `mark ${COLOURS[word] || "bad"}`;
const mark = (word) => make("span", { class: colour(word) }, word);
const number = (text) => make("td", { class: "number" }, String(text));
const short = (child) => make("td", { class: "short" }, child);

function heads(names) {
  const head = (name) => make("th", name.startsWith(">") ? { class: "number" } : {}, name.replace(">", ""));
  return make("thead", {}, make("tr", {}, ...names.map(head)));
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; unit += 1) bytes /= 1024;
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

const rate = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(1));

function lasting(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${whole % 60}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${Math.floor(whole / 60) % 60}m`;
  return `${Math.floor(whole / 86400)}d ${Math.floor(whole / 3600) % 24}h`;
}

const since = (time) => lasting((Date.now() - Date.parse(time)) / 1000);

/** How fast a counter goes, from the last look to this one; one that went back began anew. */
function speed(key, value, now) {
  const old = before.get(key);
  if (old && old.at === now) return old.speed;
  const speed = old && value >= old.value ? ((value - old.value) * 1000) / (now - old.at) : 0;
  before.set(key, { value, at: now, speed });
  return speed;
}

/** A connect's quantile, from cumulative buckets: the bound that so many did not exceed. */
function quantile(times, q) {
  if (!times || !times.connect_count) return "–";
  const bucket = times.connect_buckets.find(([, count]) => count >= q * times.connect_count);
  if (!bucket) return `> ${times.connect_buckets.at(-1)[0]} s`;
  return bucket[0] < 1 ? `≤ ${+(bucket[0] * 1000).toPrecision(3)} ms` : `≤ ${bucket[0]} s`;
}

async function ask(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  if (answer.status === 401) throw new Error("token");
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error || `status ${answer.status}`);
  return answer;
}

function tile(name, text, value, now) {
  const { points, at } = lines.get(name) || { points: [], at: null };
  if (at !== now) points.push(value);
  if (points.length > KEPT) points.shift();
  lines.set(name, { points, at: now });
  const most = Math.max(...points, 1e-9);
  const place = (point, n) => `${n ? "L" : "M"}${((n + KEPT - points.length) * 100) / (KEPT - 1)} ${27 - (25 * point) / most}`;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 28");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", points.map(place).join(""));
  svg.append(path);
  return make("div", { class: "tile" }, make("span", { class: "quiet" }, name), make("b", {}, text), svg);
}

// What left is still shown for a while, and is not missed.
function listed(backends) {
  return backends.filter((backend) => backend.standing !== "removed");
}

function stateOf(pool, members, up) {
  if (pool.served_by) return ["warn", `nothing is up, sessions go to pool ${pool.served_by}`];
  if (pool.fail_open) return ["bad", "nothing is up, sessions try the rest"];
  if (pool.all_down && pool.when_all_down === "wait") return ["bad", `nothing is up, ${pool.queued} sessions wait`];
  if (pool.all_down) return ["bad", "nothing is up, sessions are refused"];
  if (pool.panic) return ["bad", "so few are up that sessions try any"];
  if (!pool.settled) return ["info", "waits for discovery and first probes"];
  if (pool.queued) return ["warn", `${pool.queued} sessions wait for a backend`];
  if (up < members) return ["warn", "degraded"];
  return ["good", "ok"];
}

async function explain(path, row) {
  let body;
  try {
    const said = await (await ask(path)).json();
    const parties = said.explanation.map((one) =>
      make("tr", one.decides ? { class: "decides" } : {}, make("td", {}, one.who), short(one.value), make("td", {}, one.says)));
    const changes = said.history.map((one) =>
      make("tr", {}, short(new Date(one.at).toLocaleString()), short(mark(one.to)), make("td", {}, one.reason)));
    body = [make("h3", {}, "What each party says"), make("table", {}, make("tbody", {}, ...parties)),
      make("h3", {}, "Its last changes"), make("table", {}, make("tbody", {}, ...changes))];
  } catch (error) {
    body = [error.message];
  }
  row.firstChild.replaceChildren(...body);
}

function rowsOf(pool, backend, rates, old) {
  const key = `${pool.name}/${backend.id}`;
  const path = `/api/v1/backends/${encodeURIComponent(pool.name)}/${encodeURIComponent(backend.id)}`;
  const toggle = () => {
    if (!open.delete(key)) open.add(key);
    draw();
  };
  const row = make("tr", { class: "backend", onclick: toggle },
    short(mark(backend.standing)),
    make("td", {}, make("button", { class: "name", "aria-expanded": String(open.has(key)) }, backend.id)),
    short(backend.zone ? `${backend.address} (${backend.zone})` : backend.address), make("td", { class: "reason" }, backend.reason), number(since(backend.since)),
    number(backend.sessions + (backend.max_sessions === null ? "" : ` / ${backend.max_sessions}`)),
    number(rate(rates.connects)), number(rate(rates.failures)), number(`${size(rates.up)}/s`), number(`${size(rates.down)}/s`),
    number(quantile(backend.times, 0.5)), number(quantile(backend.times, 0.99)),
    number(backend.effective_weight === backend.weight ? backend.weight : `${+backend.effective_weight.toFixed(2)} of ${backend.weight}`));
  if (!open.has(key)) return [row];
  // What was said last stays until the new answer is there.
  const why = old.get(key) || make("tr", { class: "why", "data-key": key }, make("td", { colspan: "13" }, "…"));
  explain(path, why);
  return [row, why];
}

function poolSection(pool, now, old) {
  const wanted = $("filter").value.trim().toLowerCase();
  const members = listed(pool.backends).length;
  const up = pool.backends.filter((backend) => backend.standing === "up").length;
  const rows = pool.backends.map((backend) => {
    const key = `${pool.name}/${backend.id}/`;
    const rates = {
      connects: speed(`${key}c`, backend.connects, now), failures: speed(`${key}f`, backend.connect_failures, now),
      up: speed(`${key}u`, backend.bytes_to_backend, now), down: speed(`${key}d`, backend.bytes_to_client, now),
    };
    return { backend, rates };
  });
  const text = (backend) => [pool.name, backend.id, backend.address, backend.standing, backend.reason].join(" ").toLowerCase();
  let shown = rows.filter(({ backend }) => !wanted || text(backend).includes(wanted));
  const found = shown.length;
  if (found > MOST_ROWS) {
    const first = ({ backend }) => (backend.standing === "up" ? 1 : 0);
    shown = shown.sort((a, b) => first(a) - first(b)).slice(0, MOST_ROWS);
  }
  if (wanted && !found) return null;
  const [kind, says] = stateOf(pool, members, up);
  const source = pool.source;
  const age = source.age_seconds === null ? "not yet heard" : `heard ${lasting(source.age_seconds)} ago`;
  const facts = [`${up} of ${members} up`, `${pool.sessions} sessions`, pool.balance.replace("_", " "), `check ${pool.check}`,
    source.kind === "static" ? "static" : `${source.kind}: ${age}`];
  if (pool.leaving) facts.push("leaves: not in the configuration any more");
  const trouble = [];
  if (source.error) trouble.push(`Discovery, ${since(source.error.at)} ago: ${source.error.kind}: ${source.error.text}`);
  for (const rejected of source.rejected.slice(0, 5)) trouble.push(`Not usable: ${rejected.id}: ${rejected.why}`);
  const names = ["Standing", "Backend", "Address", "Why", ">Since", ">Sessions", ">New/s", ">Failed/s", ">To backend", ">To client", ">Connect p50", ">p99", ">Weight"];
  return make("section", {},
    make("h2", {}, `Pool ${pool.name}`, make("span", { class: `mark ${kind}` }, says), make("small", { class: "quiet" }, facts.join(" · "))),
    ...trouble.map((line) => make("p", { class: "trouble" }, line)),
    found ? make("div", { class: "wide" }, make("table", {}, heads(names),
      make("tbody", {}, ...shown.flatMap(({ backend, rates }) => rowsOf(pool, backend, rates, old))))) : null,
    found > shown.length ? make("p", { class: "quiet" }, `and ${found - shown.length} more; type above to find one`) : null);
}

function several(names) {
  return names.slice(0, 4).join(", ") + (names.length > 4 ? ` and ${names.length - 4} more` : "");
}

function listeners(all, now) {
  const rows = all.map((one) => make("tr", {},
    make("td", {}, one.name), make("td", {}, one.addresses.join(", ")), make("td", {}, several(one.pools)), number(one.sessions),
    number(one.max_connections === null ? "–" : one.max_connections), number(rate(speed(`listener/${one.name}`, one.accepted, now))),
    number(one.accepted.toLocaleString("en")), make("td", {}, one.at_limit ? mark("limit reached, clients wait") : mark("ok"))));
  $("listeners").replaceChildren(
    heads(["Listener", "Addresses", "Pool", ">Sessions", ">Limit", ">New/s", ">Accepted", "State"]), make("tbody", {}, ...rows));
}

function draw() {
  if (!seen) return;
  const { status, pools, now } = seen;
  const state = $("state");
  state.textContent = clean(status.stopping ? "stopping" : status.ready ? "ready" : `not ready: ${status.waiting_for.join("; ")}`);
  state.className = `mark ${status.ready ? "good" : status.stopping ? "info" : "bad"}`;
  $("process").textContent = `${status.version}, pid ${status.pid}, up ${lasting(status.uptime_seconds)}, ${status.workers} workers`;
  const limits = status.limits.filter((limit) => limit.until === null)
    .map((limit) => `limit reached ${since(limit.since)} ago: ${limit.says}`);
  $("troubles").replaceChildren(...[...status.troubles, ...limits].map((line) => make("p", { class: "trouble" }, line)));
  document.title = `${status.ready ? "" : "! "}Evenkeel: ${status.sessions} sessions`;

  const backends = pools.flatMap((pool) => pool.backends);
  const sum = (of, what) => of.reduce((total, one) => total + what(one), 0);
  const accepted = speed("accepted", sum(status.listeners, (one) => one.accepted), now);
  const up = speed("to_backend", sum(backends, (one) => one.bytes_to_backend), now);
  const down = speed("to_client", sum(backends, (one) => one.bytes_to_client), now);
  const standing = backends.filter((one) => one.standing === "up").length;
  const queued = sum(pools, (pool) => pool.queued);
  $("tiles").replaceChildren(
    tile("Sessions", `${status.sessions.toLocaleString("en")}${queued ? `, ${queued} wait` : ""}`, status.sessions, now),
    tile("New sessions", `${rate(accepted)}/s`, accepted, now), tile("To backends", `${size(up)}/s`, up, now),
    tile("To clients", `${size(down)}/s`, down, now), tile("Backends up", `${standing} of ${listed(backends).length}`, standing, now));
  const old = new Map([...document.querySelectorAll("tr.why")].map((row) => [row.dataset.key, row]));
  const focus = document.activeElement?.closest("tr.backend")?.textContent && document.activeElement.textContent;
  $("pools").replaceChildren(...pools.map((pool) => poolSection(pool, now, old)).filter(Boolean));
  // The keyboard stays where it was.
  if (focus) [...document.querySelectorAll("button.name")].find((button) => button.textContent === focus)?.focus();
  listeners(status.listeners, now);
}

function event(name, data) {
  const body = JSON.parse(data);
  if (name === "following") return;
  const what = name === "lost" ? `${body.lost} were lost: this page was too slow` : body.says;
  const whom = [body.pool, body.backend].filter(Boolean).join(" / ");
  const change = body.to ? mark(body.to) : make("span", { class: "mark info" }, name);
  $("events").prepend(make("li", {},
    make("time", {}, new Date(body.at || Date.now()).toLocaleTimeString()), change, " ", make("b", {}, whom), what));
  while ($("events").children.length > MOST_EVENTS) $("events").lastChild.remove();
}

/** Server-sent events, read by hand: `EventSource` can't send a token. */
async function follow() {
  if (following) return;
  following = true;
  try {
    const reader = (await ask("/api/v1/events")).body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const field = (key) => block.split("\n").find((line) => line.startsWith(`${key}:`))?.slice(key.length + 1).trim();
        if (field("data")) event(field("event") || "message", field("data"));
      }
    }
  } catch {
    // The next look says what is wrong, and tries again.
  } finally {
    following = false;
  }
}

function door(why) {
  $("all").hidden = true;
  $("door").hidden = false;
  $("refused").textContent = clean(why);
  if (document.activeElement === document.body) $("token").focus();
}

async function look() {
  try {
    const [status, pools] = await Promise.all([
      ask("/api/v1/status").then((answer) => answer.json()),
      ask("/api/v1/pools?times=true").then((answer) => answer.json()),
    ]);
    $("door").hidden = true;
    $("all").hidden = false;
    seen = { status, pools: pools.pools, now: performance.now() };
    draw();
    $("link").textContent = "live";
    follow();
  } catch (error) {
    if (error.message === "token") {
      door(token ? "The token is wrong." : "");
      return;
    }
    const ago = seen ? `; what you see is ${lasting((performance.now() - seen.now) / 1000)} old` : "";
    $("link").textContent = clean(`no answer: ${error.message}${ago}`);
    $("state").textContent = seen ? "lost" : "asking";
    $("state").className = "mark bad";
  }
}

async function watch() {
  for (;;) {
    if (!document.hidden && $("door").hidden) await look();
    await new Promise((resolve) => setTimeout(resolve, PERIOD));
  }
}

$("door").addEventListener("submit", (submit) => {
  submit.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem("evenkeel-token", token);
  look();
});
$("filter").addEventListener("input", draw);
document.addEventListener("visibilitychange", () => document.hidden || look());
watch();
