/** Rewards in the plane: bumps, a slope along x₁, and tanh(x₁), in any combination. */

export interface Bump {
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Reward {
  bumps: readonly Bump[];
  /** Factor of x₁. */
  slope: number;
  /** Factor of tanh(x₁). */
  side: number;
}

export type RewardName = "mode" | "side" | "off-data" | "linear";

const bump = (x: number, width: number): Reward => ({ bumps: [{ x, y: 0, width, height: 1 }], slope: 0, side: 0 });

/** distar_core.toy.ring.REWARDS. */
export const REWARDS: Readonly<Record<RewardName, Reward>> = {
  mode: bump(2, 1.5),
  side: { bumps: [], slope: 0, side: 1 },
  "off-data": bump(3.5, 1),
  linear: { bumps: [], slope: 0.5, side: 0 },
};

/** The reward at a point; its gradient into `out`. */
export function rewardAt(reward: Reward, x: number, y: number, out: Float64Array): number {
  let value = reward.slope * x;
  let gx = reward.slope;
  let gy = 0;
  for (const { x: cx, y: cy, width, height } of reward.bumps) {
    const precision = 1 / (width * width);
    const dx = x - cx;
    const dy = y - cy;
    const e = height * Math.exp(-0.5 * (dx * dx + dy * dy) * precision);
    value += e;
    gx -= e * dx * precision;
    gy -= e * dy * precision;
  }
  if (reward.side) {
    const t = Math.tanh(x);
    value += reward.side * t;
    gx += reward.side * (1 - t * t);
  }
  out[0] = gx;
  out[1] = gy;
  return value;
}
