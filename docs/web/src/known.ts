/** The known fixed points, distar_core/toy/data/fixed_points.csv, which build.mjs puts in. */

import type { Axis } from "./state.ts";

export interface KnownPoint {
  rewardName: string;
  regularizer: string;
  scale: number;
  reward: number;
  modes: number;
  kl: number;
  spread: number;
  /** Whether the solver came to rest; a line is known only between such points. */
  trusted: boolean;
}

type Row = [string, string, number, number, number, number, number, 0 | 1];
declare const FIXED_POINTS: Row[];

export const KNOWN: readonly KnownPoint[] = FIXED_POINTS.map(
  ([rewardName, regularizer, scale, reward, modes, kl, spread, trusted]) => ({
    rewardName, regularizer, scale, reward, modes, kl, spread, trusted: trusted === 1,
  }),
);

/** The points of one line by rising scale. */
export function lineOf(rewardName: string, regularizer: string): KnownPoint[] {
  return KNOWN.filter((p) => p.rewardName === rewardName && p.regularizer === regularizer).sort((a, b) => a.scale - b.scale);
}

/** Where a line has a reward scale, log-linear between trusted neighbours; null where that is not known. */
export function knownAt(rewardName: string, regularizer: string, scale: number, axis: Axis): [number, number] | null {
  const line = lineOf(rewardName, regularizer);
  for (let i = 0; i < line.length; i++) {
    const a = line[i]!;
    const b = line[i + 1];
    if (a.scale === scale && a.trusted) return [a.reward, a[axis]];
    if (!b || !(a.scale < scale && scale < b.scale)) continue;
    if (!a.trusted || !b.trusted) return null;
    const share = Math.log(scale / a.scale) / Math.log(b.scale / a.scale);
    return [a.reward + share * (b.reward - a.reward), a[axis] + share * (b[axis] - a[axis])];
  }
  return null;
}
