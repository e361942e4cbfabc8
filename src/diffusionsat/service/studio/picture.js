// A picture as it is drawn on the map: pixels with sharp edges, cut off left of the swipe.

const LEAST_SIDE = 512; // smaller pictures are enlarged, so that their pixels stay squares
const MOST_SIDE = 4096; // what graphics cards are sure to take

export class Picture {
  /** @param source bitmap or image; @param corners of it, null if it lies nowhere; @param job that made it. */
  constructor(source, corners, name = "", job = null) {
    const { naturalWidth: width = source.width, naturalHeight: height = source.height } = source;
    const side = Math.max(width, height);
    const scale = side < LEAST_SIDE ? Math.ceil(LEAST_SIDE / side) : Math.min(1, MOST_SIDE / side);
    this.source = source;
    this.width = width;
    this.height = height;
    this.corners = corners;
    this.name = name;
    this.job = job;
    this.canvas = document.createElement("canvas");
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    this.draw();
  }

  /** Draw what lies right of a share of the width, 0 to 1. */
  draw(swipe = 0) {
    const { width, height } = this.canvas;
    const left = Math.round(width * swipe);
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.save();
    context.beginPath();
    context.rect(left, 0, width - left, height);
    context.clip();
    context.imageSmoothingEnabled = width < this.width;
    context.drawImage(this.source, 0, 0, width, height);
    context.restore();
    if (swipe > 0 && swipe < 1) {
      const line = Math.max(1, Math.round(width / 300));
      context.fillStyle = "#fff";
      context.fillRect(left - line / 2, 0, line, height);
    }
  }
}

/** An image of a data URL, which `fetch` may not read under our Content-Security-Policy. */
export async function decoded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

/** A black PNG of the size of a picture with rings of [column, row] in white: a mask. */
export function maskOf(rings, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#fff";
  for (const ring of rings) {
    context.beginPath();
    for (const [column, row] of ring) context.lineTo(column, row);
    context.fill();
  }
  return canvas.convertToBlob({ type: "image/png" });
}
