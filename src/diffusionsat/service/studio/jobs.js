// The list of jobs, which is the history, and the strip of months, which is drawn from it.

import { TASKS } from "./forms.js";
import { written } from "./geometry.js";

const STATUS = { accepted: "waiting", running: "running", successful: "", failed: "failed", dismissed: "cancelled" };
const MONTHS = Array.from({ length: 12 }, (_, i) => String(i + 1).padStart(2, "0"));
const monthName = (month) =>
  new Date(2001, month - 1).toLocaleString(document.documentElement.lang, { month: "short" });

const INVENTED = "made by a model; it shows no real place.";
const PARTLY_INVENTED = "a model has invented parts of it; it is no measurement.";
const NAMES = "upload names"; // in the browser's storage: the service tells no names of its uploads

/** What must be known of the image that a process makes. */
export const warning = (process) => (process === "generate" ? INVENTED : PARTLY_INVENTED);

/** What "upload:ID" or "job:ID", perhaps with a date behind an @, refers to. */
export function parsed(reference) {
  const [, kind, id, date] = /^(upload|job):([^@]+)(?:@(.+))?$/.exec(reference);
  return { kind, id, date, key: `${kind}:${id}` };
}

/** The name of the file behind a reference; a made-up one if this browser did not send it. */
export function nameOf(reference) {
  const { kind, id, key } = parsed(reference);
  const names = JSON.parse(localStorage.getItem(NAMES) ?? "{}");
  return names[key] ?? (kind === "job" ? `synthetic-${id}-image.tif` : `${id}.tif`);
}

export function rememberName(key, name) {
  const names = JSON.parse(localStorage.getItem(NAMES) ?? "{}");
  localStorage.setItem(NAMES, JSON.stringify({ ...names, [key]: name }));
}

/** The raster that a job works on as a reference; undefined if it works on none. */
export const subject = ({ inputs }) => inputs.frames?.[0] ?? inputs.image;

export const isOver = (job) => ["successful", "failed", "dismissed"].includes(job.status);

/** What a job is called in the list. */
export function title(job) {
  const { verb } = TASKS[job.processID] ?? { verb: job.processID };
  const { prompt } = job.inputs;
  if (!subject(job)) return prompt || verb;
  return prompt ? `${verb}: ${prompt}` : verb;
}

/** What it is made of, in one line. */
export function about(job) {
  const { inputs } = job;
  const source = subject(job);
  const { lon, lat, date, gsd, cloud_cover: clouds } = inputs.metadata ?? {};
  const has = (value) => value !== undefined && value !== null;
  return [
    source && nameOf(source),
    date ?? inputs.on,
    has(lon) && written([lon, lat], gsd ?? undefined),
    has(gsd) && `${gsd} m`,
    has(clouds) && `clouds ${clouds} %`,
    inputs.factor && `×${inputs.factor}`,
    inputs.size && inputs.size.join(" × "),
    `seed ${inputs.seed ?? 0}`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** What is said beside a job. */
export function state(job) {
  if (job.status === "running" && job.progress > 0) return `${job.progress} %`;
  return STATUS[job.status];
}

/** Make an element of a name, properties and children. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** The list. It is drawn anew only where a job has changed, so that the focus stays where it is. */
export class JobList {
  /** @param actions {show(job), remove(job), thumbnail(job): promise of an address}. */
  constructor(element, actions) {
    this.element = element;
    this.actions = actions;
    this.rows = new Map(); // job -> {row, drawn}
  }

  draw(jobs, shownId) {
    document.getElementById("no-jobs").hidden = jobs.length > 0;
    const there = new Set(jobs.map((job) => job.jobID));
    for (const [id, { row }] of this.rows) {
      if (there.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    jobs.forEach((job, position) => {
      const drawn = JSON.stringify([job.status, job.progress, job.message, job.jobID === shownId]);
      const old = this.rows.get(job.jobID);
      if (old?.drawn !== drawn) {
        const row = this.#row(job, job.jobID === shownId);
        if (old) replaceKeepingFocus(old.row, row);
        this.rows.set(job.jobID, { row, drawn });
      }
      const { row } = this.rows.get(job.jobID);
      if (this.element.children[position] !== row) this.element.insertBefore(row, this.element.children[position] ?? null);
    });
  }

  #row(job, shown) {
    const picture = make("span", { className: "thumb" });
    if (job.status === "successful" && job.processID !== "features") addPicture(picture, this.actions.thumbnail(job));
    const open = make("button", { type: "button", className: "open" });
    if (shown) open.setAttribute("aria-current", "true");
    const numbers = job.status === "failed" ? job.message : about(job);
    open.append(
      picture,
      make("span", { className: "what" }, make("span", { className: "title", textContent: title(job) }), make("span", { className: "quiet", textContent: numbers })),
      make("span", { className: `state ${job.status}`, textContent: state(job) }),
    );
    open.addEventListener("click", () => this.actions.show(job));
    const remove = make("button", { type: "button", className: "remove", textContent: "×" });
    remove.setAttribute("aria-label", `${isOver(job) ? "Remove" : "Cancel"} “${title(job)}”`);
    remove.title = isOver(job) ? "Remove" : "Cancel";
    remove.addEventListener("click", () => this.actions.remove(job));
    return make("li", {}, open, remove);
  }
}

function replaceKeepingFocus(old, fresh) {
  const focused = [...old.querySelectorAll("button")].indexOf(document.activeElement);
  old.replaceWith(fresh);
  if (focused >= 0) fresh.querySelectorAll("button")[focused].focus();
}

async function addPicture(element, address) {
  try {
    element.append(make("img", { alt: "", src: await address }));
  } catch {
    // The list says that the job is done; that its picture is gone is said when it is opened.
  }
}

/** Inputs without the month, to see which jobs differ in nothing else. */
function family({ processID, inputs }) {
  const { date, ...metadata } = inputs.metadata ?? {};
  const [year, month] = date?.split("-") ?? [];
  if (processID !== "generate" || !month || date.length !== 7) return null;
  const sorted = (object) => Object.fromEntries(Object.entries(object).sort());
  return { month, key: JSON.stringify([year, sorted({ ...inputs, metadata: sorted(metadata) })]) };
}

/** Jobs by month ("01" to "12") that are like a job but for their month; null if there are fewer than `least`. */
export function season(jobs, job, least = 2) {
  const own = job && family(job);
  if (!own) return null;
  const found = {};
  for (const other of jobs) {
    const like = family(other);
    if (like?.key === own.key && !["failed", "dismissed"].includes(other.status)) found[like.month] ??= other;
  }
  return Object.keys(found).length >= least ? found : null;
}

/** Inputs of twelve jobs that differ but in their month, those left out that are there already. */
export function monthsOf(inputs, jobs) {
  const of = (month) => ({ ...inputs, metadata: { ...inputs.metadata, date: `${inputs.metadata.date.slice(0, 4)}-${month}` } });
  const there = season(jobs, { processID: "generate", inputs: of("01") }, 1) ?? {};
  return { wanted: MONTHS.filter((month) => !there[month]).map(of), there };
}

/** The strip of months under the map. */
export class Strip {
  constructor(element, actions) {
    this.element = element;
    this.actions = actions;
    this.cells = MONTHS.map((month) => {
      const picture = make("span", { className: "thumb" });
      const button = make("button", { type: "button", disabled: true }, picture, make("span", { textContent: monthName(Number(month)) }));
      button.addEventListener("click", () => this.actions.show(this.jobs[month]));
      element.append(make("li", {}, button));
      return { month, button, picture, drawn: "" };
    });
  }

  draw(jobs, shownId) {
    this.element.hidden = !jobs;
    this.jobs = jobs ?? {};
    for (const cell of this.cells) {
      const job = this.jobs[cell.month];
      cell.button.disabled = !job;
      if (job && job.jobID === shownId) cell.button.setAttribute("aria-current", "true");
      else cell.button.removeAttribute("aria-current");
      const drawn = job ? `${job.jobID} ${state(job)}` : "";
      if (cell.drawn === drawn) continue;
      cell.drawn = drawn;
      cell.picture.replaceChildren();
      if (job?.status === "successful") addPicture(cell.picture, this.actions.thumbnail(job));
      else cell.picture.textContent = job ? state(job) : "";
    }
  }
}
