/** The worker: it paints what the page wishes to see, and then what it may wish next. build.mjs wraps this bundle into a function
 * of its scope `self`. */

import type { Scope } from "../client.ts";
import { Random } from "../random.ts";
import { following, readCaption, remark, tidied, Tokenizer } from "./language.ts";
import type { Prompt } from "./networks.ts";
import { compare, gold, read } from "./oracle.ts";
import { COLUMNS, keyOf, type Reply, type Request, type Wish } from "./protocol.ts";
import { QUESTIONS } from "./questions.ts";
import type { Floats } from "./tensor.ts";
import { decoded, LATENT, METHODS, World, type Method } from "./world.ts";

declare const self: Scope<Request, Reply>;

let world: World | null = null;
let wish: Wish | null = null;
let prompt: Prompt;
let noise: Floats[] = [];
/** Pictures that the page has, by key and column. */
let painted = new Set<string>();
let denoising: (Generator<Floats | null, void, void> | null)[] = [];
let steps: number[] = [];
let scheduled = false;

function noiseOf(seed: number): Floats {
  const random = new Random(seed);
  return Float32Array.from({ length: LATENT }, () => random.normal());
}

function reply(key: string, column: number, picture: Floats, done: number, since: number, judged: boolean): void {
  const pixels = new Uint8ClampedArray(4 * 1024);
  for (let i = 0; i < 1024; i++) {
    for (const c of [0, 1, 2]) pixels[4 * i + c] = Math.round(255 * picture[c * 1024 + i]!);
    pixels[4 * i + 3] = 255;
  }
  const milliseconds = performance.now() - since;
  const { sentence, seed } = wish!;
  const judgement = judged ? world!.judge(picture, sentence) : null;
  self.postMessage({ kind: "painted", sentence, seed, key, column, pixels, judgement, done, milliseconds });
}

/** Stops from the nearest to the farthest. */
const nearby = (stops: readonly number[], stop: number) => {
  const at = stops.indexOf(stop);
  return [...stops].sort((a, b) => Math.abs(stops.indexOf(a) - at) - Math.abs(stops.indexOf(b) - at));
};

/** Paints the next picture that is missing, or takes the reference's next step; false if nothing is missing. */
function advance(): boolean {
  const { stop, strength } = wish!;
  const since = performance.now();
  const paint = (method: Method, atStop: number, atStrength: number): boolean => {
    const key = keyOf(method, atStop, atStrength);
    const column = noise.findIndex((_, i) => !painted.has(`${key} ${i}`));
    if (column < 0) return false;
    painted.add(`${key} ${column}`);
    const picture = world!.inOneStep(world!.painter(method, atStop, atStrength), noise[column]!, prompt);
    reply(key, column, picture, 0, since, true);
    return true;
  };
  if (paint("star", 0, 1)) return true;
  for (const method of METHODS) if (paint(method, stop, strength)) return true;
  const column = steps.indexOf(Math.min(...steps));
  const way = denoising[column];
  if (way && steps[column]! < world!.schedule.times.length) {
    const picture = way.next().value;
    const done = ++steps[column]!;
    if (picture) reply("reference", column, picture, done, since, done === world!.schedule.times.length);
    return true;
  }
  // what a hand on the slider will ask for
  for (const other of nearby(world!.stops, stop)) for (const method of METHODS) if (paint(method, other, 1)) return true;
  return false;
}

function work(): void {
  scheduled = false;
  try {
    if (advance()) schedule();
  } catch (error) {
    self.postMessage({ kind: "failed", message: (error as Error).message });
  }
}

/** Between two pictures the worker listens. */
function schedule(): void {
  if (!scheduled) setTimeout(work);
  scheduled = true;
}

self.onmessage = ({ data }: { data: Request }) => {
  try {
    if (data.kind === "load") {
      world = new World(data.data);
      self.postMessage({ kind: "ready", stops: world.stops, steps: world.schedule.times.length });
      return;
    }
    const next = data.wish;
    if (next.sentence !== wish?.sentence || next.seed !== wish.seed) {
      prompt = world!.prompt(next.sentence);
      noise = Array.from({ length: COLUMNS }, (_, column) => noiseOf(COLUMNS * next.seed + column));
      painted = new Set();
      steps = noise.map(() => 0);
      denoising = noise.map((z) => world!.denoise(z, prompt));
      self.postMessage({ kind: "remark", sentence: next.sentence, text: remark(next.sentence, world!.tokenizer) });
    }
    wish = next;
    schedule();
  } catch (error) {
    self.postMessage({ kind: "failed", message: (error as Error).message });
  }
};

// for the tests, which ask the very bytes that the page runs
self.library = { QUESTIONS, Tokenizer, World, compare, decoded, following, gold, keyOf, noiseOf, read, readCaption, remark, tidied };
