// Builds leash.js and painters.js, the worker's bundle as a function of its scope and then the page's, and theorem.js. Run by
// `make web`.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const shared = { bundle: true, minify: true, format: "iife", target: "es2020", charset: "utf8", logLevel: "warning" };
const TRUSTED = 0.05; // distar_core.toy.frontier.TRUSTED

/** The columns that the page draws, four digits each. */
function fixedPoints() {
  const [head, ...lines] = readFileSync(here("../../distar_core/toy/data/fixed_points.csv"), "utf8").trim().split(/\r?\n/);
  const names = head.split(",");
  return lines.map((line) => {
    const row = Object.fromEntries(line.split(",").map((value, i) => [names[i], value]));
    const numbers = [row.reward, row.modes, row.kl, row.spread].map((value) => Number(Number(value).toPrecision(4)));
    const trusted = Number(row.residual) < TRUSTED ? 1 : 0;
    return [row.reward_name, row.regularizer, Number(row.reward_scale), ...numbers, trusted];
  });
}

const note = "// built by docs/web/build.mjs; do not edit\n";
const worker = await build({ ...shared, entryPoints: [here("src/engine.ts")], write: false });
await build({
  ...shared,
  entryPoints: [here("src/page.ts")],
  define: { FIXED_POINTS: JSON.stringify(fixedPoints()) },
  banner: { js: `${note}var leashEngine=function(self){${worker.outputFiles[0].text.trim()}};` },
  outfile: here("leash.js"),
});
await build({
  ...shared,
  entryPoints: [here("src/theorem.ts")],
  // what the entry exports, for the tests
  globalName: "theorem",
  banner: { js: note.trim() },
  outfile: here("theorem.js"),
});
const painter = await build({ ...shared, entryPoints: [here("src/painters/engine.ts")], write: false });
await build({
  ...shared,
  entryPoints: [here("src/painters/page.ts")],
  banner: { js: `${note}var paintersEngine=function(self){${painter.outputFiles[0].text.trim()}};` },
  outfile: here("painters.js"),
});
