"use strict";
// Refreshes the live parts of the page while it is visible, starts DAG runs through Airflow's API, and follows
// Airflow's theme. Without this script the page works as well, and is refreshed by reloading.

const EVERY_MS = 10000;
const within = window.parent !== window;

function followTheme() {
  if (!within) return;
  const theirs = window.parent.document.documentElement;
  const apply = () => {
    const theme = theirs.classList.contains("dark") ? "dark" : "light";
    document.documentElement.dataset.theme = theme;
  };
  new MutationObserver(apply).observe(theirs, { attributes: true, attributeFilter: ["class"] });
  apply();
}

// The zone that Airflow shows: that which the user has chosen there, or the browser's.
function zone() {
  try {
    const timeZone = JSON.parse(localStorage.getItem("timezone")) || undefined;
    new Intl.DateTimeFormat("en-GB", { timeZone }); // throws where there is no such zone
    return timeZone;
  } catch {
    return undefined;
  }
}

// Texts that the server has written in UTC, in that zone; "full" is in titles too.
function localise() {
  const formats = {
    time: { hour: "2-digit", minute: "2-digit" },
    day: { day: "2-digit", month: "short" },
    moment: { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit" },
    full: { dateStyle: "medium", timeStyle: "medium" },
  };
  const format = (name) => new Intl.DateTimeFormat("en-GB", { ...formats[name], timeZone: zone() });
  const shown = Object.fromEntries(Object.keys(formats).map((name) => [name, format(name)]));
  const name = shown.time.resolvedOptions().timeZone;
  for (const place of document.querySelectorAll("[data-at]")) {
    if (place.tagName === "INPUT") {
      place.value = wall(place.dataset.at * 1000).slice(0, 16);
      delete place.dataset.at; // from now on it is the user's
      continue;
    }
    const text = shown[place.dataset.form ?? "full"].format(place.dataset.at * 1000).replace(",", "");
    if (place.tagName === "TIME") place.title = `${text} ${name}`;
    else place.textContent = text;
  }
  for (const place of document.querySelectorAll(".zone")) place.textContent = name;
}

// A moment as the wall clock of that zone shows it, and the moment of such a text: 2026-01-31T23:59.
function wall(at) {
  const format = { dateStyle: "short", timeStyle: "medium", timeZone: zone() };
  return new Intl.DateTimeFormat("sv-SE", format).format(at).replace(" ", "T");
}

function moment(text) {
  const utc = Date.parse(`${text}Z`);
  const before = (at) => at - (Date.parse(`${wall(at)}Z`) - utc); // closer to the moment
  return new Date(before(before(utc))).toISOString().slice(0, 16);
}

function say(text) {
  const line = document.getElementById("refreshed");
  if (line && line.textContent !== text) line.textContent = text;
}

function paused() {
  return document.getElementById("pause")?.getAttribute("aria-pressed") === "true";
}

function put(fresh) {
  for (const old of document.querySelectorAll("[data-live]")) {
    const next = fresh.getElementById(old.id);
    if (!next || old.contains(document.activeElement) || old.querySelector(".selecting")) continue;
    if (old.querySelector("form.run:is([data-state=sent], [data-state=queued], [data-state=running])")) continue;
    for (const details of old.querySelectorAll("details[open]")) {
      const again = next.querySelector(`#${CSS.escape(details.id)}`);
      if (again) again.open = true;
    }
    const place = old.scrollLeft;
    old.replaceWith(next);
    next.scrollLeft = place;
  }
  enhance();
  if (paused()) return; // paused during the request
  const verdict = document.getElementById("verdict");
  say(verdict ? verdict.textContent.trim().replace(/^\S+\s+/, "") + "; live" : "live");
}

async function refresh() {
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.status === 401) return say("Your session has ended. Log in again.");
    if (!answer.ok) return say(`Not refreshed: the server responds with ${answer.status}.`);
    put(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    say("Not refreshed: the server does not answer.");
  }
}

function keepFresh() {
  const pause = document.getElementById("pause");
  if (!pause) return;
  let waiting = null;
  const next = () => {
    clearTimeout(waiting);
    if (!document.hidden && !paused()) waiting = setTimeout(turn, EVERY_MS);
  };
  const turn = async () => {
    clearTimeout(waiting);
    if (document.hidden || paused()) return;
    await refresh();
    next();
  };
  pause.hidden = false;
  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", String(!paused()));
    say(paused() ? "paused" : "live");
    turn();
  });
  document.addEventListener("visibilitychange", turn);
  say("live");
  next();
}

const ENDED = ["success", "failed"];
const WORDS = { queued: "Queued", running: "Running", success: "Done", failed: "Failed" };

async function ask(path, options) {
  const answer = await fetch(`${document.body.dataset.airflow}/api/v2${path}`, options);
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const detail = answer.status === 403 ? "you are not permitted to run it" : JSON.stringify(body.detail ?? "");
  throw new Error(`Airflow responds with ${answer.status}: ${detail}`);
}

function configuration(form) {
  const conf = JSON.parse(form.dataset.conf);
  for (const field of form.querySelectorAll("[name]")) {
    const lines = field.value.split("\n").map((line) => line.trim()).filter(Boolean);
    conf[field.name] = "lines" in field.dataset ? (lines.length ? lines : null) : field.value.trim();
  }
  return conf;
}

// "read again", of several mapped tasks "read again: 2 of 3 have ended".
function step(tasks) {
  const name = tasks.find((task) => ["queued", "running"].includes(task.state))?.task_display_name;
  const all = tasks.filter((task) => task.task_display_name === name);
  const ended = all.filter((task) => [...ENDED, "skipped", "upstream_failed"].includes(task.state)).length;
  return all.length > 1 ? `${name}: ${ended} of ${all.length} have ended` : name ?? "";
}

async function doing(path, state) {
  if (state === "running") return step((await ask(`${path}/taskInstances?limit=1000`)).task_instances);
  if (state !== "queued") return "";
  const { is_paused: paused } = await ask(`/dags/${path.split("/")[2]}`);
  return paused ? "the DAG is paused" : "";
}

// A run of checks fails both where they found something and where it broke off; what they found tells which.
async function foundSince(start) {
  const answer = await fetch(`${document.body.dataset.root}/api/v1/findings`);
  if (!answer.ok) return WORDS.failed;
  const second = Math.floor(Date.parse(start) / 1000) * 1000;
  const findings = (await answer.json()).filter((one) => Date.parse(one.checked_at) >= second);
  const tables = [...new Set(findings.map((one) => one.table))];
  if (!tables.length) return "Failed with an error";
  const others = tables.length > 3 ? ` and ${tables.length - 3} more` : "";
  return `Done, with findings in ${tables.slice(0, 3).join(", ")}${others}`;
}

async function follow(form, path) {
  const outcome = form.querySelector(".outcome");
  const link = Object.assign(document.createElement("a"), { textContent: "see the run" });
  const [dag, run] = [path.split("/")[2], path.split("/")[4]];
  link.href = `${document.body.dataset.airflow}/dags/${dag}/runs/${run}`;
  link.dataset.outer = "";
  const begun = Date.now();
  for (;;) {
    const { state, start_date } = await ask(path);
    const what = await doing(path, state);
    const broken = state === "failed" && "checks" in form.dataset;
    const text = broken ? await foundSince(start_date) : (WORDS[state] ?? state);
    const seconds = Math.round((Date.now() - begun) / 1000);
    const words = `${text}${what ? `: ${what}` : ""}, ${seconds} s. `;
    if (outcome.firstChild?.textContent !== words) outcome.replaceChildren(words, link);
    form.dataset.state = state;
    if (ENDED.includes(state)) return;
    await new Promise((resume) => setTimeout(resume, 1000));
  }
}

const KEPT_OUTCOMES = 5;

// A form may go with its finding; what became of its run stays above, the last first.
function keep(form, outcome) {
  const { tables, full, table } = JSON.parse(form.dataset.conf);
  const of = (tables ?? full ?? [table]).join(", ");
  const line = document.createElement("p");
  line.append(`${form.querySelector("button").textContent} (${of}): `, ...outcome.cloneNode(true).childNodes);
  const ended = document.getElementById("ended-runs");
  ended.prepend(line);
  while (ended.childElementCount > KEPT_OUTCOMES) ended.lastElementChild.remove();
}

async function run(form) {
  const outcome = form.querySelector(".outcome");
  const button = form.querySelector("button");
  const runs = `/dags/${form.dataset.dag}/dagRuns`;
  button.disabled = true;
  form.dataset.state = "sent"; // the page is not refreshed around it until it ends
  outcome.textContent = "Sent to Airflow.";
  try {
    const body = { logical_date: null, conf: configuration(form) };
    const headers = { "Content-Type": "application/json" };
    const started = await ask(runs, { method: "POST", headers, body: JSON.stringify(body) });
    await follow(form, `${runs}/${encodeURIComponent(started.dag_run_id)}`);
  } catch (error) {
    outcome.textContent = `${error.message}.`;
    form.dataset.state = "refused";
  }
  button.disabled = false;
  if (!ENDED.includes(form.dataset.state)) return;
  if (form.closest("[data-live]")) keep(form, outcome);
  if (form.contains(document.activeElement)) document.activeElement.blur();
  await refresh();
}

// The page runs in a frame that may not navigate the window, so Airflow's document clicks the link.
function leave(event) {
  const link = event.target.closest("a[data-outer]");
  if (!link || !within) return;
  event.preventDefault();
  const outer = window.parent.document.createElement("a");
  Object.assign(outer, { href: link.href, target: link.target, rel: link.rel });
  outer.click();
}

// A text to the clipboard; where the browser gives none, it is selected, to be copied by the keyboard.
async function copy(button) {
  const place = document.getElementById(button.dataset.copy);
  const said = button.parentElement.querySelector("[role=status]");
  try {
    await navigator.clipboard.writeText(place.textContent);
    said.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(place);
    said.textContent = "selected: copy it with Ctrl+C";
  }
}

function offerCopies() {
  for (const button of document.querySelectorAll("[data-copy][hidden]")) {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  }
}

const ROLES = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };

// Each cell gets the name of its column: a narrow window shows rows as blocks, without the table's head. The roles
// stay what they are when the elements are no longer displayed as a table.
function nameCells() {
  for (const table of document.querySelectorAll("table:not([data-named])")) {
    table.dataset.named = "";
    const names = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    for (const row of table.tBodies[0].rows) {
      let column = 0;
      for (const cell of row.cells) {
        if (cell.colSpan === 1) cell.dataset.column = names[column];
        column += cell.colSpan;
      }
    }
    for (const part of [table, ...table.querySelectorAll("thead, tbody, tr, th, td")]) {
      const header = part.scope === "col" ? "columnheader" : "rowheader";
      part.setAttribute("role", ROLES[part.tagName] ?? header);
    }
  }
}

const SHORTEST_S = 1800; // of a period

// Where the intervals of a chart are in it.
function axis(svg) {
  const [start, end, step, left, right] = ["start", "end", "step", "left", "right"].map((n) => Number(svg.dataset[n]));
  const last = Math.round((end - start) / step) - 1;
  const place = (at) => left + ((right - left) * (at - start)) / (end - start);
  const under = (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    return Math.min(last, Math.max(0, Math.floor(((x - left) / (right - left)) * (last + 1))));
  };
  return { start, end, step, right, last, place, under };
}

function drawn(parent, name, attributes) {
  const part = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value);
  return part;
}

// The numbers of the interval under the pointer, from the table below the chart.
function offerReadout(figure) {
  const svg = figure.querySelector("svg.chart");
  const { start, step, right, place, under } = axis(svg);
  const lines = [...figure.querySelectorAll("thead th")].slice(1).map((cell) => cell.textContent);
  const shown = drawn(svg, "g", { class: "at" });
  const stretch = drawn(shown, "rect", { y: 8, width: place(start + step) - place(start), height: 140 });
  const text = drawn(shown, "text", { x: right, y: 16 });
  svg.addEventListener("pointermove", (event) => {
    const at = start + under(event) * step;
    const row = figure.querySelector(`tbody th[data-at="${at}"]`)?.parentElement;
    shown.classList.toggle("shown", Boolean(row));
    if (!row) return;
    const [when, ...values] = [...row.cells].map((cell) => cell.textContent);
    stretch.setAttribute("x", place(at));
    text.textContent = `${when}: ${values.map((value, line) => `${lines[line]} ${value}`).join(", ")}`;
  });
  svg.addEventListener("pointerleave", () => shown.classList.remove("shown"));
}

// A span of a chart, selected by dragging or by keys, becomes the period of all charts.
function offerZoom(figure, form) {
  const svg = figure.querySelector("svg.chart");
  const { start, end, step, last, place, under } = axis(svg);
  const chosen = drawn(svg, "rect", { class: "chosen" });
  const handle = document.createElement("p");
  const [hint, nothing] = ["Zoom: drag, or ← →", "nothing selected; the arrow keys select"];
  const attributes = { role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": last };
  attributes["aria-label"] = `Span of ${figure.querySelector("strong").textContent}`;
  for (const [name, value] of Object.entries(attributes)) handle.setAttribute(name, value);
  handle.className = "span quiet";
  svg.after(handle);
  let [anchor, head] = [null, null]; // intervals; the span has both and those between

  const words = (at) => {
    const form = { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", timeZone: zone() };
    return new Intl.DateTimeFormat("en-GB", form).format(at * 1000).replace(",", "");
  };
  const bounds = () => [start + Math.min(anchor, head) * step, start + (Math.max(anchor, head) + 1) * step];
  const select = (from, to) => {
    [anchor, head] = [from, to];
    figure.classList.toggle("selecting", head !== null);
    const [begins, ends] = head === null ? [start, start] : bounds();
    const span = head === null ? nothing : `${words(begins)} to ${words(ends)}`;
    const shape = { x: place(begins), width: place(ends) - place(begins), y: 8, height: 140 };
    for (const [name, value] of Object.entries(shape)) chosen.setAttribute(name, value);
    handle.textContent = head === null ? hint : `${span}: Enter`;
    handle.setAttribute("aria-valuenow", head ?? last);
    handle.setAttribute("aria-valuetext", span);
  };
  const show = () => {
    let [begins, ends] = bounds();
    begins -= Math.max(0, Math.ceil((SHORTEST_S - (ends - begins)) / 120) * 60);
    ends = Math.max(ends, begins + SHORTEST_S);
    const fields = new URLSearchParams(new FormData(form));
    const minute = (at) => new Date(at * 1000).toISOString().slice(0, 16);
    fields.set("from", minute(begins));
    fields.set("to", minute(ends));
    location.assign(`${location.pathname}?${fields}#charts-title`);
  };
  const within = (at) => Math.min(last, Math.max(0, at));
  const keys = {
    ArrowLeft: (at) => within(at - 1),
    ArrowRight: (at) => within(at + 1),
    Home: () => 0,
    End: () => last,
  };
  handle.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && head !== null) return show();
    if (event.key === "Escape") return select(null, null);
    if (!(event.key in keys)) return;
    event.preventDefault();
    const to = head === null ? (event.key === "Home" ? 0 : last) : keys[event.key](head);
    select(event.shiftKey && anchor !== null ? anchor : to, to);
  });
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault(); // no selection of text
    svg.setPointerCapture(event.pointerId);
    select(under(event), under(event));
  });
  svg.addEventListener("pointermove", (event) => {
    if (svg.hasPointerCapture(event.pointerId)) select(anchor, under(event));
  });
  svg.addEventListener("pointerup", (event) => {
    if (!svg.hasPointerCapture(event.pointerId)) return;
    if (anchor === head) select(null, null); // a click
    else show();
  });
  svg.addEventListener("pointercancel", () => select(null, null));
  select(null, null);
}

function offerCharts() {
  const form = document.querySelector("form.period");
  for (const figure of form ? document.querySelectorAll("figure") : []) {
    if (figure.querySelector(".span")) continue;
    offerReadout(figure);
    offerZoom(figure, form);
  }
}

// What the page gains by the script, in parts that were just loaded as well.
function enhance() {
  localise();
  nameCells();
  offerCopies();
  offerCharts();
}

followTheme();
enhance();
keepFresh();
document.addEventListener("click", leave);
document.addEventListener("submit", (event) => {
  if (event.target.matches("form.period")) {
    event.preventDefault();
    const chosen = new URLSearchParams(new FormData(event.target));
    for (const name of ["from", "to"]) chosen.set(name, moment(chosen.get(name)));
    location.search = chosen;
    return;
  }
  if (!event.target.matches("form.run")) return;
  event.preventDefault();
  run(event.target);
});
