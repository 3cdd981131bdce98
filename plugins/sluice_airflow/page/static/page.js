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
    if (!next || old.contains(document.activeElement)) continue;
    for (const details of old.querySelectorAll("details[open]")) {
      const again = next.querySelector(`#${CSS.escape(details.id)}`);
      if (again) again.open = true;
    }
    const place = old.scrollLeft;
    old.replaceWith(next);
    next.scrollLeft = place;
  }
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

async function run(form) {
  const outcome = form.querySelector(".outcome");
  const dag = form.dataset.dag;
  const api = `${document.body.dataset.airflow}/api/v2/dags/${dag}/dagRuns`;
  let conf;
  try {
    conf = JSON.parse(form.querySelector("textarea").value);
  } catch (error) {
    outcome.textContent = `The configuration is not JSON: ${error.message}`;
    return;
  }
  const answer = await fetch(api, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ logical_date: null, conf }),
  });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) {
    outcome.textContent = `Started ${body.dag_run_id}.`;
  } else if (answer.status === 403) {
    outcome.textContent = `You are not permitted to run ${dag}.`;
  } else {
    outcome.textContent = `Airflow responds with ${answer.status}: ${JSON.stringify(body.detail ?? "")}`;
  }
}

// The page runs in a frame that may not navigate the window, so Airflow's document clicks the link.
function leave(event) {
  const link = event.target.closest("a[data-outer]");
  if (!link || !within) return;
  event.preventDefault();
  const outer = window.parent.document.createElement("a");
  outer.href = link.href;
  outer.click();
}

followTheme();
keepFresh();
document.addEventListener("click", leave);
for (const form of document.querySelectorAll("form.run")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(form);
  });
}
