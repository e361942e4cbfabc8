// The studio: wires forms, jobs, result and map together.

import { Api, Problem } from "./api.js";
import { Change } from "./change.js";
import * as forms from "./forms.js";
import { footprint, written } from "./geometry.js";
import { isOver, JobList, make, monthsOf, season, Strip, title } from "./jobs.js";
import { openMap } from "./map.js";
import { Result } from "./result.js";

const POLL_MS = 1500;
const SAID_MS = 12000; // that news stay on the page; errors stay until something else is said
const field = (id) => document.getElementById(id);

const api = new Api({ askToken, onWait: (seconds) => say(`The queue is full. Trying again in ${seconds} s.`) });
let jobs = [];
let models = {};
let polling = null;
let hushing = null;

const { map, names } = await openMap(field("map"), onMap);
const change = new Change(api, map, {
  say,
  wrong,
  limits: () => models.limits ?? {},
  isOpen: () => !field("change").hidden,
  isResultShown: () => Boolean(result.job),
  lay: (picture) => {
    show(null);
    result.underlay(picture);
  },
});
const result = new Result(api, map, {
  say,
  wrong,
  cancel: remove,
  close: () => show(null),
  again,
  further: (job, picture) => {
    openTab("change");
    change.take(job, picture);
  },
  pictureOf: (reference) => change.picture(reference),
  model: () => models.default,
  watchOver: refresh,
});
const list = new JobList(document.querySelector("#jobs ul"), { show, remove, thumbnail });
const strip = new Strip(field("strip"), { show, thumbnail });

// ---- what is said ----

function say(text, { stays = false } = {}) {
  clearTimeout(hushing);
  field("wrong").textContent = "";
  field("says").textContent = text;
  if (!stays) hushing = setTimeout(() => (field("says").textContent = ""), SAID_MS);
}

function wrong(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Problem)) console.info(error); // for whoever looks for the cause
  field("says").textContent = "";
  field("wrong").textContent = error.message;
}

/** Do something that may fail, and say so if it does; the button that began it waits meanwhile. */
async function attempt(action, button) {
  if (button) button.disabled = true;
  try {
    return await action();
  } catch (error) {
    wrong(error);
    return undefined;
  } finally {
    if (button) button.disabled = false;
  }
}

function askToken() {
  const dialog = field("token");
  field("token-value").value = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? field("token-value").value : null), { once: true });
  });
}

// ---- jobs ----

function thumbnail(job) {
  return api.picture(`jobs/${job.jobID}/files/image.png`);
}

async function refresh() {
  clearTimeout(polling);
  await attempt(async () => {
    ({ jobs } = await api.json("jobs?limit=200"));
    draw();
    if (jobs.some((job) => !isOver(job))) polling = setTimeout(refresh, POLL_MS);
  });
}

function draw() {
  const shown = result.job?.jobID;
  list.draw(jobs, shown);
  strip.draw(season(jobs, jobs.find((job) => job.jobID === shown)), shown);
  field("tab-jobs").textContent = jobs.length ? `Jobs ${jobs.length}` : "Jobs";
}

/** Show a job on the map, or none. The address keeps which, so that a reload and a bookmark show it again. */
async function show(job) {
  history.replaceState(null, "", job ? `#job=${job.jobID}` : location.pathname + location.search);
  const shown = job ? attempt(() => result.show(job)) : result.hide();
  if (job) field("stage").scrollIntoView(); // which on a phone is above the form
  draw();
  drawForm();
  change.draw();
  await shown;
}

async function remove(job) {
  await attempt(async () => {
    await api.remove(job.jobID);
    say(isOver(job) ? `Removed “${title(job)}”.` : `Cancelled “${title(job)}”.`);
    if (result.job?.jobID === job.jobID) await show(null);
    await refresh();
  });
}

/** Start a job and put it at the head of the list; the next refresh says the rest. */
async function start(process, inputs) {
  const job = await api.execute(process, inputs);
  jobs = [{ ...job, inputs: job.inputs ?? inputs }, ...jobs.filter((other) => other.jobID !== job.jobID)];
  return jobs[0];
}

async function generate(event) {
  event.preventDefault();
  await attempt(async () => {
    const job = await start("generate", forms.generateInputs(names));
    say(`Making “${title(job)}”.`);
    show(job);
    await refresh();
  }, event.submitter);
}

async function months(event) {
  await attempt(async () => {
    const inputs = forms.generateInputs(names);
    const { date } = inputs.metadata;
    if (!date) throw new Problem("The twelve months need a year. Give a date.");
    const { wanted, there } = monthsOf(inputs, jobs);
    for (const each of wanted) {
      const job = await start("generate", each);
      there[job.inputs.metadata.date.slice(5)] = job;
    }
    say(wanted.length ? `Making ${wanted.length} months of ${date.slice(0, 4)}, all of seed ${inputs.seed}.` : "All twelve months are there already.");
    show(there[date.slice(5, 7) || "07"]);
    await refresh();
  }, event.currentTarget);
}

async function alter(event) {
  event.preventDefault();
  await attempt(async () => {
    const process = forms.task();
    const job = await start(process, await change.inputs());
    change.stopDrawing();
    say(`Working on “${title(job)}”.`);
    show(job);
    await refresh();
  }, event.submitter);
}

function again(job) {
  forms.fill(job.processID, job.inputs);
  openTab(job.processID === "generate" ? "make" : "change");
  drawForm();
  change.draw();
}

// ---- forms ----

function onMap(position) {
  if (!field("change").hidden) {
    change.click(position);
    return;
  }
  field("place").value = written(position, field("gsd").valueAsNumber || 10);
  document.querySelector("[data-for=place]").checked = false;
  openTab("make");
  drawForm();
  say(`The place is ${field("place").value}.`);
}

/** Show what the form says: what is unknown, the place, the ground that the image will cover. */
function drawForm() {
  for (const box of document.querySelectorAll("[data-for]")) {
    field(box.dataset.for).disabled = box.checked;
  }
  field("cloud-says").textContent = forms.isUnknown("cloud") ? "" : `${field("cloud").value} %`;
  field("centre").disabled = forms.isUnknown("place");
  const at = forms.isUnknown("place") || field("make").hidden || isShown(forms.place(names)) ? null : forms.place(names);
  map.pin(at);
  const gsd = forms.isUnknown("gsd") ? models.defaults?.gsd : field("gsd").valueAsNumber;
  const size = [field("width").valueAsNumber, field("height").valueAsNumber];
  map.outline(at && gsd > 0 && size.every(Boolean) ? footprint(at, gsd, size) : null);
}

/** Whether the image of a place is the one on the map, so that nothing need mark the place. */
function isShown(place) {
  const { lon, lat } = result.job?.inputs.metadata ?? {};
  return Boolean(place) && place[0] === lon && place[1] === lat;
}

function openTab(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const open = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(open));
    tab.tabIndex = open ? 0 : -1;
    field(tab.getAttribute("aria-controls")).hidden = !open;
  }
  drawForm();
  change.draw();
}

function listen() {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const name = (tab) => tab.id.replace("tab-", "");
  for (const [i, tab] of tabs.entries()) {
    tab.addEventListener("click", () => openTab(name(tab)));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(i + step + tabs.length) % tabs.length];
      openTab(name(next));
      next.focus();
    });
  }
  field("make").addEventListener("submit", generate);
  field("make").addEventListener("input", drawForm);
  field("months").addEventListener("click", months);
  field("change").addEventListener("submit", alter);
  field("centre").addEventListener("click", () => onMap(map.centre));
  field("place").addEventListener("change", () => {
    const at = forms.place(names);
    if (at) map.fly(at, 5);
  });
  for (const dice of document.querySelectorAll(".dice")) {
    dice.addEventListener("click", () => {
      field(dice.dataset.seed).value = crypto.getRandomValues(new Uint32Array(1))[0];
    });
  }
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    if (!event.dataTransfer.files.length) return;
    openTab("change");
    change.add(event.dataTransfer.files);
  });
}

// ---- begin ----

listen();
field("countries").append(...names.map(({ name }) => make("option", { value: name })).sort((a, b) => a.value.localeCompare(b.value)));
openTab("make");
await attempt(async () => {
  models = await api.json("models");
  const { size, steps, guidance } = models.defaults ?? {};
  field("samples").max = models.limits?.samples ?? "";
  field("model").textContent = models.default ?? "";
  if (size) [field("width").value, field("height").value] = size;
  field("steps").placeholder = steps ?? "";
  field("guidance").placeholder = guidance ?? "";
});
await refresh();
const asked = jobs.find((job) => job.jobID === new URLSearchParams(location.hash.slice(1)).get("job"));
if (asked) show(asked);
// For the browser's console and the tests.
globalThis.studio = { map, result };
document.documentElement.dataset.ready = "true";
