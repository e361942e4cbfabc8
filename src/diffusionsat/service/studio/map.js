// The map on MapLibre GL. `flat.js` has the same methods for browsers without WebGL.

import { boundsOf } from "./geometry.js";
import { decode } from "./world.js";

const NOWHERE = [[0, 0], [0.001, 0], [0.001, -0.001], [0, -0.001]];
const LARGE = 20; // square degrees: smaller countries are named only when one is near
export const SLOTS = ["before", "now"]; // pictures that lie on the map, the upper one last

/** Open the map in an element: MapLibre if the browser can draw it, else the flat one. */
export async function openMap(element, onClick) {
  const world = decode(await (await fetch(new URL("vendor/countries-50m.json", import.meta.url))).json());
  const asked = new URLSearchParams(location.search).get("map");
  const capable = asked !== "flat" && Boolean(document.createElement("canvas").getContext("webgl2"));
  const { open } = capable ? { open: openGl } : await import("./flat.js");
  return { map: await open(element, world, onClick), names: world.names };
}

/** A colour of the style sheet, which knows light from dark. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Call something when light becomes dark or the other way round. */
export const onTheme = (repaint) =>
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

/** Pixels at the sides of the map that the result covers. */
export function margins() {
  const card = document.getElementById("result");
  const beside = !card.hidden && getComputedStyle(card).position === "absolute";
  const strip = document.getElementById("strip");
  return {
    top: 50,
    left: 30,
    right: beside ? card.offsetWidth + 40 : 30,
    bottom: !strip.hidden && beside ? strip.offsetHeight + 30 : 40,
  };
}

async function openGl(element, world, onClick) {
  const maplibre = await import("./vendor/maplibre-gl.mjs");
  const map = new maplibre.Map({
    container: element,
    style: style(world),
    center: [10, 25],
    zoom: 1.4,
    maxPitch: 0,
    dragRotate: false,
    pitchWithRotate: false,
    fadeDuration: 0,
    attributionControl: { compact: false, customAttribution: "Natural Earth" },
    locale: { "Map.Title": "Map: arrows move it, plus and minus zoom" },
  });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new maplibre.NavigationControl({ showCompass: false }), "top-left");
  map.addControl(new maplibre.ScaleControl({}), "bottom-left");
  map.on("click", (event) => onClick(event.lngLat.wrap().toArray()));
  await new Promise((resolve) => map.once("load", resolve));
  const view = new GlMap(maplibre, map);
  onTheme(() => view.paint());
  return view;
}

class GlMap {
  constructor(maplibre, map) {
    this.gl = map;
    this.place = marker(maplibre, "pin", "center");
    this.mark = marker(maplibre, "synthetic", "bottom-left");
    this.mark.getElement().textContent = "SYNTHETIC";
    this.paint();
  }

  get centre() {
    return this.gl.getCenter().wrap().toArray();
  }

  paint() {
    const { gl } = this;
    gl.setPaintProperty("sea", "background-color", colour("sea"));
    gl.setPaintProperty("land", "fill-color", colour("land"));
    gl.setPaintProperty("borders", "line-color", colour("border"));
    for (const names of ["names", "small-names"]) {
      gl.setPaintProperty(names, "text-color", colour("name"));
      gl.setPaintProperty(names, "text-halo-color", colour("land"));
    }
  }

  /** Show a position, or none. */
  pin(position) {
    toggle(this.place, this.gl, position);
  }

  /** Mark a picture as synthetic at its upper left corner, or none. */
  label(corners) {
    toggle(this.mark, this.gl, corners?.[0]);
  }

  /** Show where an image will lie, or nothing. */
  outline(corners) {
    this.gl.getSource("outline").setData(lines(corners ? [corners] : []));
  }

  /** Show rings of a hole that is being drawn. */
  hole(rings) {
    this.gl.getSource("hole").setData(lines(rings));
  }

  /** Lay a picture into a slot, or take it away. */
  picture(slot, picture, opacity = 1) {
    this.gl.setLayoutProperty(slot, "visibility", picture?.corners ? "visible" : "none");
    if (!picture?.corners) return;
    this.gl.setPaintProperty(slot, "raster-opacity", opacity);
    this.gl.getSource(slot).updateImage({ image: picture.canvas, coordinates: picture.corners });
  }

  fit(corners) {
    const [west, south, east, north] = boundsOf(corners);
    this.gl.resize(); // what stands beside the map may just have changed
    this.gl.fitBounds([west, south, east, north], { padding: margins(), animate: false, maxZoom: 20 });
  }

  fly(position, zoom) {
    this.gl.jumpTo({ center: position, zoom });
  }
}

function marker(maplibre, name, anchor) {
  const element = document.createElement("div");
  element.className = name;
  return new maplibre.Marker({ element, anchor });
}

function toggle(marker, map, position) {
  if (position) marker.setLngLat(position).addTo(map);
  else marker.remove();
}

const lines = (rings) => ({
  type: "FeatureCollection",
  features: rings.map((ring) => ({
    type: "Feature",
    properties: {},
    geometry: { type: "Polygon", coordinates: [[...ring, ring[0]]] },
  })),
});

function style({ land, borders, names }) {
  const points = names.map(({ name, at, size }) => ({
    type: "Feature",
    properties: { name, size },
    geometry: { type: "Point", coordinates: at },
  }));
  const named = { type: "FeatureCollection", features: points };
  const geojson = (data, more = {}) => ({ type: "geojson", data, ...more });
  // Without an address of glyphs the browser's own fonts are drawn, so that nothing is fetched for them.
  const text = {
    "text-field": ["get", "name"],
    "text-font": ["sans-serif"],
    "text-size": 11,
    "text-max-width": 7,
    "symbol-sort-key": ["-", ["get", "size"]],
  };
  const raster = (slot) => ({
    id: slot,
    type: "raster",
    source: slot,
    layout: { visibility: "none" },
    paint: { "raster-fade-duration": 0, "raster-resampling": "nearest" },
  });
  const accent = "#c2410c";
  return {
    version: 8,
    sources: {
      land: geojson(land, { tolerance: 0.2 }),
      borders: geojson(borders, { tolerance: 0.2 }),
      names: geojson(named),
      outline: geojson(lines([])),
      hole: geojson(lines([])),
      ...Object.fromEntries(SLOTS.map((slot) => [slot, { type: "image", coordinates: NOWHERE }])),
    },
    layers: [
      { id: "sea", type: "background" },
      { id: "land", type: "fill", source: "land", paint: { "fill-antialias": true } },
      { id: "borders", type: "line", source: "borders", paint: { "line-width": 0.8 } },
      { id: "names", type: "symbol", source: "names", filter: [">", ["get", "size"], LARGE], layout: text, minzoom: 1 },
      { id: "small-names", type: "symbol", source: "names", filter: ["<=", ["get", "size"], LARGE], layout: text, minzoom: 4 },
      ...SLOTS.map(raster),
      { id: "outline", type: "line", source: "outline", paint: { "line-color": accent, "line-width": 1.5, "line-dasharray": [3, 2] } },
      { id: "hole-area", type: "fill", source: "hole", paint: { "fill-color": accent, "fill-opacity": 0.25 } },
      { id: "hole-line", type: "line", source: "hole", paint: { "line-color": accent, "line-width": 2 } },
      { id: "hole-points", type: "circle", source: "hole", paint: { "circle-color": "#fff", "circle-radius": 4, "circle-stroke-color": accent, "circle-stroke-width": 2 } },
    ],
  };
}
