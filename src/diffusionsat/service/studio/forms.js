// What the forms say, as the inputs of a job, and back. Nothing here talks to the service.

import { parsePair, parseRings } from "./geometry.js";
import { Problem } from "./api.js";

const DATE = /^\d{4}(-\d{2}(-\d{2})?)?$/;
const field = (id) => document.getElementById(id);
const text = (id) => field(id).value.trim();

/** What each job is called and does, for the form and the list of jobs. */
export const TASKS = {
  generate: { verb: "Generate" },
  upscale: {
    verb: "Sharpen",
    says: "Makes pixels smaller, and keeps what the image measured.",
  },
  predict: {
    verb: "Predict",
    says: "Shows the same ground at another date. Each image needs its own date.",
  },
  inpaint: {
    verb: "Fill",
    says: "Makes a hole anew in the manner of what lies around it, and of the other images.",
    hole: "Empty: where the image has no data.",
  },
  declouds: {
    verb: "Remove clouds",
    says: "Makes the ground under clouds; the other images show it clear.",
    hole: "Empty: where the image's own band says so.",
  },
  edit: {
    verb: "Edit",
    says: "Changes the image by words; strength is how much.",
    hole: "Empty: everywhere.",
  },
  features: { verb: "Features" },
};

/** A number of a field; undefined where it is empty. */
function number(id, name) {
  const input = field(id);
  if (input.validity.badInput || (input.value !== "" && !Number.isFinite(input.valueAsNumber))) {
    throw new Problem(`${name} is no number.`);
  }
  return input.value === "" ? undefined : input.valueAsNumber;
}

function date(id, name) {
  const value = text(id);
  if (!DATE.test(value)) throw new Problem(`${name} is “${value}”. Give a year, a month or a day: 2019, 2019-07, 2019-07-14.`);
  return value;
}

export const isUnknown = (id) => document.querySelector(`[data-for=${id}]`).checked;

/** The place of the form as [lon, lat]: typed numbers, or the middle of a country; null if it is neither. */
export function place(names) {
  const value = text("place");
  const country = names.find(({ name }) => name.toLowerCase() === value.toLowerCase());
  return country ? country.at.map((degrees) => Number(degrees.toFixed(4))) : parsePair(value);
}

/** Inputs of `generate`. */
export function generateInputs(names) {
  const metadata = {};
  if (!isUnknown("place")) {
    const at = place(names);
    if (!at) throw new Problem("The place is missing. Click the map, type longitude and latitude, or mark it as unknown.");
    [metadata.lon, metadata.lat] = at;
  }
  if (!isUnknown("date")) metadata.date = date("date", "The date");
  if (!isUnknown("gsd")) metadata.gsd = number("gsd", "Metres per pixel");
  if (!isUnknown("cloud")) metadata.cloud_cover = number("cloud", "Clouds");
  const inputs = {
    prompt: text("prompt"),
    metadata,
    size: [number("width", "The width"), number("height", "The height")],
    seed: number("seed", "The seed") ?? 0,
    steps: number("steps", "Steps"),
    guidance: number("guidance", "Guidance"),
    negative: text("negative") || undefined,
  };
  return withoutUndefined(inputs);
}

export const task = () => document.querySelector("[name=task]:checked").value;

/**
 * Inputs of the job on rasters that is chosen.
 *
 * @param uploads what was uploaded, the one to work on first.
 * @param mask the hole as the service takes it; undefined if there is none.
 */
export function changeInputs(uploads, mask) {
  const name = task();
  if (!uploads.length) throw new Problem("There is no image to work on. Choose one, or drop it on the page.");
  const references = uploads.map(reference);
  const inputs = { prompt: text("words"), seed: number("seed2", "The seed") ?? 0, samples: number("samples", "Samples") };
  if (name === "upscale" || name === "predict") inputs.frames = references;
  else inputs.image = references[0];
  if (name === "upscale") Object.assign(inputs, { factor: number("factor", "Times sharper"), consistency: text("consistency") });
  if (name === "predict") inputs.on = date("on", "The date to be seen");
  if (["inpaint", "declouds"].includes(name) && references.length > 1) inputs.references = references.slice(1);
  if (["inpaint", "declouds", "edit"].includes(name)) inputs.mask = mask;
  if (name === "edit") {
    if (!inputs.prompt) throw new Problem("Editing goes by words, and there are none. Say what is to be seen.");
    inputs.strength = number("strength", "Strength");
  }
  return withoutUndefined(inputs);
}

const reference = ({ key, date, metadata }) => (date && date !== metadata?.date ? `${key}@${date}` : key);

/** Rings of the hole that was drawn or typed. */
export function hole() {
  const rings = parseRings(field("hole").value);
  if (!rings) throw new Problem("The hole has a line that is no pair of numbers. Give two numbers a line, such as 7.44, 46.95.");
  return rings;
}

/** Say the settings of a job in the form it came from, to make another like it. */
export function fill(process, inputs) {
  const say = (id, value) => (field(id).value = value ?? "");
  if (process !== "generate") {
    document.querySelector(`[name=task][value=${process}]`).checked = true;
    say("words", inputs.prompt);
    say("seed2", inputs.seed);
    for (const id of ["factor", "consistency", "on", "strength", "samples"]) if (id in inputs) say(id, inputs[id]);
    return;
  }
  const { lon, lat, date, gsd, cloud_cover: cloud } = inputs.metadata ?? {};
  for (const id of ["prompt", "seed", "steps", "guidance", "negative"]) say(id, inputs[id]);
  if (inputs.size) [field("width").value, field("height").value] = inputs.size;
  const known = { place: lon === undefined ? undefined : `${lon}, ${lat}`, date, gsd, cloud };
  for (const [id, value] of Object.entries(known)) {
    const unknown = value === undefined || value === null;
    document.querySelector(`[data-for=${id}]`).checked = unknown;
    if (!unknown) say(id, value);
  }
}

const withoutUndefined = (inputs) => Object.fromEntries(Object.entries(inputs).filter(([, value]) => value !== undefined));
