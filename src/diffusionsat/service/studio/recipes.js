// The same job for a terminal and for Python, as the command line and the package spell it.

import { nameOf, parsed } from "./jobs.js";

const FLAGS = { steps: "--steps", solver: "--solver", guidance: "--guidance", negative: "--negative" };
const OWN_FLAGS = {
  upscale: { factor: "--factor", consistency: "--consistency", prompt: "--prompt", samples: "--samples" },
  predict: { on: "--date", prompt: "--prompt", samples: "--samples" },
  inpaint: { feather: "--feather", prompt: "--prompt", samples: "--samples" },
  declouds: { feather: "--feather", prompt: "--prompt", samples: "--samples" },
  edit: { strength: "--strength", feather: "--feather", samples: "--samples" },
};

/** A command for a POSIX shell; `model` names the model. */
export function shell(process, inputs, model) {
  const words = ["diffusionsat", process];
  const { frames, image, references = [], mask, metadata = {} } = inputs;
  const file = (reference) => quoted(fileOf(reference));
  for (const reference of frames ?? [image]) if (reference) words.push(file(reference));
  if (process === "generate" || process === "edit") words.push(quoted(inputs.prompt ?? ""));
  let before = "";
  if (mask && typeof mask !== "string") {
    before = `cat > hole.geojson <<'END'\n${JSON.stringify(mask)}\nEND\n`;
  }
  if (mask) {
    const name = typeof mask === "string" ? file(mask) : "hole.geojson";
    words.push(...(process === "inpaint" ? [name] : ["--mask", name]));
  }
  for (const reference of references) words.push("--reference", file(reference));
  if (metadata.lon !== undefined) words.push("--lnglat", `${metadata.lon},${metadata.lat}`);
  if (metadata.date) words.push("--date", metadata.date);
  if (metadata.gsd !== undefined) words.push("--gsd", String(metadata.gsd));
  if (metadata.cloud_cover !== undefined) words.push("--cloud", String(metadata.cloud_cover));
  if (inputs.size) words.push("--size", inputs.size.join("x"));
  for (const [name, flag] of Object.entries({ ...OWN_FLAGS[process], ...FLAGS })) {
    if (given(inputs[name])) words.push(flag, quoted(String(inputs[name])));
  }
  words.push("--seed", String(inputs.seed ?? 0));
  if (model) words.push("--model", quoted(model));
  if (["upscale", "inpaint", "declouds"].includes(process)) words.push("--details");
  return `${before}${words.join(" ")} -o ${process}.tif\n`;
}

/** A few lines of Python. */
export function python(process, inputs, model) {
  const { frames, image, references = [], mask, metadata = {}, prompt = "", ...rest } = inputs;
  const opened = (reference) => {
    const { date } = parsed(reference);
    const name = literal(nameOf(reference));
    return date ? `open_frame(${name}, date=${literal(date)})` : name;
  };
  const list = (many) => `[${many.map(opened).join(", ")}]`;
  const known = Object.entries(metadata).map(([name, value]) => `${name}=${literal(value)}`);
  const place = known.length ? `Metadata(${known.join(", ")})` : "";
  const given_ = [];
  if (process === "generate") given_.push(literal(prompt), ...(place ? [place] : []));
  else if (process === "edit") given_.push(opened(image), literal(prompt));
  else given_.push(frames ? list(frames) : opened(image));
  if (mask) given_.push(`mask=${typeof mask === "string" ? opened(mask) : literal(mask)}`);
  if (references.length) given_.push(`references=${list(references)}`);
  if (process !== "generate" && place) given_.push(`metadata=${place}`);
  if (process !== "generate" && process !== "edit" && prompt) given_.push(`prompt=${literal(prompt)}`);
  for (const [name, value] of Object.entries(rest)) if (given(value)) given_.push(`${name}=${literal(value)}`);
  const body = given_.join(", ");
  const lines = [`from diffusionsat import DiffusionSat${place ? ", Metadata" : ""}`];
  if (body.includes("open_frame(")) lines.push("from diffusionsat.data.frames import open_frame");
  lines.push(
    "",
    `sat = DiffusionSat.from_pretrained(${literal(model || "compact")})`,
    `scene = sat.${process}(${body})`,
    `scene.save("${process}.tif")`,
  );
  return `${lines.join("\n")}\n`;
}

const given = (value) => value !== undefined && value !== null && value !== "";

const quoted = (text) => (/^[\w./:@=,+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

function fileOf(reference) {
  const { date } = parsed(reference);
  return date ? `${nameOf(reference)}@${date}` : nameOf(reference);
}

/** Python's spelling of a value. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, v]) => `${literal(key)}: ${literal(v)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
