/** A generator without a network: affine maps of noise, x_0 = m_k + S_k z with probability w_k.
 *
 * Its law is a mixture, so its score is a formula at every noise level; see distar_core.toy.maps.
 */

import type { Mixture } from "./mixture.ts";
import type { Random } from "./random.ts";

const JITTER = 0.08;
const SMALLEST_LOG_WEIGHT = Math.log(1e-6);
const LONGEST_STEP = 0.2;
const BETA_2 = 0.99;
const ADAM_EPS = 1e-8;

/** Adam with betas 0 and 0.99, as the toy's generators have. */
export class Adam {
  private readonly squares: Float64Array;
  private steps = 0;

  constructor(size: number) {
    this.squares = new Float64Array(size);
  }

  update(parameters: Float64Array, gradient: Float64Array, rate: number): void {
    this.steps++;
    const correction = 1 - BETA_2 ** this.steps;
    for (let i = 0; i < parameters.length; i++) {
      const g = gradient[i]!;
      const square = (this.squares[i] = BETA_2 * this.squares[i]! + (1 - BETA_2) * g * g);
      parameters[i]! -= (rate * g) / (Math.sqrt(square / correction) + ADAM_EPS);
    }
  }
}

export class Generator {
  /** m, x, y, x, y, … and S, row by row, four numbers a map. */
  readonly shifts: Float64Array;
  readonly scales: Float64Array;
  /** The law of x_0; `refresh` after shifts or scales have changed. */
  readonly law: Mixture;

  constructor(readonly count: number) {
    this.shifts = new Float64Array(2 * count);
    this.scales = new Float64Array(4 * count);
    this.law = {
      logWeights: new Float64Array(count).fill(-Math.log(count)),
      means: this.shifts,
      covariances: new Float64Array(3 * count),
    };
  }

  /** Maps that start as a reference of round, equal modes: as many at each, their centres a little apart. */
  static startingAs(reference: Mixture, count: number, rng: Random): Generator {
    const modes = reference.logWeights.length;
    if (count % modes) throw new Error(`${count} maps cannot share ${modes} modes equally; choose a multiple of ${modes}`);
    const generator = new Generator(count);
    for (let k = 0; k < count; k++) {
      const mode = k % modes;
      const own = Math.sqrt(reference.covariances[3 * mode]! - JITTER ** 2);
      generator.shifts[2 * k] = reference.means[2 * mode]! + JITTER * rng.normal();
      generator.shifts[2 * k + 1] = reference.means[2 * mode + 1]! + JITTER * rng.normal();
      generator.scales.set([own, 0, 0, own], 4 * k);
    }
    generator.refresh();
    return generator;
  }

  refresh(): void {
    const { scales } = this;
    const { covariances } = this.law;
    for (let k = 0; k < this.count; k++) {
      const [a, b, c, d] = [scales[4 * k]!, scales[4 * k + 1]!, scales[4 * k + 2]!, scales[4 * k + 3]!];
      covariances[3 * k] = a * a + b * b;
      covariances[3 * k + 1] = a * c + b * d;
      covariances[3 * k + 2] = c * c + d * d;
    }
  }

  x(k: number, zx: number, zy: number): number {
    return this.shifts[2 * k]! + this.scales[4 * k]! * zx + this.scales[4 * k + 1]! * zy;
  }

  y(k: number, zx: number, zy: number): number {
    return this.shifts[2 * k + 1]! + this.scales[4 * k + 2]! * zx + this.scales[4 * k + 3]! * zy;
  }

  /** A step of mirror descent on the weights: log w_k falls by rate (gradient_k − its mean), by at most LONGEST_STEP. */
  moveWeights(gradient: Float64Array, rate: number): void {
    const logs = this.law.logWeights;
    let mean = 0;
    for (let k = 0; k < this.count; k++) mean += Math.exp(logs[k]!) * gradient[k]!;
    for (let k = 0; k < this.count; k++) {
      const change = rate * (gradient[k]! - mean);
      logs[k]! -= Math.max(-LONGEST_STEP, Math.min(LONGEST_STEP, change));
    }
    normalise(logs);
    // kept from zero, so that a map that was given up can come back
    for (let k = 0; k < this.count; k++) logs[k] = Math.max(logs[k]!, SMALLEST_LOG_WEIGHT);
    normalise(logs);
  }
}

function normalise(logs: Float64Array): void {
  let top = -Infinity, total = 0;
  for (const log of logs) top = Math.max(top, log);
  for (const log of logs) total += Math.exp(log - top);
  const shift = top + Math.log(total);
  for (let k = 0; k < logs.length; k++) logs[k]! -= shift;
}
