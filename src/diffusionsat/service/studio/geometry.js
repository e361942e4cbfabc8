// Places, corners and Web Mercator. A position is [longitude, latitude] in degrees; corners are four of them:
// top left, top right, bottom right, bottom left.

const DEGREE_M = 111320; // metres of a degree along a meridian, about
const MOST_LAT = 85.05; // where Web Mercator ends

/** [x, y] of a position in a world that is 1 wide, y downwards. */
export function mercator([lon, lat]) {
  const sine = Math.sin((clamp(lat, -MOST_LAT, MOST_LAT) * Math.PI) / 180);
  return [lon / 360 + 0.5, 0.5 - Math.atanh(sine) / (2 * Math.PI)];
}

/** The position of a [x, y]. */
export function unmercator([x, y]) {
  return [(x - 0.5) * 360, (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI];
}

export const clamp = (value, least, most) => Math.min(most, Math.max(least, value));

/** Corners of an image, about: only the service knows the map projection that it will choose. */
export function footprint([lon, lat], gsd, [width, height]) {
  const up = (height * gsd) / 2 / DEGREE_M;
  const right = (width * gsd) / 2 / (DEGREE_M * Math.max(0.01, Math.cos((lat * Math.PI) / 180)));
  return [
    [lon - right, lat + up],
    [lon + right, lat + up],
    [lon + right, lat - up],
    [lon - right, lat - up],
  ];
}

/** [west, south, east, north] of positions. */
export function boundsOf(positions) {
  const lons = positions.map((p) => p[0]);
  const lats = positions.map((p) => p[1]);
  return [Math.min(...lons), Math.min(...lats), Math.max(...lons), Math.max(...lats)];
}

/** A pair of numbers in a text such as "7.44, 46.95"; null if it is none. */
export function parsePair(text) {
  const parts = text.trim().split(/\s*[,;]\s*|\s+/);
  const pair = parts.map(Number);
  return parts.length === 2 && parts.every(Boolean) && pair.every(Number.isFinite) ? pair : null;
}

/** Rings of a text of one pair a line; an empty line begins another ring. Null if a line is no pair. */
export function parseRings(text) {
  const rings = text
    .split(/\n\s*\n/)
    .map((ring) => ring.split("\n").filter((line) => line.trim()).map(parsePair))
    .filter((ring) => ring.length);
  return rings.flat().includes(null) ? null : rings;
}

/** A GeoJSON MultiPolygon of rings, each closed. */
export function multiPolygon(rings) {
  return { type: "MultiPolygon", coordinates: rings.map((ring) => [[...ring, ring[0]]]) };
}

/** A position as people write it: as many digits as are worth it at this many metres per pixel. */
export function written([lon, lat], gsd = 10) {
  const digits = gsd >= 1000 ? 2 : gsd >= 5 ? 4 : 6;
  return `${round(lon, digits)}, ${round(lat, digits)}`;
}

const round = (value, digits) => String(Number(value.toFixed(digits)));
