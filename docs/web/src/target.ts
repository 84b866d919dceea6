/** What the generator is held to at each noise level: the reference, or, for DIDR, the reference tilted by the reward. */

import type { Method } from "./method.ts";
import { FIELDS, LEVELS, NoisedMixture, type Mixture } from "./mixture.ts";
import { rewardAt, type Reward } from "./reward.ts";

export interface Target {
  /** Writes score and Hessian at a noise level to `out`; returns the log-density. What a target does not know is NaN. */
  at(level: number, x: number, y: number, out: Float64Array): number;
}

export class ReferenceTarget implements Target {
  private readonly noised: NoisedMixture[];

  constructor(reference: Mixture) {
    this.noised = Array.from(LEVELS, (sigma) => new NoisedMixture(reference, sigma));
  }

  at(level: number, x: number, y: number, out: Float64Array): number {
    return this.noised[level]!.at(x, y, out);
  }
}

/** s_ref(x_t) + scale ∇ r(x̂_0(x_t)) with x̂_0 by one Tweedie step: distar_core.roles.ProxyTilt. */
export class ProxyTarget implements Target {
  private readonly reference: ReferenceTarget;
  private readonly gradient = new Float64Array(2);

  constructor(
    reference: Mixture,
    private readonly reward: Reward,
    private readonly scale: number,
  ) {
    this.reference = new ReferenceTarget(reference);
  }

  at(level: number, x: number, y: number, out: Float64Array): number {
    this.reference.at(level, x, y, out);
    const variance = LEVELS[level]! ** 2;
    rewardAt(this.reward, x + variance * out[0]!, y + variance * out[1]!, this.gradient);
    const gx = this.gradient[0]!;
    const gy = this.gradient[1]!;
    out[0]! += this.scale * (gx + variance * (out[2]! * gx + out[3]! * gy));
    out[1]! += this.scale * (gy + variance * (out[3]! * gx + out[4]! * gy));
    out.fill(NaN, 2);
    return NaN;
  }
}

export const GRID = { half: 4.4, count: 101 };
// a cell this many deviations from the point adds nothing in double precision, however the mass varies nearby
const REACH = 9;

/** The tilt p exp(scale r)/Z as masses in the cells of GRID; rows along y, columns along x. */
export function tiltedMass(reference: Mixture, reward: Reward, scale: number): Float64Array {
  const { half, count } = GRID;
  const clean = new NoisedMixture(reference, 0);
  const gradient = new Float64Array(2);
  const mass = new Float64Array(count * count);
  const at = (i: number) => -half + (2 * half * i) / (count - 1);
  let top = -Infinity;
  for (let i = 0; i < count; i++)
    for (let j = 0; j < count; j++) {
      const log = clean.logDensity(at(j), at(i)) + scale * rewardAt(reward, at(j), at(i), gradient);
      mass[i * count + j] = log;
      top = Math.max(top, log);
    }
  let total = 0;
  for (let i = 0; i < mass.length; i++) total += mass[i] = Math.exp(mass[i]! - top);
  for (let i = 0; i < mass.length; i++) mass[i]! /= total;
  return mass;
}

/** The exact score of the tilted reference, a Gaussian in each cell of a grid: distar_core.truth.grid.GridScore. */
export class TiltedTarget implements Target {
  private readonly mass: Float64Array;
  private readonly kernel = new Float64Array(GRID.count);

  constructor(reference: Mixture, reward: Reward, scale: number) {
    this.mass = tiltedMass(reference, reward, scale);
  }

  at(level: number, x: number, y: number, out: Float64Array): number {
    const { half, count } = GRID;
    const { mass, kernel } = this;
    const variance = LEVELS[level]! ** 2;
    const spacing = (2 * half) / (count - 1);
    // far outside, the nearest cells count: distances are taken relative to the point's place in the window
    const inX = Math.min(half, Math.max(-half, x));
    const inY = Math.min(half, Math.max(-half, y));
    const reach = REACH * LEVELS[level]!;
    const first = (v: number) => Math.max(0, Math.ceil((v - reach + half) / spacing));
    const last = (v: number) => Math.min(count - 1, Math.floor((v + reach + half) / spacing));
    const [left, right, low, high] = [first(inX), last(inX), first(inY), last(inY)];
    const shift = (x - inX) ** 2 + (y - inY) ** 2;
    for (let j = left; j <= right; j++) {
      const d = x - (-half + spacing * j);
      kernel[j] = Math.exp(-(d * d - (x - inX) ** 2) / (2 * variance));
    }
    let total = 0, meanX = 0, meanY = 0;
    for (let i = low; i <= high; i++) {
      let row = 0, rowX = 0;
      for (let j = left; j <= right; j++) {
        const m = mass[i * count + j]! * kernel[j]!;
        row += m;
        rowX += m * j;
      }
      const d = y - (-half + spacing * i);
      const k = Math.exp(-(d * d - (y - inY) ** 2) / (2 * variance));
      total += k * row;
      meanX += k * rowX;
      meanY += k * row * i;
    }
    out[0] = (-half + (spacing * meanX) / total - x) / variance;
    out[1] = (-half + (spacing * meanY) / total - y) / variance;
    out.fill(NaN, 2, FIELDS);
    return Math.log(total) - shift / (2 * variance) - Math.log(2 * Math.PI * variance);
  }
}

/** distar_core.roles.target_score. */
export function targetOf(method: Method, reference: Mixture, reward: Reward): Target {
  switch (method.rewardAt) {
    case "sample":
      return new ReferenceTarget(reference);
    case "every_level":
      return new TiltedTarget(reference, reward, method.rewardScale);
    case "every_level_by_proxy":
      return new ProxyTarget(reference, reward, method.rewardScale);
  }
}
