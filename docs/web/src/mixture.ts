/** Gaussian mixtures in the plane: density, score and Hessian of the log-density at a noise level.
 *
 * Noise is variance exploding, x_t = x_0 + sigma eps, so alpha is 1 throughout.
 */

/** Sum of exp(logWeights[k]) N(means[k], covariances[k]); means: x, y, x, y, …; covariances: xx, xy, yy, xx, … */
export interface Mixture {
  logWeights: Float64Array;
  means: Float64Array;
  covariances: Float64Array;
}

/** Score x, y and the Hessian of the log-density xx, xy, yy at a point. */
export const FIELDS = 5;

/** Noise levels of the toy, see distar_core.toy.ring.LEVELS. */
export const LEVELS = Float64Array.from({ length: 8 }, (_, k) => 0.1 * 32 ** (k / 7));

/** The course's reference: equal round modes on a circle, the first at (radius, 0). */
export function ring(modes = 8, radius = 2, deviation = 0.25): Mixture {
  const means = new Float64Array(2 * modes);
  const covariances = new Float64Array(3 * modes);
  for (let k = 0; k < modes; k++) {
    means[2 * k] = radius * Math.cos((2 * Math.PI * k) / modes);
    means[2 * k + 1] = radius * Math.sin((2 * Math.PI * k) / modes);
    covariances[3 * k] = covariances[3 * k + 2] = deviation * deviation;
  }
  return { logWeights: new Float64Array(modes).fill(-Math.log(modes)), means, covariances };
}

export function copyOf(mixture: Mixture): Mixture {
  return {
    logWeights: mixture.logWeights.slice(),
    means: mixture.means.slice(),
    covariances: mixture.covariances.slice(),
  };
}

// a component this far below the highest in log adds nothing in double precision
const NEGLIGIBLE = -46;

/** A mixture at one noise level. Call `refresh` after the mixture has changed in place. */
export class NoisedMixture {
  private readonly count: number;
  private readonly precisions: Float64Array;
  private readonly constants: Float64Array;
  private readonly logs: Float64Array;
  /** Scores of the components at the point of the last call of `at`: x, y, x, y, … */
  readonly componentScores: Float64Array;

  constructor(
    private readonly mixture: Mixture,
    readonly sigma: number,
  ) {
    this.count = mixture.logWeights.length;
    this.precisions = new Float64Array(3 * this.count);
    this.constants = new Float64Array(this.count);
    this.logs = new Float64Array(this.count);
    this.componentScores = new Float64Array(2 * this.count);
    this.refresh();
  }

  refresh(): void {
    const { covariances, logWeights } = this.mixture;
    const variance = this.sigma * this.sigma;
    for (let k = 0; k < this.count; k++) {
      const a = covariances[3 * k]! + variance;
      const b = covariances[3 * k + 1]!;
      const d = covariances[3 * k + 2]! + variance;
      const determinant = a * d - b * b;
      this.precisions[3 * k] = d / determinant;
      this.precisions[3 * k + 1] = -b / determinant;
      this.precisions[3 * k + 2] = a / determinant;
      this.constants[k] = logWeights[k]! - 0.5 * Math.log(determinant) - Math.log(2 * Math.PI);
    }
  }

  /** Writes FIELDS numbers to `out`; returns the log-density. */
  at(x: number, y: number, out: Float64Array): number {
    const { count, precisions, constants, logs, componentScores } = this;
    const { means } = this.mixture;
    let top = -Infinity;
    for (let k = 0; k < count; k++) {
      const dx = x - means[2 * k]!;
      const dy = y - means[2 * k + 1]!;
      const b = precisions[3 * k + 1]!;
      const sx = -(precisions[3 * k]! * dx + b * dy);
      const sy = -(b * dx + precisions[3 * k + 2]! * dy);
      componentScores[2 * k] = sx;
      componentScores[2 * k + 1] = sy;
      const log = constants[k]! + 0.5 * (sx * dx + sy * dy);
      logs[k] = log;
      if (log > top) top = log;
    }
    let total = 0, x1 = 0, y1 = 0, xx = 0, xy = 0, yy = 0;
    for (let k = 0; k < count; k++) {
      const below = logs[k]! - top;
      if (below < NEGLIGIBLE) continue;
      const share = Math.exp(below);
      const sx = componentScores[2 * k]!;
      const sy = componentScores[2 * k + 1]!;
      total += share;
      x1 += share * sx;
      y1 += share * sy;
      xx += share * (sx * sx - precisions[3 * k]!);
      xy += share * (sx * sy - precisions[3 * k + 1]!);
      yy += share * (sy * sy - precisions[3 * k + 2]!);
    }
    x1 /= total;
    y1 /= total;
    out[0] = x1;
    out[1] = y1;
    out[2] = xx / total - x1 * x1;
    out[3] = xy / total - x1 * y1;
    out[4] = yy / total - y1 * y1;
    return top + Math.log(total);
  }

  logDensity(x: number, y: number): number {
    const { count, precisions, constants, logs } = this;
    const { means } = this.mixture;
    let top = -Infinity;
    for (let k = 0; k < count; k++) {
      const dx = x - means[2 * k]!;
      const dy = y - means[2 * k + 1]!;
      const square =
        precisions[3 * k]! * dx * dx + 2 * precisions[3 * k + 1]! * dx * dy + precisions[3 * k + 2]! * dy * dy;
      const log = constants[k]! - 0.5 * square;
      logs[k] = log;
      if (log > top) top = log;
    }
    let total = 0;
    for (let k = 0; k < count; k++) if (logs[k]! - top > NEGLIGIBLE) total += Math.exp(logs[k]! - top);
    return top + Math.log(total);
  }
}
