// The base map: Natural Earth's countries, decoded from TopoJSON.
// https://github.com/topojson/topojson-specification

/** {land, borders, names} as GeoJSON of a topology whose object `countries` has names. */
export function decode(topology) {
  const arcs = topology.arcs.map((arc) => positions(arc, topology.transform));
  const countries = topology.objects.countries.geometries.filter((g) => g.type !== null);
  const uses = new Uint8Array(arcs.length);
  for (const country of countries) {
    for (const index of polygonsOf(country).flat(2)) uses[index < 0 ? ~index : index]++;
  }
  const polygonsAsCoordinates = (geometry) =>
    polygonsOf(geometry).map((polygon) => polygon.map((ring) => unwrapped(joined(ring, arcs))));
  const land = topology.objects.land.geometries.flatMap(polygonsAsCoordinates);
  // An arc that two countries share is a border; one that is used once is a coast, which the land draws.
  const borders = arcs.filter((_, index) => uses[index] > 1);
  const names = countries.map((country) => {
    const largest = polygonsAsCoordinates(country).reduce((a, b) => (area(a[0]) > area(b[0]) ? a : b));
    return { name: country.properties.name, at: middle(largest[0]), size: area(largest[0]) };
  });
  return {
    land: { type: "Feature", properties: {}, geometry: { type: "MultiPolygon", coordinates: land } },
    borders: { type: "Feature", properties: {}, geometry: { type: "MultiLineString", coordinates: borders } },
    names,
  };
}

// An arc is a list of differences of whole numbers.
function positions(arc, { scale, translate }) {
  let x = 0;
  let y = 0;
  return arc.map(([dx, dy]) => [(x += dx) * scale[0] + translate[0], (y += dy) * scale[1] + translate[1]]);
}

const polygonsOf = (geometry) => (geometry.type === "Polygon" ? [geometry.arcs] : geometry.arcs);

/** One ring of its arcs; ~i is arc i backwards, and an arc begins where the one before it ended. */
function joined(ring, arcs) {
  const line = [];
  for (const index of ring) {
    const arc = index < 0 ? arcs[~index].toReversed() : arcs[index];
    for (let i = line.length ? 1 : 0; i < arc.length; i++) line.push(arc[i]);
  }
  return line;
}

/**
 * A ring without jumps from 180 to -180 degrees: it goes on beyond 180 instead. One around a pole (Antarctica) is
 * closed along that pole. An edge that lies at a pole is no jump, however long it is.
 */
function unwrapped(ring) {
  let turn = 0;
  const line = ring.map(([lon, lat], i) => {
    const step = i ? lon - ring[i - 1][0] : 0;
    if (Math.abs(step) > 180 && Math.abs(lat) < 89) turn -= Math.sign(step) * 360;
    return [lon + turn, lat];
  });
  if (turn) {
    const pole = Math.sign(line[0][1]) * 90;
    line.push([line.at(-1)[0], pole], [line[0][0], pole], line[0]);
  }
  return line;
}

const shoelace = (ring, add) => {
  let sum = 0;
  for (let i = 0; i + 1 < ring.length; i++) {
    const [x0, y0] = ring[i];
    const [x1, y1] = ring[i + 1];
    sum += add(x0, y0, x1, y1) * (x0 * y1 - x1 * y0);
  }
  return sum;
};

/** Degrees squared; only sizes are compared. */
const area = (ring) => Math.abs(shoelace(ring, () => 1)) / 2;

/** Centroid of a ring. */
function middle(ring) {
  const six = 3 * shoelace(ring, () => 1);
  return [shoelace(ring, (x0, _, x1) => x0 + x1) / six, shoelace(ring, (_, y0, __, y1) => y0 + y1) / six];
}
