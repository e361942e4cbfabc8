// The result on the map: its layers, opacity, swipe, downloads, and what lay there before.

import { decoded, Picture } from "./picture.js";
import { Problem } from "./api.js";
import { about, isOver, make, nameOf, subject, title, warning } from "./jobs.js";
import { python, shell } from "./recipes.js";

const MOST_KEPT = 6; // pictures of earlier results that the swipe offers
const LAYERS = {
  image: ["Image", ""],
  measured: ["Measured", "What the input determines. The rest of the image was invented."],
  invented: ["Invented", "What the model added to the measurement; grey is nothing."],
  spread: ["Spread", "How far the samples differ: bright is uncertain."],
  support: ["Support", "White is determined by the input, black is invented."],
};
const field = (id) => document.getElementById(id);

export class Result {
  /**
   * @param api, map as they are.
   * @param actions {watchOver(job), cancel(job), close(), again(job), further(job, picture), say(text), wrong(error),
   *   pictureOf(reference), model()}.
   */
  constructor(api, map, actions) {
    this.api = api;
    this.map = map;
    this.actions = actions;
    this.earlier = []; // pictures of results shown before, newest first
    this.job = null;
    this.under = null; // the upload that is worked on, where no result is shown
    this.befores = {}; // what the swipe compares with
    this.images = {}; // layer -> picture
    field("opacity").addEventListener("input", () => this.lay());
    field("swipe").addEventListener("input", () => this.lay());
    field("before").addEventListener("change", () => this.lay());
    field("cancel").addEventListener("click", () => actions.cancel(this.job));
    field("close").addEventListener("click", () => actions.close());
    field("again").addEventListener("click", () => actions.again(this.job));
    field("further").addEventListener("click", () => actions.further(this.job, this.images.image));
    field("copy-shell").addEventListener("click", () => this.#copy(shell, "Command line"));
    field("copy-python").addEventListener("click", () => this.#copy(python, "Python"));
  }

  /** Show a job, whatever its state; resolves when it is over and drawn. */
  async show(job) {
    this.hide();
    this.job = job;
    this.watch = new AbortController();
    const { signal } = this.watch;
    field("result").hidden = false;
    field("result-title").textContent = title(job);
    field("result-about").textContent = about(job);
    document.querySelector("#warning span").textContent = warning(job.processID);
    this.update(job);
    await this.#offerBefore(job, signal);
    if (!isOver(job)) job = await this.#follow(job, signal);
    if (signal.aborted || job?.status !== "successful") return;
    await this.#finish(job, signal);
  }

  /** Take the result off the map; its picture can be compared with later ones. */
  hide() {
    this.watch?.abort();
    if (this.images.image) {
      const { image } = this.images;
      this.earlier = [image, ...this.earlier.filter((other) => other.job !== image.job)].slice(0, MOST_KEPT);
    }
    this.job = this.item = this.picture = null;
    this.images = {};
    this.fitted = false;
    field("result").hidden = true;
    this.lay();
  }

  /** Show an upload while no result is shown; null is none. */
  underlay(picture) {
    this.under = picture;
    this.lay();
  }

  /** News of the job that is shown. */
  update(job) {
    this.job = job;
    const working = !isOver(job);
    field("working").hidden = !working;
    field("done").hidden = job.status !== "successful";
    field("progress").value = job.progress ?? 0;
    const remarks = job.status === "successful" ? job.message.replace(/^done(; )?/, "") : "";
    field("remarks").textContent = remarks.replace(/\b(upload|job):[0-9a-f]{16}/g, nameOf);
    if (!working && job.status !== "successful") {
      this.picture = null; // a coarse picture of what never became one
      this.lay();
    }
    if (job.status === "failed") this.actions.wrong(new Problem(`“${title(job)}” failed: ${job.message}`));
  }

  // The stream may break, by a proxy or a restart of the service: then the job is asked for until it answers.
  async #follow(job, signal) {
    while (!signal.aborted && !isOver(job)) {
      try {
        for await (const { event, data } of this.api.events(job.jobID, signal)) {
          if (event === "preview") await this.#preview(data, signal);
          else if (event === "status") this.update((job = data));
        }
        if (!isOver(job)) await new Promise((resolve) => setTimeout(resolve, 1000));
        job = await this.api.json(`jobs/${job.jobID}`, { signal });
      } catch (error) {
        if (signal.aborted) return null;
        if (error.status) throw error;
        await new Promise((resolve) => setTimeout(resolve, 2000));
      }
    }
    if (signal.aborted) return null;
    this.update(job);
    this.actions.watchOver(job);
    return job;
  }

  async #preview({ png, corners }, signal) {
    const image = await decoded(png);
    if (signal.aborted) return;
    this.picture = new Picture(image, corners);
    this.#fit();
    this.lay();
  }

  async #finish(job, signal) {
    this.item = await this.api.json(`jobs/${job.jobID}/results`, { signal });
    const names = Object.keys(LAYERS).filter((name) => this.#address(name));
    this.#offerLayers(names);
    this.#offerDownloads(job);
    field("further").hidden = !names.length;
    if (names.length) await this.#choose("image", signal);
    if (!signal.aborted) this.actions.say(`${title(job)}: done. The image is synthetic.`);
  }

  /** Where the picture of a layer is, as the result's STAC item says; undefined if there is none. */
  #address(layer) {
    return this.#path(this.item.assets[layer === "image" ? "thumbnail" : `${layer}-thumbnail`]);
  }

  // An item's addresses are those by which the service knows itself, which behind a proxy are not ours.
  #path(asset) {
    return asset && `jobs/${this.job.jobID}/files/${asset.href.split("/").at(-1)}`;
  }

  async #choose(layer, signal) {
    const { corners = null } = this.item.properties;
    // After a reload it is not known any more where an upload lies; its result lies on the same ground.
    if (this.befores.input) this.befores.input.corners ??= corners;
    const { jobID, inputs } = this.job;
    const named = [title(this.job), inputs.metadata?.date ?? inputs.on].filter(Boolean).join(", ");
    this.images[layer] ??= new Picture(await this.api.bitmap(this.#address(layer)), corners, named, jobID);
    if (signal.aborted) return;
    this.picture = this.images[layer];
    field("layer-says").textContent = LAYERS[layer][1];
    this.#fit();
    this.lay();
  }

  // The view moves once for a job, so that whoever has moved the map meanwhile is not moved back.
  #fit() {
    if (this.fitted || !this.picture.corners) return;
    this.fitted = true;
    this.map.fit(this.picture.corners);
  }

  /** Draw what is chosen: the picture above, what is compared with it below. */
  lay() {
    const { picture, map } = this;
    const before = this.job ? this.befores[field("before").value] : this.under;
    before?.draw();
    map.picture("before", before);
    picture?.draw(Number(field("swipe").value) / 100);
    map.picture("now", picture, Number(field("opacity").value) / 100);
    map.label(picture?.corners);
    const loose = field("loose");
    const unplaced = [picture, before].find((p) => p && !p.corners);
    loose.hidden = !unplaced;
    if (unplaced) loose.querySelector("canvas").replaceWith(unplaced.canvas);
    loose.classList.toggle("made", Boolean(picture));
  }

  /** What lay there before: the input of the job, else the results that were shown before it. */
  async #offerBefore(job, signal) {
    const input = subject(job);
    this.befores = {};
    if (input) {
      try {
        this.befores.input = await this.actions.pictureOf(input);
      } catch {
        // Uploads are kept for a shorter time than results; then there is nothing to compare with.
      }
    }
    if (signal.aborted) return;
    const earlier = this.earlier.filter((picture) => picture.job !== job.jobID);
    earlier.forEach((picture, i) => (this.befores[`earlier-${i}`] = picture));
    const option = (value, text) => make("option", { value, textContent: text });
    field("before").replaceChildren(
      ...(this.befores.input ? [option("input", "with the input")] : []),
      ...earlier.map((picture, i) => option(`earlier-${i}`, `with ${picture.name}`)),
      option("map", "with the map"),
    );
    this.befores.map = null;
    field("swipe").value = 0;
    this.lay();
  }

  #offerLayers(names) {
    const box = field("layers");
    box.hidden = names.length < 2;
    const { signal } = this.watch;
    const choices = names.map((name) => {
      const input = make("input", { type: "radio", name: "layer", value: name, checked: name === "image" });
      input.addEventListener("change", () => this.#choose(name, signal).catch(this.actions.wrong));
      return make("label", {}, input, ` ${LAYERS[name][0]}`);
    });
    box.replaceChildren(box.querySelector("legend"), ...choices);
  }

  #offerDownloads({ jobID }) {
    const { assets } = this.item;
    const layers = Object.keys(LAYERS).filter((name) => name in assets && name !== "image");
    const files = [
      ...(assets.image ? [["GeoTIFF", this.#path(assets.image)]] : []),
      ...(assets.thumbnail ? [["PNG", this.#path(assets.thumbnail)]] : []),
      ["STAC", `jobs/${jobID}/results`, `synthetic-${jobID}.json`],
      ...layers.map((layer) => [LAYERS[layer][0], this.#path(assets[layer])]),
    ];
    field("downloads").replaceChildren(...files.map((file) => make("li", {}, this.#download(...file))));
  }

  // A link sends no token, so the file is fetched first and then handed to the browser.
  #download(text, path, name = `synthetic-${this.job.jobID}-${path.split("/").at(-1)}`) {
    const link = make("a", { textContent: text, download: name, href: new URL(path, this.api.root).href });
    link.addEventListener("click", async (event) => {
      if (!this.api.token || link.href.startsWith("blob:")) return;
      event.preventDefault();
      try {
        link.href = URL.createObjectURL(await (await this.api.send(path)).blob());
        link.click();
      } catch (error) {
        this.actions.wrong(error);
      }
    });
    return link;
  }

  async #copy(recipe, name) {
    const { processID, inputs } = this.job;
    const text = recipe(processID, inputs, this.actions.model());
    try {
      await navigator.clipboard.writeText(text);
      this.actions.say(`${name} copied.`);
    } catch {
      // Without https a browser keeps the clipboard to itself: the text stays on the page to be copied from there.
      this.actions.say(text, { stays: true });
    }
  }
}
