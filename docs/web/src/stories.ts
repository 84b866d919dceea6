/** Questions to answer before a run shows what happens. Each answer is checked in tests/docs/test_leash.py. */

import type { Method, MethodName } from "./method.ts";
import { DEFAULT_SETTINGS, side, type Axis, type Settings } from "./state.ts";

export interface Story {
  title: string;
  question: string;
  answers: readonly string[];
  right: number;
  tell: string;
  settings: Settings;
  axis: Axis;
}

function pair(
  [left, leftScale, leftChanges = {}]: [MethodName, number, Partial<Method>?],
  [right, rightScale, rightChanges = {}]: [MethodName, number, Partial<Method>?],
  changes: Partial<Settings> = {},
): Settings {
  return {
    ...DEFAULT_SETTINGS,
    sides: [
      side(left, { ...leftChanges, rewardScale: leftScale }),
      side(right, { ...rightChanges, rewardScale: rightScale }),
    ],
    ...changes,
  };
}

export const STORIES: readonly Story[] = [
  {
    title: "Let go of the leash",
    question: "Left, only the reward pulls; right, Diff-Instruct* holds as well. Where do the samples on the left end?",
    answers: ["spread over the mode on the right", "all in one point", "far outside"],
    right: 1,
    tell:
      "In one point: there the reward is highest, and nothing keeps the samples apart. On the right the reward stops short of " +
      "that, and four to five of the eight modes are kept.",
    settings: pair(["reward-only", 0.83], ["star", 0.83]),
    axis: "modes",
  },
  {
    title: "The narrow modes",
    question: "Both will rest at a mean reward of about 0.66. On which side do the modes get narrower?",
    answers: ["left, KL with w = σ²/α²", "right, Diff-Instruct*", "on neither"],
    right: 0,
    tell:
      "Left: to half their width. The width of a mode shows at low noise only, and there the weight σ² is small. Drag " +
      "“look through noise” to 1: narrow modes and wide ones look alike.",
    settings: pair(["kl-x0", 0.84], ["star", 0.83]),
    axis: "spread",
  },
  {
    title: "At equal reward",
    question: "Again both rest at about 0.66, and left is KL, now with equal weights. Which side keeps more modes?",
    answers: ["left, KL with w = 1", "right, Diff-Instruct*", "both the same"],
    right: 0,
    tell:
      "KL with equal weights, by a little: 5.3 modes to 4.6. It was the weight over noise levels that narrowed the modes, not " +
      "KL. Watch the way there, too: the score divergence keeps its modes for long because it is slow to collect the reward.",
    settings: pair(["kl-one", 1.8], ["star", 0.83]),
    axis: "modes",
  },
  {
    title: "The constant c",
    question: "Pseudo-Huber with c = 0.05 on the left and c = 1 on the right, at the same weak reward. Who gives way?",
    answers: ["left, c = 0.05", "right, c = 1", "neither"],
    right: 1,
    tell:
      "The right side. Near rest pseudo-Huber is ‖y‖²/2c, so a larger c is a slacker leash; with a small c it is nearly ‖y‖, " +
      "which does not give way at all until the reward outweighs it. Compare constants at equal reward, not at equal scale.",
    settings: pair(["star", 0.4, { huberC: 0.05 }], ["star", 0.4, { huberC: 1 }]),
    axis: "kl",
  },
  {
    title: "A reward without a top",
    question: "The reward is x₁/2, without an upper limit, and strong. Who holds the samples?",
    answers: ["KL, on the left", "Diff-Instruct*, on the right", "both"],
    right: 0,
    tell:
      "KL: the farther the samples go, the harder it pulls. The pull of pseudo-Huber is bounded, so beyond some reward scale " +
      "nothing stops it; only the learning rate, which falls to zero, ended this run.",
    settings: pair(["kl-one", 4], ["star", 4], { reward: "linear" }),
    axis: "kl",
  },
  {
    title: "A late assistant",
    question: "Diff-Instruct* twice. On the right the assistant is some 100 steps late. What does that change on the way?",
    answers: ["little: it comes to the same place later", "the samples are thrown about", "it holds tighter"],
    right: 1,
    tell:
      "They are thrown about: the leash pulls where the samples were, they overshoot, and it pulls back too late. On the way all " +
      "sit in one mode, and then more than half lie off the data; the swings die down only as the learning rate falls. In " +
      "training the assistant is a network, always a little late and never exact.",
    settings: pair(["star", 0.83], ["star", 0.83, { lag: 100 }]),
    axis: "modes",
  },
];
