/** What a regularizer does to one noised sample: ∂(w loss)/∂x_t, in closed form, and the gradient in a map's weight. */

import type { Method, Unit } from "./method.ts";

const DMD_FLOOR = 1e-5;

/** A noised sample: x_0, x_t, and the noise that made x_t. */
export interface Sample {
  x0: number;
  y0: number;
  xt: number;
  yt: number;
  ex: number;
  ey: number;
  sigma: number;
}

const unitFactor = (unit: Unit, sigma: number): number => (unit === "score" ? 1 : unit === "eps" ? sigma : sigma ** 2);

/** w(t); for DMD also of the sample, as it divides by the mean |x_0 − x̂_0| of the reference's guess. */
export function weightOf(method: Method, sample: Sample, target: Float64Array): number {
  const { sigma } = sample;
  switch (method.weight) {
    case "one":
      return 1;
    case "sigma":
      return sigma;
    case "x0":
      return sigma ** 2;
    case "dmd": {
      const away =
        Math.abs(sample.x0 - sample.xt - sigma ** 2 * target[0]!) +
        Math.abs(sample.y0 - sample.yt - sigma ** 2 * target[1]!);
      return sigma ** 2 / Math.max(away / 2, DMD_FLOOR);
    }
  }
}

/** The pull at x_t into `out`.
 *
 * With y = u (s − s_ref), b = u (s + eps/sigma), both functions of x_t, Theorem 3.1's loss is −d′(y)ᵀ b, so that its
 * gradient is −J_yᵀ d″(y) b − J_bᵀ d′(y), with Hessians of log-densities for Jacobians of scores.
 *
 * @param own score and Hessian of the assistant at x_t, `target` those of the reference; see FIELDS.
 */
export function regularizerPull(
  method: Method, sample: Sample, own: Float64Array, target: Float64Array, out: Float64Array,
): void {
  if (method.regularizer === "none") {
    out[0] = out[1] = 0;
    return;
  }
  const w = weightOf(method, sample, target);
  const gapX = own[0]! - target[0]!;
  const gapY = own[1]! - target[1]!;
  if (method.regularizer === "integral_kl") {
    out[0] = w * gapX;
    out[1] = w * gapY;
    return;
  }
  const { sigma } = sample;
  const u = unitFactor(method.unit, sigma);
  const yx = u * gapX;
  const yy = u * gapY;
  const c = method.huberC;
  const rho = c === null ? 0.5 : Math.sqrt(yx * yx + yy * yy + c * c);
  const slopeX = yx / rho;
  const slopeY = yy / rho;
  if (method.regularizer === "score_divergence_detached") {
    const factor = (w * u) / sigma ** 2;
    out[0] = factor * slopeX;
    out[1] = factor * slopeY;
    return;
  }
  const { mistake } = method;
  const noise = mistake === "conditional" ? 0 : 1 / sigma;
  const bx = u * (own[0]! + noise * sample.ex);
  const by = u * (own[1]! + noise * sample.ey);
  // d″(y) b: b/rho, less for pseudo-Huber its part along y
  const along = c === null ? 0 : (yx * bx + yy * by) / rho ** 3;
  const curvedX = bx / rho - yx * along;
  const curvedY = by / rho - yy * along;
  const live = mistake === "reference" ? 0 : 1;
  const xx = own[2]! - live * target[2]!;
  const xy = own[3]! - live * target[3]!;
  const yyy = own[4]! - live * target[4]!;
  let px = 0, py = 0;
  if (mistake !== "slope" && mistake !== "d_alone") {
    px -= xx * curvedX + xy * curvedY;
    py -= xy * curvedX + yyy * curvedY;
  }
  if (mistake !== "braces" && mistake !== "d_alone") {
    px -= own[2]! * slopeX + own[3]! * slopeY;
    py -= own[3]! * slopeX + own[4]! * slopeY;
  }
  if (method.law === "differentiated" || mistake === "d_alone") {
    px += xx * slopeX + xy * slopeY;
    py += xy * slopeX + yyy * slopeY;
  }
  out[0] = w * u * px;
  out[1] = w * u * py;
}

/** The number whose mean over a map's samples is the gradient in that map's weight, up to a constant that all share;
 * see distar_core.toy.maps.loss_by_sample, where this is derived.
 *
 * @param logRatio log-density of the generator minus that of the target at x_t.
 * @param sx, sy the score of the map itself at x_t: minus the mean of eps/sigma there, with less variance than eps has.
 */
export function weightValue(
  method: Method, sample: Sample, own: Float64Array, target: Float64Array, logRatio: number, sx: number, sy: number,
): number {
  if (method.regularizer === "none") return 0;
  const w = weightOf(method, sample, target);
  if (method.regularizer === "integral_kl") return w * logRatio;
  const u = unitFactor(method.unit, sample.sigma);
  const yx = u * (own[0]! - target[0]!);
  const yy = u * (own[1]! - target[1]!);
  const c = method.huberC;
  const square = yx * yx + yy * yy;
  const rho = c === null ? 0.5 : Math.sqrt(square + c * c);
  const loss = -(u * (yx * (own[0]! - sx) + yy * (own[1]! - sy))) / rho;
  if (method.law === "frozen") return w * loss;
  return w * (loss + (c === null ? square : square / (rho + c)));
}
