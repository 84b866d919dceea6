/** Numbers about a generator's law, as distar_core.toy.summary has them. */

import type { Generator } from "./generator.ts";
import { NoisedMixture, type Mixture } from "./mixture.ts";
import type { Random } from "./random.ts";
import { rewardAt, type Reward } from "./reward.ts";

export interface Summary {
  reward: number;
  /** Effective number of modes. */
  modes: number;
  /** KL to the reference in nats, both noised with sigma 0.15; infinite once a hundredth left the window. */
  kl: number;
  /** Share farther than three deviations from every mode. */
  offData: number;
  /** Deviation per axis in the fullest mode; NaN where it is empty. */
  spread: number;
}

const KL_SIGMA = 0.15;
const WINDOW = 6;

/** `count` points of the law, x, y, x, y, …: the maps in turn, in proportion to their weights. */
export function draw(generator: Generator, count: number, rng: Random): Float64Array {
  const points = new Float64Array(2 * count);
  let k = -1, below = 0;
  for (let i = 0; i < count; i++) {
    while (below <= (i + 0.5) / count && k < generator.count - 1) below += Math.exp(generator.law.logWeights[++k]!);
    const zx = rng.normal(), zy = rng.normal();
    points[2 * i] = generator.x(k, zx, zy);
    points[2 * i + 1] = generator.y(k, zx, zy);
  }
  return points;
}

/** All but KL, from points; the reference has round modes. */
export function summariseSamples(points: Float64Array, reference: Mixture, reward: Reward): Omit<Summary, "kl"> {
  const modes = reference.logWeights.length;
  const count = points.length / 2;
  const shares = new Float64Array(modes);
  const nearest = new Int32Array(count);
  const inside = new Uint8Array(count);
  const gradient = new Float64Array(2);
  let total = 0, off = 0;
  for (let i = 0; i < count; i++) {
    const x = points[2 * i]!;
    const y = points[2 * i + 1]!;
    total += rewardAt(reward, x, y, gradient);
    let closest = Infinity;
    for (let k = 0; k < modes; k++) {
      const square = (x - reference.means[2 * k]!) ** 2 + (y - reference.means[2 * k + 1]!) ** 2;
      if (square >= closest) continue;
      closest = square;
      nearest[i] = k;
    }
    inside[i] = closest <= 9 * reference.covariances[3 * nearest[i]!]! ? 1 : 0;
    off += 1 - inside[i]!;
    shares[nearest[i]!]! += 1 / count;
  }
  const fullest = shares.indexOf(Math.max(...shares));
  let n = 0, x1 = 0, y1 = 0, squares = 0;
  for (let i = 0; i < count; i++) {
    if (!inside[i] || nearest[i] !== fullest) continue;
    n++;
    x1 += points[2 * i]!;
    y1 += points[2 * i + 1]!;
    squares += points[2 * i]! ** 2 + points[2 * i + 1]! ** 2;
  }
  const entropy = -shares.reduce((sum, p) => sum + (p > 0 ? p * Math.log(p) : 0), 0);
  return {
    reward: total / count,
    modes: Math.exp(entropy),
    offData: off / count,
    // rounding must not make a point's variance negative
    spread: n ? Math.sqrt(Math.max(0, squares / n - (x1 / n) ** 2 - (y1 / n) ** 2) / 2) : NaN,
  };
}

/** KL of two laws in nats at sigma = KL_SIGMA, by a sum over a grid of `count` points per axis. */
export function klBetween(own: Mixture, reference: Mixture, count: number): number {
  const ours = new NoisedMixture(own, KL_SIGMA);
  const theirs = new NoisedMixture(reference, KL_SIGMA);
  const spacing = (2 * WINDOW) / (count - 1);
  let kl = 0, mass = 0;
  for (let i = 0; i < count; i++)
    for (let j = 0; j < count; j++) {
      const x = -WINDOW + i * spacing;
      const y = -WINDOW + j * spacing;
      const log = ours.logDensity(x, y);
      if (log < -30) continue;
      const here = Math.exp(log) * spacing ** 2;
      mass += here;
      kl += here * (log - theirs.logDensity(x, y));
    }
  return mass > 0.99 ? kl / mass : Infinity;
}

export function summarise(
  generator: Generator, reference: Mixture, reward: Reward, rng: Random, samples: number, grid: number,
): Summary {
  const points = draw(generator, samples, rng);
  return { ...summariseSamples(points, reference, reward), kl: klBetween(generator.law, reference, grid) };
}
