/** What the page says to the worker that computes, and hears from it. */

import type { Frame, Probe } from "./session.ts";
import type { Look, Plan, Settings } from "./state.ts";

export type Request =
  | { kind: "start"; plan: Plan; session: number }
  | { kind: "change"; settings: Settings; paused: boolean }
  /** At most so many steps within so many milliseconds, and then a frame. `eased`: the frame is one of a motion. */
  | { kind: "frame"; steps: number; budget: number; look: Look; probe: Probe | null; eased: boolean };

export type Reply = Frame;
