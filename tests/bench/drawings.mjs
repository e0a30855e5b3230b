// Portraits drawn by DiceBear, and what is drawn on each: images for measurements in colour, of a style of one's choice.
//
//     npm install @dicebear/core@9 @dicebear/collection@9 @resvg/resvg-js
//     node .../drawings.mjs STYLE COUNT OUT [FIRST]
//
// OUT/STYLE-N.png, 64x64, for N from FIRST [0] on: the seed of the drawing, which is always the same. OUT.json has for
// each file its attributes, {"mouth": "smile", ...}. STYLE is a name of https://www.dicebear.com/styles in camelCase,
// such as avataaars, toonHead or personas. About 30 ms a drawing. The packages are looked for from the working folder up.

import { mkdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const here = createRequire(join(process.cwd(), "package.json"));
const load = (name) => import(pathToFileURL(here.resolve(name)).href);
const { createAvatar } = await load("@dicebear/core");
const styles = await load("@dicebear/collection");
const { Resvg } = here("@resvg/resvg-js");

const SIDE = 64;
const BACKGROUNDS = ["b6e3f4", "c0aede", "d1d4f9", "ffd5dc", "ffdfbf"];

const [style, count, out, first = "0"] = process.argv.slice(2);
if (!styles[style] || !(count > 0) || !out) {
  console.error("node drawings.mjs STYLE COUNT OUT [FIRST]; styles: " + Object.keys(styles).join(", "));
  process.exit(2);
}
mkdirSync(out, { recursive: true });
const attributes = {};
for (let number = Number(first); number < Number(first) + Number(count); number++) {
  const name = `${style}-${number}`;
  const drawing = createAvatar(styles[style], { seed: name, backgroundColor: BACKGROUNDS, size: SIDE });
  const image = new Resvg(drawing.toString(), { fitTo: { mode: "width", value: SIDE } }).render();
  writeFileSync(join(out, `${name}.png`), image.asPng());
  const drawn = Object.entries(drawing.toJson().extra).filter(([, value]) => typeof value === "string");
  attributes[`${name}.png`] = Object.fromEntries(drawn);
}
writeFileSync(`${out}.json`, JSON.stringify(attributes));
