// The map without WebGL: the same methods as in map.js, drawn on a plain canvas.

import { boundsOf, clamp, mercator, unmercator } from "./geometry.js";
import { colour, margins, onTheme, SLOTS } from "./map.js";

const TILE = 512; // pixels of the world at zoom 0, as in MapLibre
const STEP = 60; // pixels that an arrow moves the map by
const STILL = 4; // pixels that a click may wander

export async function open(element, world, onClick) {
  return new FlatMap(element, world, onClick);
}

class FlatMap {
  constructor(element, { land, borders }, onClick) {
    this.canvas = element.appendChild(document.createElement("canvas"));
    this.canvas.className = "flat";
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", "Map: arrows move it, plus and minus zoom");
    this.mark = element.appendChild(document.createElement("div"));
    this.mark.className = "synthetic afloat";
    this.mark.textContent = "SYNTHETIC";
    this.mark.hidden = true;
    this.land = pathOf(land.geometry.coordinates.flat(), true);
    this.borders = pathOf(borders.geometry.coordinates, false);
    this.middle = mercator([10, 25]);
    this.zoom = 1.4;
    this.laid = {}; // slot -> {picture, opacity}
    this.rings = [];
    this.onClick = onClick;
    this.#buttons(element);
    this.#listen();
    onTheme(() => this.draw());
    new ResizeObserver(() => this.draw()).observe(element);
  }

  get centre() {
    return unmercator(this.middle);
  }

  get world() {
    return TILE * 2 ** this.zoom;
  }

  pin(position) {
    this.place = position;
    this.draw();
  }

  label(corners) {
    this.labelled = corners?.[0];
    this.draw();
  }

  outline(corners) {
    this.outlined = corners;
    this.draw();
  }

  hole(rings) {
    this.rings = rings;
    this.draw();
  }

  picture(slot, picture, opacity = 1) {
    this.laid[slot] = picture?.corners ? { picture, opacity } : null;
    this.draw();
  }

  fit(corners) {
    const { top, left, right, bottom } = margins();
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [west, south, east, north] = boundsOf(corners);
    const [x0, y0] = mercator([west, north]);
    const [x1, y1] = mercator([east, south]);
    const scale = Math.min((width - left - right) / (x1 - x0), (height - top - bottom) / (y1 - y0));
    this.zoom = clamp(Math.log2(scale / TILE), 0, 20);
    this.middle = [
      (x0 + x1) / 2 + (right - left) / 2 / this.world,
      (y0 + y1) / 2 + (bottom - top) / 2 / this.world,
    ];
    this.draw();
  }

  fly(position, zoom) {
    this.middle = mercator(position);
    this.zoom = zoom;
    this.draw();
  }

  /** Screen pixels of a position. */
  project(position) {
    const [x, y] = mercator(position);
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return [(x - this.middle[0]) * this.world + width / 2, (y - this.middle[1]) * this.world + height / 2];
  }

  /** Draw once before the next frame, however often it is asked for. */
  draw() {
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      this.#draw();
    });
  }

  #draw() {
    const { canvas, world } = this;
    const ratio = devicePixelRatio;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    const context = canvas.getContext("2d");
    const [left, top] = [canvas.clientWidth / 2 - this.middle[0] * world, canvas.clientHeight / 2 - this.middle[1] * world];
    context.fillStyle = colour("sea");
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (const copy of [-1, 0, 1]) {
      context.setTransform(world * ratio, 0, 0, world * ratio, (left + copy * world) * ratio, top * ratio);
      context.fillStyle = colour("land");
      context.fill(this.land);
      context.strokeStyle = colour("border");
      context.lineWidth = 0.8 / world;
      context.stroke(this.borders);
    }
    for (const slot of SLOTS) if (this.laid[slot]) this.#drawPicture(context, ratio, this.laid[slot]);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.strokeStyle = "#c2410c";
    context.fillStyle = "#c2410c40";
    context.lineWidth = 2;
    for (const ring of this.rings) this.#ring(context, ring, true);
    context.setLineDash([5, 4]);
    if (this.outlined) this.#ring(context, this.outlined, false);
    if (this.place) this.#dot(context, this.place);
    this.mark.hidden = !this.labelled;
    if (this.labelled) {
      const [x, y] = this.project(this.labelled);
      this.mark.style.transform = `translate(${x}px, ${y}px) translateY(-100%)`;
    }
  }

  // Three corners make the affine map; images of one projection are parallelograms but for the earth's curvature.
  #drawPicture(context, ratio, { picture, opacity }) {
    const [[x0, y0], [x1, y1], , [x3, y3]] = picture.corners.map((corner) => this.project(corner));
    const { canvas } = picture;
    const along = [(x1 - x0) / canvas.width, (y1 - y0) / canvas.width];
    const down = [(x3 - x0) / canvas.height, (y3 - y0) / canvas.height];
    context.setTransform(...[...along, ...down, x0, y0].map((number) => number * ratio));
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = Math.hypot(...along) < 1;
    context.drawImage(canvas, 0, 0);
    context.globalAlpha = 1;
  }

  #ring(context, ring, filled) {
    context.beginPath();
    for (const position of ring) context.lineTo(...this.project(position));
    context.closePath();
    if (filled) context.fill();
    context.stroke();
    if (filled) for (const position of ring) this.#dot(context, position);
  }

  #dot(context, position) {
    context.save();
    context.setLineDash([]);
    context.beginPath();
    context.arc(...this.project(position), 4, 0, 2 * Math.PI);
    context.fillStyle = "#fff";
    context.fill();
    context.stroke();
    context.restore();
  }

  #move(x, y) {
    this.middle = [(((this.middle[0] - x / this.world) % 1) + 1) % 1, clamp(this.middle[1] - y / this.world, 0, 1)];
    this.draw();
  }

  /** Zoom by a number of levels; what lies at a point of the canvas stays there. */
  #zoomBy(levels, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const [dx, dy] = [x - this.canvas.clientWidth / 2, y - this.canvas.clientHeight / 2];
    const before = this.world;
    this.zoom = clamp(this.zoom + levels, 0, 20);
    const shift = 1 / before - 1 / this.world;
    this.middle = [this.middle[0] + dx * shift, clamp(this.middle[1] + dy * shift, 0, 1)];
    this.draw();
  }

  #buttons(element) {
    const box = element.appendChild(document.createElement("div"));
    box.className = "zoom";
    for (const [sign, name, levels] of [["+", "Zoom in", 1], ["−", "Zoom out", -1]]) {
      const button = box.appendChild(document.createElement("button"));
      button.type = "button";
      button.textContent = sign;
      button.setAttribute("aria-label", name);
      button.addEventListener("click", () => this.#zoomBy(levels));
    }
  }

  #listen() {
    const { canvas } = this;
    const fingers = new Map(); // pointer -> where it is
    let wandered = 0;
    const spread = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a[0] - b[0], a[1] - b[1]);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
      wandered = fingers.size > 1 ? Infinity : 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const from = fingers.get(event.pointerId);
      if (!from) return;
      const to = [event.offsetX, event.offsetY];
      const before = fingers.size === 2 ? spread() : 0;
      fingers.set(event.pointerId, to);
      wandered += Math.hypot(to[0] - from[0], to[1] - from[1]);
      if (fingers.size === 2) this.#zoomBy(Math.log2(spread() / before), ...to);
      else this.#move(to[0] - from[0], to[1] - from[1]);
    });
    canvas.addEventListener("pointerup", (event) => {
      fingers.delete(event.pointerId);
      if (wandered > STILL) return;
      const { clientWidth: width, clientHeight: height } = canvas;
      const [x, y] = this.middle;
      this.onClick(unmercator([x + (event.offsetX - width / 2) / this.world, y + (event.offsetY - height / 2) / this.world]));
    });
    canvas.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoomBy(clamp(-event.deltaY / 200, -1, 1), event.offsetX, event.offsetY);
    }, { passive: false });
    const keys = {
      ArrowLeft: () => this.#move(STEP, 0),
      ArrowRight: () => this.#move(-STEP, 0),
      ArrowUp: () => this.#move(0, STEP),
      ArrowDown: () => this.#move(0, -STEP),
      "+": () => this.#zoomBy(1),
      "=": () => this.#zoomBy(1),
      "-": () => this.#zoomBy(-1),
    };
    canvas.addEventListener("keydown", (event) => {
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
  }
}

/** A path of lines in Mercator's world that is 1 wide. */
function pathOf(lines, closed) {
  const path = new Path2D();
  for (const line of lines) {
    line.forEach((position, i) => (i ? path.lineTo(...mercator(position)) : path.moveTo(...mercator(position))));
    if (closed) path.closePath();
  }
  return path;
}
