// Images that were uploaded, and the hole that is drawn into one of them.

import { Problem } from "./api.js";
import * as forms from "./forms.js";
import { multiPolygon, written } from "./geometry.js";
import { make, nameOf, parsed, rememberName } from "./jobs.js";
import { maskOf, Picture } from "./picture.js";

const field = (id) => document.getElementById(id);

export class Change {
  /** @param actions {say(text), wrong(error), limits(), isOpen(), isResultShown(), lay(picture)}. */
  constructor(api, map, actions) {
    this.api = api;
    this.map = map;
    this.actions = actions;
    this.uploads = []; // as the service says them, with the date that the person gives
    this.chosen = null;
    this.pictures = new Map(); // upload -> promise of its picture
    this.#listen();
  }

  /** Upload files one by one. */
  async add(files) {
    for (const file of files) {
      this.actions.say(`Uploading ${file.name}.`);
      try {
        const most = this.actions.limits().upload_bytes;
        if (file.size > most) throw new Problem(`it has ${inMegabytes(file.size)}; this service takes at most ${inMegabytes(most)}.`);
        const upload = await this.api.upload(file);
        const key = `upload:${upload.id}`;
        rememberName(key, file.name);
        this.#take({ ...upload, key, name: file.name });
        this.actions.say(`${file.name}: ${describe(upload)}.`);
      } catch (error) {
        this.actions.wrong(new Problem(`${file.name}: ${error.message}`, error.status));
      }
    }
    await this.#show();
  }

  /** Work on the result of a job, whose picture is there. */
  async take(job, { width, height, corners }) {
    const key = `job:${job.jobID}`;
    const { date, on = date } = { ...job.inputs.metadata, ...job.inputs };
    const there = this.uploads.find((upload) => upload.key === key);
    this.chosen = there ?? this.#take({ key, name: nameOf(key), width, height, corners, metadata: { date: on } });
    this.#list();
    await this.#show();
  }

  #take(upload) {
    const taken = { ...upload, date: upload.metadata?.date ?? "" };
    this.uploads.push(taken);
    this.chosen ??= taken;
    this.#list();
    return taken;
  }

  /** Inputs of the job that is chosen; draws the mask where GeoJSON has no ground to lie on. */
  async inputs() {
    const rings = forms.hole();
    const short = rings.find((ring) => ring.length < 3);
    if (short) throw new Problem("The hole has a part of fewer than three points. Add points, or clear it.");
    const wants = forms.TASKS[forms.task()].hole;
    return forms.changeInputs(this.#ordered(), wants && rings.length ? await this.#mask(rings) : undefined);
  }

  async #mask(rings) {
    const { chosen } = this;
    if (!chosen || chosen.corners) return multiPolygon(rings);
    const blob = await maskOf(rings, chosen.width, chosen.height);
    const key = `upload:${(await this.api.upload(blob, "mask.png")).id}`;
    rememberName(key, "mask.png");
    return key;
  }

  /** A click on the map or on an image without a place: another point of the hole. */
  click(point) {
    if (!this.#isDrawing || field("draw").closest("[data-tasks]").hidden) return;
    const text = field("hole").value.replace(/[ \t]+$/, "");
    const line = this.chosen?.corners === null ? point.map(Math.round).join(", ") : written(point, 1);
    field("hole").value = text && !text.endsWith("\n") ? `${text}\n${line}` : text + line;
    this.draw();
  }

  get #isDrawing() {
    return field("draw").getAttribute("aria-pressed") === "true";
  }

  /** Let clicks on the map add no more points. */
  stopDrawing() {
    press(field("draw"), false);
  }

  /** How a raster that is referred to looks: promise of a `Picture`. */
  picture(reference) {
    const { kind, id, key } = parsed(reference);
    if (!this.pictures.has(key)) {
      const corners = this.uploads.find((upload) => upload.key === key)?.corners ?? null;
      const path = kind === "job" ? `jobs/${id}/files/image.png` : `uploads/${id}/preview.png`;
      const made = this.api.bitmap(path).then((bitmap) => new Picture(bitmap, corners, "input"));
      made.catch(() => this.pictures.delete(key));
      this.pictures.set(key, made);
    }
    return this.pictures.get(key);
  }

  #ordered() {
    return [...this.uploads].sort((a, b) => (b === this.chosen) - (a === this.chosen));
  }

  /** Show the chosen image where it lies, and go there. */
  async #show() {
    if (!this.chosen) {
      this.actions.lay(null);
      return;
    }
    try {
      const picture = await this.picture(this.chosen.key);
      this.actions.lay(picture);
      if (picture.corners) this.map.fit(picture.corners);
    } catch (error) {
      this.actions.wrong(error);
    }
    this.draw();
  }

  /** Show what belongs to the chosen job, and the hole. */
  draw() {
    const name = forms.task();
    const { verb, says, hole } = forms.TASKS[name];
    for (const part of field("change").querySelectorAll("[data-tasks]")) {
      part.hidden = !part.dataset.tasks.split(" ").includes(name);
    }
    field("task-says").textContent = says;
    field("run").textContent = verb;
    const loose = this.chosen?.corners === null;
    field("hole-label").textContent = name === "inpaint" ? "Hole" : "Where";
    field("hole-hint").textContent =
      `One corner a line: ${loose ? "column, row" : "longitude, latitude"}. An empty line begins another part. ${hole ?? ""}`;
    // Over a result the hole would hide what it was filled with, but for who draws another.
    const seen = this.actions.isOpen() && hole && (this.#isDrawing || !this.actions.isResultShown());
    const drawn = seen ? this.#rings() : [];
    this.map.hole(loose ? [] : drawn);
    if (loose) this.picture(this.chosen.key).then((picture) => drawOn(picture, drawn), this.actions.wrong);
  }

  // While a line is being typed it is no pair yet; the hole is then not drawn, and nothing is said.
  #rings() {
    try {
      return forms.hole();
    } catch {
      return [];
    }
  }

  #list() {
    field("uploads").hidden = !this.uploads.length;
    field("uploads").querySelector("ul").replaceChildren(...this.uploads.map((upload) => this.#row(upload)));
  }

  #row(upload) {
    const { key, name } = upload;
    const marked = make("input", { type: "radio", name: "chosen", checked: upload === this.chosen });
    marked.addEventListener("change", () => {
      this.chosen = upload;
      this.#show();
    });
    const date = make("input", { value: upload.date, placeholder: "date", className: "date", autocomplete: "off" });
    date.setAttribute("aria-label", `Date of ${name}`);
    date.addEventListener("input", () => (upload.date = date.value.trim()));
    const remove = make("button", { type: "button", className: "remove", textContent: "×" });
    remove.setAttribute("aria-label", `Take ${name} out`);
    remove.addEventListener("click", () => {
      this.uploads = this.uploads.filter((other) => other.key !== key);
      if (this.chosen === upload) this.chosen = this.uploads[0] ?? null;
      this.#list();
      this.#show();
    });
    const what = make("span", { className: "what" }, make("span", { className: "title", textContent: name }), make("span", { className: "quiet", textContent: describe(upload) }));
    return make("li", {}, make("label", {}, marked, what), date, remove);
  }

  #listen() {
    field("files").addEventListener("change", async (event) => {
      const files = [...event.target.files];
      event.target.value = ""; // so that the same file can be chosen again
      await this.add(files);
    });
    field("change").addEventListener("input", () => {
      field("strength-says").textContent = field("strength").value;
      this.draw();
    });
    for (const choice of document.querySelectorAll("[name=task]")) {
      choice.addEventListener("change", () => press(field("draw"), choice.value === "inpaint"));
    }
    field("draw").addEventListener("click", () => {
      press(field("draw"), !this.#isDrawing);
      this.draw();
    });
    field("undo").addEventListener("click", () => {
      field("hole").value = field("hole").value.trimEnd().split("\n").slice(0, -1).join("\n");
      this.draw();
    });
    field("clear").addEventListener("click", () => {
      field("hole").value = "";
      this.draw();
    });
    field("loose").addEventListener("click", async (event) => {
      if (!this.chosen || event.target.tagName !== "CANVAS" || !this.actions.isOpen()) return;
      const { width, height } = await this.picture(this.chosen.key);
      this.click([(event.offsetX / event.target.clientWidth) * width, (event.offsetY / event.target.clientHeight) * height]);
    });
  }
}

const inMegabytes = (bytes) => `${Math.ceil(bytes / 2 ** 20).toLocaleString("en")} MB`;

const press = (button, pressed) => button.setAttribute("aria-pressed", String(pressed));

function describe({ width, height, bands, corners, metadata }) {
  const gsd = metadata?.gsd ? ` of ${Number(metadata.gsd.toPrecision(3))} m` : "";
  const count = bands ? `, ${bands.length} ${bands.length === 1 ? "band" : "bands"}` : "";
  return `${width} × ${height} pixels${gsd}${count}${corners ? "" : ", no place"}`;
}

/** Draw rings of [column, row] over a picture that lies nowhere. */
function drawOn(picture, rings) {
  picture.draw();
  const context = picture.canvas.getContext("2d");
  const scale = picture.canvas.width / picture.width;
  context.save();
  context.strokeStyle = "#c2410c";
  context.fillStyle = "#c2410c40";
  context.lineWidth = 3;
  for (const ring of rings) {
    context.beginPath();
    for (const [column, row] of ring) context.lineTo(column * scale, row * scale);
    context.closePath();
    context.fill();
    context.stroke();
  }
  context.restore();
}
