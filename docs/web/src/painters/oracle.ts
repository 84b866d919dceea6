/** Reads pictures without any network and holds them to their captions; distar_core.world.oracle, and taste of judges. */

import { BRIGHTNESS, CIRCUMRADIUS, HUES, PIXELS, RADII, RELATIONS, type Stated } from "./language.ts";
import type { Floats } from "./tensor.ts";

const VISIBLE = 0.3;
const SMALLEST_AREA = 14;
const SIZE_BORDER = (RADII[0][1] + RADII[1][0]) / 2;
const N = PIXELS * PIXELS;

interface Found {
  colour: number;
  shape: number;
  brightness: number;
  centre: [number, number];
  radius: number;
}

export interface Reading {
  /** Of objects found; the two largest are read, the second repeats the first where there is none. */
  number: number;
  things: [Found, Found];
  /** Index into BACKGROUNDS. */
  background: number;
}

export const ASPECTS = ["number", "colour", "shape", "size", "background", "relation"] as const;
export type Aspect = (typeof ASPECTS)[number];
/** Whether a picture has what its caption states; what is left open is true. */
export type Verdict = Record<Aspect | "all", boolean>;

/** The largest value within `reach` pixels, where `wanted` is not 0; 0 elsewhere. */
function spread(values: Floats, reach: number, wanted: Uint8Array): Floats {
  const out = new Float32Array(N);
  for (let i = 0; i < N; i++) {
    if (!wanted[i]) continue;
    const x = i % PIXELS, y = (i - x) / PIXELS;
    const [left, right] = [Math.max(0, x - reach), Math.min(PIXELS - 1, x + reach)];
    const bottom = Math.min(PIXELS - 1, y + reach);
    let top = 0;
    for (let v = Math.max(0, y - reach); v <= bottom; v++)
      for (let at = v * PIXELS + left; at <= v * PIXELS + right; at++) if (values[at]! > top) top = values[at]!;
    out[i] = top;
  }
  return out;
}
const EVERYWHERE = new Uint8Array(N).fill(1);

/** Connected patches as numbers, the largest pixel's in each; 0 elsewhere. */
function patchesOf(visible: Uint8Array): Floats {
  let numbers: Floats = Float32Array.from(visible, (seen, i) => seen * (i + 1));
  for (let round = 0; round < 2 * PIXELS; round++) {
    const next = spread(numbers, 1, visible);
    if (next.every((value, i) => value === numbers[i])) break;
    numbers = next;
  }
  return numbers;
}

function hueAndBrightness([r, g, b]: readonly number[]): [number, number] {
  const high = Math.max(r!, g!, b!), span = Math.max(high - Math.min(r!, g!, b!), 1e-6);
  const sector = high === r ? ((g! - b!) / span + 6) % 6 : high === g ? (b! - r!) / span + 2 : (r! - g!) / span + 4;
  return [60 * sector, high];
}

function coverage(shape: number, [cx, cy]: readonly [number, number], radius: number, softness: number): Floats {
  const out = new Float32Array(N);
  const [cos, sin] = [Math.cos(Math.PI / 6), Math.sin(Math.PI / 6)];
  for (let i = 0; i < N; i++) {
    const x = (i % PIXELS) + 0.5 - cx, y = Math.floor(i / PIXELS) + 0.5 - cy;
    const distance =
      shape === 0 ? Math.hypot(x, y) - radius
      : shape === 1 ? Math.max(Math.abs(x), Math.abs(y)) - (radius * Math.sqrt(Math.PI)) / 2
      : Math.max(Math.abs(x) * cos - y * sin, y) - (CIRCUMRADIUS * radius) / 2;
    out[i] = 1 / (1 + Math.exp(distance / softness));
  }
  return out;
}

const BELL = [-2, -1, 0, 1, 2].map((d) => Math.exp(-0.5 * d * d));
const BELL_SUM = BELL.reduce((a, b) => a + b);

/** Under a Gaussian of one pixel, along one axis: steps of 1 or PIXELS. */
function blurredAlong(X: Floats, step: number): Floats {
  const Y = new Float32Array(N);
  for (let i = 0; i < N; i++) {
    const place = step === 1 ? i % PIXELS : (i - (i % PIXELS)) / PIXELS;
    const last = Math.min(2, PIXELS - 1 - place);
    let sum = 0;
    for (let d = Math.max(-2, -place); d <= last; d++) sum += BELL[d + 2]! * X[i + d * step]!;
    Y[i] = sum / BELL_SUM;
  }
  return Y;
}
const blurred = (X: Floats): Floats => blurredAlong(blurredAlong(X, 1), PIXELS);

const UNIT_AREAS = [Math.PI, Math.PI, ((3 * Math.sqrt(3)) / 4) * CIRCUMRADIUS ** 2];
const OPTIONS = [0, 1, 2].flatMap((shape) =>
  [0.94, 1, 1.06].flatMap((scale) => [0.2, 0.4, 0.6].map((softness) => ({ shape, scale, softness }))));

function fit(picture: Floats, ground: readonly number[], contrast: Floats, patch: Uint8Array): Found {
  const near = spread(Float32Array.from(patch), 2, EVERYWHERE);
  const highest = contrast.reduce((top, value, i) => Math.max(top, value * patch[i]!), 0);
  const paint = [0, 0, 0];
  let count = 0;
  for (let i = 0; i < N; i++) {
    if (!patch[i] || !(contrast[i]! > 0.85 * highest)) continue;
    count++;
    for (const c of [0, 1, 2]) paint[c]! += picture[c * N + i]!;
  }
  for (const c of [0, 1, 2]) paint[c]! /= Math.max(1, count);
  const [hue, brightness] = hueAndBrightness(paint);
  const off = HUES.map((base) => Math.abs(((hue - base + 540) % 360) - 180));
  const towards = paint.map((value, c) => value - ground[c]!);
  const length = Math.max(towards.reduce((sum, v) => sum + v * v, 0), 1e-6);
  const covered = near.map((inside, i) => {
    const along = towards.reduce((sum, v, c) => sum + v * (picture[c * N + i]! - ground[c]!), 0);
    return Math.min(1, Math.max(0, along / length)) * inside;
  });
  const area = Math.max(1, covered.reduce((sum, v) => sum + v, 0));
  const mean = (place: (i: number) => number) => covered.reduce((sum, v, i) => sum + v * (place(i) + 0.5), 0) / area;
  const centre: [number, number] = [mean((i) => i % PIXELS), mean((i) => Math.floor(i / PIXELS))];
  const tried = OPTIONS.map(({ shape, scale, softness }) => {
    const radius = Math.sqrt(area / UNIT_AREAS[shape]!) * scale;
    return { shape, radius, covers: coverage(shape, centre, radius, softness) };
  });
  let best = { error: Infinity, shape: 0, radius: 0 };
  // an autoencoder rounds corners, as a blur does
  for (const soften of [(values: Floats) => values, blurred])
    for (const { shape, radius, covers } of tried) {
      const values = soften(covers);
      let error = 0;
      for (let i = 0; i < N; i++) error += (values[i]! - covered[i]!) ** 2;
      if (error < best.error) best = { error, shape, radius };
    }
  return { colour: off.indexOf(Math.min(...off)), shape: best.shape, brightness, centre, radius: best.radius };
}

/** What the oracle reads in a picture [3, 32 · 32]. */
export function read(picture: Floats): Reading {
  const ground = [0, 1, 2].map((c) => {
    const frame: number[] = [];
    for (let i = 0; i < N; i++) {
      const x = i % PIXELS, y = Math.floor(i / PIXELS);
      if (Math.min(x, y) < 2 || Math.max(x, y) >= PIXELS - 2) frame.push(picture[c * N + i]!);
    }
    return frame.sort((a, b) => a - b)[(frame.length - 1) >> 1]!;
  });
  const contrast = Float32Array.from({ length: N }, (_, i) =>
    Math.sqrt([0, 1, 2].reduce((sum, c) => sum + (picture[c * N + i]! - ground[c]!) ** 2, 0)));
  const patches = patchesOf(Uint8Array.from(contrast, (value) => +(value > VISIBLE)));
  const areas = new Map<number, number>();
  for (const number of patches) if (number) areas.set(number, (areas.get(number) ?? 0) + 1);
  const largest = [...areas].sort((a, b) => b[1] - a[1]);
  const number = largest.filter(([, area]) => area >= SMALLEST_AREA).length;
  const found = (k: number) => {
    const own = largest[k]?.[0] ?? 0;
    return fit(picture, ground, contrast, Uint8Array.from(patches, (value) => +(value === own)));
  };
  const first = found(0);
  const brightness = ground.reduce((sum, v) => sum + v, 0) / 3;
  return { number, things: [first, number > 1 ? found(1) : first], background: +(brightness < 0.5) };
}

/** The place of the first centre to the second, along the longer way. */
function relationOf([ax, ay]: readonly [number, number], [bx, by]: readonly [number, number]): number {
  const [dx, dy] = [bx - ax, by - ay];
  const name = Math.abs(dx) > Math.abs(dy) ? (dx > 0 ? "left of" : "right of") : dy > 0 ? "above" : "below";
  return RELATIONS.indexOf(name);
}

export function compare({ number, things, background }: Reading, stated: Stated): Verdict {
  const orders = stated.things.length === 2 ? [[0, 1], [1, 0]] : [[0]];
  // which object is which: the order in which more colours and shapes are right; ties count against the relation
  const ranks = orders.map((order) => {
    const found = order.map((k) => things[k]!);
    const right = (key: "colour" | "shape") => found.filter((one, i) => one[key] === stated.things[i]![key]).length;
    const [colours, shapes] = [right("colour"), right("shape")];
    const relation = stated.relation === null || relationOf(found[0]!.centre, found[1]!.centre) === stated.relation;
    return [colours + shapes, +!relation, +(colours === order.length), +(shapes === order.length)];
  });
  const better = (a: number[], b: number[]) => {
    const at = a.findIndex((value, i) => value !== b[i]);
    return at >= 0 && a[at]! > b[at]! ? a : b;
  };
  const rank = ranks.reduce(better);
  const rightNumber = number === stated.things.length;
  const verdict = {
    number: rightNumber,
    colour: rank[2] === 1,
    shape: rank[3] === 1,
    size: stated.size === null || +(things[0].radius > SIZE_BORDER) === stated.size,
    background: stated.background === null || background === stated.background,
    relation: stated.relation === null || (rightNumber && rank[1] === 0),
  };
  return { ...verdict, all: ASPECTS.every((aspect) => verdict[aspect]) };
}

const clamped = (value: number) => Math.min(1, Math.max(0, value));

/** What the gold preference likes apart from the caption, in [0, 1]: bright, large within the size class, in the middle. */
export function taste({ things }: Reading): number {
  const bright = things.map(({ brightness }) => clamped((brightness - BRIGHTNESS[0]) / (BRIGHTNESS[1] - BRIGHTNESS[0])));
  const middle = (RADII[0][0] + RADII[0][1] + RADII[1][0] + RADII[1][1]) / 4;
  const size = things.map(({ radius }) => {
    const [low, high] = RADII[radius > middle ? 1 : 0];
    return clamped((radius - low) / (high - low));
  });
  const off = [0, 1].map((axis) => (things[0].centre[axis]! + things[1].centre[axis]!) / 2 - PIXELS / 2);
  const central = Math.exp(-(off[0]! ** 2 + off[1]! ** 2) / 32);
  return ((bright[0]! + bright[1]!) / 2 + (size[0]! + size[1]!) / 2 + central) / 3;
}

/** The gold preference: taste, and one less where the picture is not what its caption states. */
export const gold = (reading: Reading, verdict: Verdict): number => taste(reading) - 1 + +verdict.all;
