// Moving the slider, opening a driver, following a race live, rolling back. Every page works without this file, except rolling back.
"use strict";

const DEBOUNCE_MS = 120;
const AHEAD_MS = 400;
const PATIENCE_MS = 30_000;

document.addEventListener("DOMContentLoaded", () => {
  const laps = document.querySelector("form.laps");
  if (laps) racePage(laps);
  const rollback = document.querySelector("form.rollback");
  if (rollback) rollbackForm(rollback);
});

function racePage(form) {
  const race = form.dataset.race;
  const slider = form.querySelector("#lap");
  const now = form.querySelector("#lap-now b");
  const said = document.querySelector("main > .said");
  const moment = document.querySelector("#moment");
  const follow = form.querySelector(".follow");
  const twin = document.querySelector("#twin");
  let timer = 0;
  let ahead = 0;
  let direction = 1;
  let shown = Number(slider.value);
  let run = new URLSearchParams(location.search).get("replay");
  let wanted = null;
  let asking = false;
  let prepared = null;
  let events = null;
  let ended = "";

  form.querySelector(".show").hidden = true;
  form.querySelectorAll(".step, .follow").forEach((button) => { button.hidden = false; });

  const opened = () => new URLSearchParams(location.search).get("driver");

  // A moment is a lap as the service predicts it, or as a replay did: then `run` names the replay.
  function address(lap, driver, fragment, replay = run) {
    const query = new URLSearchParams({ lap });
    if (replay) query.set("replay", replay);
    if (driver) query.set("driver", driver);
    if (fragment) query.set("fragment", fragment);
    return `/races/${race}?${query}`;
  }

  async function fetched(url) {
    const answer = await fetch(url, { signal: AbortSignal.timeout(PATIENCE_MS), headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!answer.ok) throw new Error(page.querySelector(".error-text")?.textContent ?? `the service answered ${answer.status}`);
    return page;
  }

  // One lap is asked for at a time. The service computes what it was asked even if nobody waits any longer, so what is asked while
  // the slider moves on would queue up there. Of the laps wanted meanwhile only the last is asked for.
  async function show(lap, replay) {
    wanted = { lap, replay };
    if (asking) return;
    asking = true;
    moment.setAttribute("aria-busy", "true");
    form.classList.add("busy");
    while (wanted !== null) {
      const asked = wanted;
      wanted = null;
      try {
        if (prepared?.lap === asked.lap) await prepared.done;
        await place(asked.lap, asked.replay);
      } catch (error) {
        if (wanted === null) said.textContent = `Lap ${asked.lap} could not be shown: ${error.message}`;
      }
    }
    asking = false;
    moment.removeAttribute("aria-busy");
    form.classList.remove("busy");
  }

  async function place(lap, replay) {
    const driver = opened();
    const page = await fetched(address(lap, driver, "moment", replay));
    const focused = moment.contains(document.activeElement) ? document.activeElement.dataset.driver : null;
    moment.replaceChildren(...page.body.childNodes);
    if (focused) moment.querySelector(`[data-driver="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    run = replay;
    history.replaceState(null, "", address(lap, opened()));
    twin.textContent = `/v1/races/${race}/moment?${new URLSearchParams(run ? { lap, replay: run } : { lap })}`;
    twin.href = twin.textContent;
    if (wanted === null && opened() !== driver) wanted = { lap, replay };
    if (wanted !== null) return;
    say();
    clearTimeout(ahead);
    if (!run) ahead = setTimeout(() => prepare(lap + direction), AHEAD_MS);
  }

  function say() {
    said.textContent = `${ended} ${moment.querySelector("[data-said]").dataset.said}`.trim();
  }

  // The service keeps what it has shown: asking for the next lap in this direction makes the next step quick.
  function prepare(lap) {
    if (prepared || lap < 0 || lap > Number(slider.max)) return;
    const done = fetch(address(lap, null, "moment"), { priority: "low" }).catch(() => {}).finally(() => { prepared = null; });
    prepared = { lap, done };
  }

  function moveTo(lap, wait = DEBOUNCE_MS, replay = null) {
    const last = Number(slider.max);
    const wanted = Math.min(Math.max(lap, 0), last);
    direction = wanted < shown ? -1 : 1;
    shown = wanted;
    if (!replay) ended = "";
    slider.value = String(wanted);
    now.textContent = String(wanted);
    clearTimeout(timer);
    clearTimeout(ahead);
    timer = setTimeout(() => show(wanted, replay), wait);
  }

  slider.addEventListener("input", () => moveTo(Number(slider.value)));
  form.addEventListener("submit", (event) => { event.preventDefault(); moveTo(Number(slider.value), 0); });
  form.querySelectorAll(".step").forEach((button) => {
    button.addEventListener("click", () => moveTo(Number(slider.value) + Number(button.dataset.step)));
  });

  async function open(link) {
    const car = link.closest(".car");
    const driver = link.dataset.driver;
    const lap = slider.value;
    const wasOpen = car.classList.contains("open");
    moment.querySelectorAll(".car.open").forEach(close);
    history.replaceState(null, "", address(lap, wasOpen ? null : driver));
    if (wasOpen) return;
    car.classList.add("open");
    link.setAttribute("aria-expanded", "true");
    try {
      const page = await fetched(address(lap, driver, "driver"));
      if (car.classList.contains("open") && !car.querySelector(".panel")) car.append(...page.body.childNodes);
    } catch (error) {
      said.textContent = `${link.textContent.trim()} could not be opened: ${error.message}`;
      close(car);
    }
  }

  function close(car) {
    car.classList.remove("open");
    car.querySelector(".panel")?.remove();
    car.querySelector(".driver").setAttribute("aria-expanded", "false");
  }

  moment.addEventListener("click", (event) => {
    const link = event.target.closest("a.driver");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    open(link);
  });
  moment.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const car = event.target.closest(".car.open");
    if (!car) return;
    close(car);
    history.replaceState(null, "", address(slider.value, null));
    car.querySelector(".driver").focus();
  });

  // Each event is one lap as the replay predicted it: the slider goes along, and the page shows what the replay said.
  function stopFollowing(why) {
    events?.close();
    events = null;
    follow.setAttribute("aria-pressed", "false");
    ended = why;  // kept beside the last lap, which may still be on its way
    say();
  }

  follow.addEventListener("click", () => {
    if (events) { stopFollowing("No longer following."); return; }
    events = new EventSource(`/v1/races/${race}/live?wait=true`);
    follow.setAttribute("aria-pressed", "true");
    ended = "";
    said.textContent = "Waiting for the next lap of a replay.";
    events.addEventListener("lap", (event) => {
      const { lap, run: replay } = JSON.parse(event.data);
      if (lap > Number(slider.max)) slider.max = String(lap);
      moveTo(lap, DEBOUNCE_MS, replay);
    });
    events.addEventListener("end", () => stopFollowing("The replay is over."));
    events.addEventListener("interrupted", () => stopFollowing("The replay was interrupted."));
    events.onerror = () => {
      if (events?.readyState === EventSource.CLOSED) stopFollowing("The service does not let this page follow; try again later.");
    };
  });
}

function rollbackForm(form) {
  form.hidden = false;
  document.querySelector(".by-hand").hidden = true;
  const said = form.querySelector(".said");
  const token = form.querySelector("input");
  const button = form.querySelector("button");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    said.textContent = "Rolling back.";
    try {
      const answer = await fetch(form.dataset.action, {
        method: "POST",
        headers: { Authorization: `Bearer ${token.value}`, "Content-Type": "application/json" },
        body: JSON.stringify({ version: form.dataset.version }),
      });
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.error?.message ?? `the service answered ${answer.status}`);
      token.value = "";
      const now = body.version ? `version ${body.version} is champion again` : "there is no champion now; the baseline answers";
      said.textContent = `Rolled back: ${now}. Reload the page to see it.`;
    } catch (error) {
      said.textContent = `Not rolled back: ${error.message}`;
      button.disabled = false;
    }
  });
}
