/** What the page says to the worker that paints, and hears from it. */

import type { Data, Judgement, Method } from "./world.ts";

export type Painter = "reference" | "start" | Method;

/** What is to be seen. */
export interface Wish {
  sentence: string;
  /** Of the noise of the first column; each column has its own. */
  seed: number;
  stop: number;
  strength: number;
}

export type Request = { kind: "load"; data: Data } | { kind: "wish"; wish: Wish };

export interface Painted {
  kind: "painted";
  sentence: string;
  seed: number;
  /** See keyOf. */
  key: string;
  column: number;
  /** RGBA of 32 · 32 pixels. */
  pixels: Uint8ClampedArray<ArrayBuffer>;
  judgement: Judgement | null;
  /** Of the reference's steps, how many are done; its number of steps or 0 for a picture that is finished. */
  done: number;
  milliseconds: number;
}

export type Reply =
  | { kind: "ready"; stops: readonly number[]; steps: number }
  | { kind: "remark"; sentence: string; text: string }
  | { kind: "failed"; message: string }
  | Painted;

export const COLUMNS = 6;

/** What a picture depends on beside sentence and noise; at step 0 nobody has been trained yet. */
export function keyOf(painter: Painter, stop: number, strength: number): string {
  if (painter === "reference") return painter;
  return painter === "start" || stop === 0 ? "start" : `${painter} ${stop} ${strength}`;
}
