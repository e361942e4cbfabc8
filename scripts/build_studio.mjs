// Copies the libraries of the studio from npm into src/diffusionsat/service/studio/vendor/, with their licences
// and hashes. Run by `make studio`; needs Node and npm, which neither `pip install` nor `make demo` does.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const VERSIONS = { "maplibre-gl": "6.17.0", "world-atlas": "2.0.2" };
const FILES = [
  "maplibre-gl/dist/maplibre-gl.mjs",
  "maplibre-gl/dist/maplibre-gl-worker.mjs",
  "maplibre-gl/dist/maplibre-gl.css",
  "world-atlas/countries-50m.json",
];
const VENDOR = fileURLToPath(new URL("../src/diffusionsat/service/studio/vendor", import.meta.url));

const folder = mkdtempSync(join(tmpdir(), "studio-"));
try {
  const wanted = Object.entries(VERSIONS).map(([name, version]) => `${name}@${version}`);
  // Scripts of packages are not run: files are all that is wanted of them.
  execFileSync("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder, ...wanted], { stdio: "inherit" });
  const modules = join(folder, "node_modules");
  rmSync(VENDOR, { recursive: true, force: true });
  mkdirSync(VENDOR, { recursive: true });
  for (const file of FILES) copyFileSync(join(modules, file), join(VENDOR, basename(file)));
  const packages = packagesIn(modules);
  writeFileSync(join(VENDOR, "LICENSES.txt"), licences(packages));
  writeFileSync(join(VENDOR, "VENDORED.md"), table(packages, JSON.parse(readFileSync(join(folder, "package-lock.json")))));
} finally {
  rmSync(folder, { recursive: true });
}

/** Folders of the packages that were installed, but those of types alone, of which no code is bundled. */
function packagesIn(modules) {
  const names = readdirSync(modules).flatMap((name) =>
    name.startsWith("@") ? readdirSync(join(modules, name)).map((part) => `${name}/${part}`) : [name],
  );
  return names
    .filter((name) => !name.startsWith(".") && !name.startsWith("@types/"))
    .sort()
    .map((name) => {
      const path = join(modules, name);
      const { version, license } = JSON.parse(readFileSync(join(path, "package.json")));
      return { name, version, license, path };
    });
}

/** The licence of every package: MapLibre's bundle holds code of those that it depends on. */
function licences(packages) {
  const text = ({ path, license }) => {
    const file = readdirSync(path).find((name) => /^licen[cs]e(\.|$)/i.test(name));
    return file ? readFileSync(join(path, file), "utf8").trim() : `Licence: ${license}. The package has no file of its text.`;
  };
  return packages.map((p) => `${p.name} ${p.version} (${p.license})\n\n${text(p)}\n`).join(`\n${"=".repeat(78)}\n\n`);
}

function table(packages, lock) {
  const sha256 = (file) => createHash("sha256").update(readFileSync(join(VENDOR, basename(file)))).digest("hex");
  const rows = FILES.map((file) => `| ${basename(file)} | ${file} | ${sha256(file)} |`);
  const origins = Object.keys(VERSIONS).map((name) => {
    const { license } = packages.find((p) => p.name === name);
    return `- ${name} ${VERSIONS[name]}, ${license}, npm's integrity \`${lock.packages[`node_modules/${name}`].integrity}\``;
  });
  return `# Files of others

Unchanged copies from npm, made by \`make studio\` (scripts/build_studio.mjs). The data of world-atlas is Natural
Earth, public domain. MapLibre's bundle holds code of the packages that it depends on; LICENSES.txt has the licence
of each.

${origins.join("\n")}

| file | in npm | SHA-256 |
|---|---|---|
${rows.join("\n")}
`;
}
