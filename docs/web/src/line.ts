/** Theorem 3.1 on the line: the true gradient by quadrature, and its estimates from samples, right and wrong.
 *
 * The plane's engine is asked on the x-axis: all variances along y are equal and all means zero there, so that scores,
 * gaps and pulls along y vanish, and those along x are the ones of one dimension.
 */

import { METHODS, type Law, type Method, type Mistake } from "./method.ts";
import { FIELDS, NoisedMixture, type Mixture } from "./mixture.ts";
import { regularizerPull, type Sample } from "./pull.ts";
import type { Random } from "./random.ts";

export interface Setting {
  weights: readonly number[];
  shifts: readonly number[];
  scales: readonly number[];
  reference: { weights: readonly number[]; means: readonly number[]; deviations: readonly number[] };
  sigma: number;
  unit: "eps" | "score";
}

export type SettingName = "line" | "pencil";

/** distar_core.truth.quadrature.line_setting and pencil_setting, as in notebook 04. */
export const SETTINGS: Readonly<Record<SettingName, Setting>> = {
  line: {
    weights: [0.5, 0.3, 0.2],
    shifts: [-1.2, 0.4, 1.8],
    scales: [0.3, 0.5, 0.4],
    reference: { weights: [0.4, 0.6], means: [-1, 1.5], deviations: [0.4, 0.6] },
    sigma: 0.7,
    unit: "eps",
  },
  pencil: {
    weights: [1],
    shifts: [1],
    scales: [0.5],
    reference: { weights: [1], means: [0], deviations: [1] },
    sigma: 1,
    unit: "score",
  },
};

export const FORMS: readonly Mistake[] = ["none", "slope", "braces", "conditional", "reference", "d_alone"];

const POINTS = 8001;
const REACH = 9;

function onAxis(weights: readonly number[], means: readonly number[], deviations: readonly number[]): Mixture {
  return {
    logWeights: Float64Array.from(weights, Math.log),
    means: Float64Array.from(means.flatMap((mean) => [mean, 0])),
    covariances: Float64Array.from(deviations.flatMap((deviation) => [deviation ** 2, 0, 1])),
  };
}

/** d and its derivative at a gap on the line. */
function distance(y: number, c: number | null): [number, number] {
  if (c === null) return [y * y, 2 * y];
  const rho = Math.sqrt(y * y + c * c);
  return [(y * y) / (rho + c), y / rho];
}

export class LineProblem {
  /** Number of maps; gradients are in shifts m_1, …, m_K and then scales s_1, …, s_K. */
  readonly maps: number;
  private readonly own: NoisedMixture;
  private readonly target: NoisedMixture;
  private readonly unitFactor: number;
  private readonly scores = new Float64Array(FIELDS);
  private readonly theirs = new Float64Array(FIELDS);
  private readonly pull = new Float64Array(2);
  private readonly found = new Float64Array(FORMS.length);
  private readonly methods: readonly Method[];
  private readonly sample: Sample = { x0: 0, y0: 0, xt: 0, yt: 0, ex: 0, ey: 0, sigma: 1 };

  constructor(
    readonly setting: Setting,
    readonly huberC: number | null,
    readonly law: Law,
  ) {
    const { weights, shifts, scales, reference, sigma, unit } = setting;
    this.maps = weights.length;
    this.own = new NoisedMixture(onAxis(weights, shifts, scales), sigma);
    this.target = new NoisedMixture(onAxis(reference.weights, reference.means, reference.deviations), sigma);
    this.unitFactor = unit === "eps" ? sigma : 1;
    this.sample.sigma = sigma;
    this.methods = FORMS.map((mistake) => ({ ...METHODS.star, unit, huberC, law, mistake }));
  }

  /** The gradient of E d(u (s_theta − s_ref)), with the law frozen or moving, by a sum over a grid of x_t.
   *
   * With r_k the share of map k at x: ∂s = r_k (∂s_k + (s_k − s) ∂log p_k), and ∂log p = r_k ∂log p_k.
   */
  truth(): Float64Array {
    const { maps, setting, scores, theirs } = this;
    const { weights, shifts, scales, sigma } = setting;
    const variances = scales.map((scale) => scale ** 2 + sigma ** 2);
    const margin = REACH * Math.sqrt(Math.max(...variances));
    const low = Math.min(...shifts) - margin;
    const step = (Math.max(...shifts) + margin - low) / (POINTS - 1);
    const gradient = new Float64Array(2 * maps);
    for (let i = 0; i < POINTS; i++) {
      const x = low + step * i;
      this.own.at(x, 0, scores);
      this.target.at(x, 0, theirs);
      const score = scores[0]!;
      const [value, slope] = distance(this.unitFactor * (score - theirs[0]!), this.huberC);
      for (let k = 0; k < maps; k++) {
        const v = variances[k]!;
        const offset = x - shifts[k]!;
        // w_k p_k(x), which is r_k p(x)
        const mass = (step * weights[k]! * Math.exp((-0.5 * offset ** 2) / v)) / Math.sqrt(2 * Math.PI * v);
        const own = -offset / v;
        const parts = [
          { log: offset / v, score: 1 / v },
          { log: scales[k]! * (offset ** 2 / v - 1) / v, score: (2 * scales[k]! * offset) / v ** 2 },
        ];
        parts.forEach((part, n) => {
          const change = this.unitFactor * slope * (part.score + (own - score) * part.log);
          gradient[k + n * maps]! += mass * (change + (this.law === "differentiated" ? value * part.log : 0));
        });
      }
    }
    return gradient;
  }

  /** ∂loss/∂x_t at one sample of map k, for each of FORMS. */
  pulls(k: number, z: number, noise: number): Float64Array {
    const { setting, sample } = this;
    sample.x0 = setting.shifts[k]! + setting.scales[k]! * z;
    sample.xt = sample.x0 + setting.sigma * noise;
    sample.ex = noise;
    this.own.at(sample.xt, 0, this.scores);
    this.target.at(sample.xt, 0, this.theirs);
    this.methods.forEach((method, f) => {
      regularizerPull(method, sample, this.scores, this.theirs, this.pull);
      this.found[f] = this.pull[0]!;
    });
    return this.found;
  }
}

/** The relative distance of a gradient from the truth. */
export function relativeError(found: ArrayLike<number>, truth: Float64Array): number {
  let away = 0, size = 0;
  truth.forEach((value, i) => {
    away += (found[i]! - value) ** 2;
    size += value ** 2;
  });
  return Math.sqrt(away / size);
}

/** Estimates of the gradient from the same samples, for every form, and how far each was from the truth on the way. */
export class Estimates {
  count = 0;
  readonly truth: Float64Array;
  private readonly sums: Float64Array[];
  private readonly squares: Float64Array;
  /** Numbers of samples, and the relative error of each form there. */
  readonly counts: number[] = [];
  readonly errors: number[][] = FORMS.map(() => []);
  private next = 16;

  constructor(
    private readonly problem: LineProblem,
    private readonly rng: Random,
  ) {
    this.truth = problem.truth();
    this.sums = FORMS.map(() => new Float64Array(2 * problem.maps));
    this.squares = new Float64Array(2 * problem.maps);
  }

  draw(): void {
    const { problem, rng } = this;
    const { weights } = problem.setting;
    let k = 0, u = rng.uniform();
    while (k < problem.maps - 1 && u >= weights[k]!) u -= weights[k++]!;
    const z = rng.normal();
    const noise = rng.normal();
    problem.pulls(k, z, noise).forEach((pull, f) => {
      this.sums[f]![k]! += pull;
      this.sums[f]![k + problem.maps]! += pull * z;
      if (f) return;
      this.squares[k]! += pull ** 2;
      this.squares[k + problem.maps]! += (pull * z) ** 2;
    });
    if (++this.count < this.next) return;
    this.counts.push(this.count);
    FORMS.forEach((_, f) => this.errors[f]!.push(relativeError(this.estimate(f), this.truth)));
    this.next = Math.ceil(1.15 * this.next);
  }

  estimate(form: number): Float64Array {
    return this.sums[form]!.map((sum) => sum / this.count);
  }

  /** Standard errors of the right estimate. */
  standardErrors(): Float64Array {
    const mean = this.estimate(0);
    return this.squares.map((sum, i) => Math.sqrt(Math.max(0, sum / this.count - mean[i]! ** 2) / this.count));
  }
}
