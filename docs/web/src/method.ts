/** Methods as data, in the words of distar_core.methods, and the ways to get Theorem 3.1 wrong. */

export type Regularizer = "none" | "integral_kl" | "score_divergence" | "score_divergence_detached";
export type Weight = "one" | "sigma" | "x0" | "dmd";
export type Unit = "score" | "eps" | "x0";
export type Law = "frozen" | "differentiated";
export type RewardAt = "sample" | "every_level" | "every_level_by_proxy";

/** What a training code detaches, or leaves out, that it must not; see the stop-gradient table of notebook 04.
 *
 * slope: d′ detached. braces: s + eps/sigma detached. conditional: eps/sigma dropped. reference: the reference asked
 * without a gradient to x_t. d_alone: the loss is d of the gap, as if the scores did not depend on theta.
 */
export type Mistake = "none" | "slope" | "braces" | "conditional" | "reference" | "d_alone";

export interface Method {
  regularizer: Regularizer;
  weight: Weight;
  unit: Unit;
  /** Pseudo-Huber's constant; null is squared L2. */
  huberC: number | null;
  law: Law;
  rewardAt: RewardAt;
  rewardScale: number;
  mistake: Mistake;
  /** By about how many steps the assistant is late; 0: exact. */
  lag: number;
}

export type MethodName = "reward-only" | "kl-x0" | "kl-one" | "star" | "l2" | "detached" | "dmd" | "didr" | "didr-proxy";

export const HUBER_C = 0.05;

const plain: Method = {
  regularizer: "none",
  weight: "one",
  unit: "eps",
  huberC: HUBER_C,
  law: "frozen",
  rewardAt: "sample",
  rewardScale: 1,
  mistake: "none",
  lag: 0,
};
const kl: Method = { ...plain, regularizer: "integral_kl", weight: "x0" };
const star: Method = { ...plain, regularizer: "score_divergence" };

/** The rows of distar_core.toy.ring.TOY_METHODS, and the others of distar_core.METHODS that need no caption. */
export const METHODS: Readonly<Record<MethodName, Method>> = {
  "reward-only": plain,
  "kl-x0": kl,
  "kl-one": { ...kl, weight: "one" },
  star,
  l2: { ...star, huberC: null },
  detached: { ...star, regularizer: "score_divergence_detached" },
  dmd: { ...kl, weight: "dmd" },
  didr: { ...kl, rewardAt: "every_level" },
  "didr-proxy": { ...kl, rewardAt: "every_level_by_proxy" },
};

/** Which settings a method has at all; the others change nothing. */
export function hasSetting(method: Method, setting: keyof Method): boolean {
  const score = method.regularizer === "score_divergence";
  switch (setting) {
    case "weight":
      return method.regularizer !== "none" && method.weight !== "dmd";
    case "unit":
    case "huberC":
      return score || method.regularizer === "score_divergence_detached";
    case "law":
    case "mistake":
      return score;
    case "lag":
      return method.regularizer !== "none";
    default:
      return true;
  }
}

/** Whether the gradient of the objective in a map's weight is known; where it is not, weights are held fixed.
 *
 * A mistake moves maps wrongly and leaves the weights their right gradient: what is seen is what it does to samples.
 */
export function weightGradientKnown(method: Method): boolean {
  return (
    method.regularizer !== "score_divergence_detached" &&
    method.weight !== "dmd" &&
    method.rewardAt !== "every_level_by_proxy"
  );
}

/** The line of fixed_points.csv on which a method comes to rest, if one is known. */
export function knownLine(method: Method): string | null {
  if (method.mistake !== "none" || method.lag > 0 || method.regularizer === "none") return null;
  if (method.rewardAt === "every_level") return "tilt";
  if (method.rewardAt !== "sample") return null;
  if (method.regularizer === "integral_kl") {
    return method.weight === "x0" ? "kl-x0" : method.weight === "one" ? "kl-one" : null;
  }
  if (method.regularizer !== "score_divergence" || method.unit !== "eps" || method.weight !== "one") return null;
  const distance = method.huberC === null ? "l2" : method.huberC === HUBER_C ? "star" : null;
  return distance && (method.law === "frozen" ? distance : `${distance}-differentiated`);
}
