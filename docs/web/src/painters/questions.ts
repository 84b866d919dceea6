/** Questions to answer before the pictures do. Each answer is checked in tests/docs/test_painters.py. */

export interface Question {
  title: string;
  sentence: string;
  question: string;
  answers: readonly string[];
  right: number;
  tell: string;
  /** Where the sliders go once a prediction is made. */
  stop: number;
  strength: number;
}

export const QUESTIONS: readonly Question[] = [
  {
    title: "Reward and truth",
    sentence: "a yellow square right of a blue triangle",
    question:
      "Two painters now climb the same learnt reward for 200 steps; one of them is held to the reference. Who is ahead at the end, in that reward " +
      "and in the true preference behind it?",
    answers: [
      "Reward alone, in both", "Diff-Instruct*, in both",
      "Reward alone in the reward, Diff-Instruct* in the true preference",
    ],
    right: 2,
    tell:
      "Reward alone reaches a reward of 6.2, Diff-Instruct* 5.0; both began at 4.4. The true preference ends at 0.43 and at 0.70, " +
      "from 0.56 (at 0.23 and at 0.72, from 0.54, where all weights are trained, not adapters, for 300 steps at a tenth of the rate). " +
      "Of 200 pictures by reward alone 70 are not what the sentence says; before the training it was 11.",
    stop: 200,
    strength: 1,
  },
  {
    title: "When to stop",
    sentence: "a blue square above a yellow circle on a dark background",
    question: "Reward alone, once more: where along the training is the true preference of its pictures highest?",
    answers: ["at the end", "after about a quarter", "before it begins"],
    right: 1,
    tell:
      "Near step 40, at 0.65. From there the reward still rises, while the true preference falls below where it began. " +
      "Whoever trains does not see that curve, only the reward.",
    stop: 200,
    strength: 1,
  },
  {
    title: "What is left open",
    sentence: "a blue circle",
    question: "“A blue circle” leaves size and background open. Which trained painter still varies them after 200 steps?",
    answers: ["both", "Diff-Instruct*, less than before", "neither"],
    right: 1,
    tell:
      "Diff-Instruct*, less than before. In nats, of at most 1.39: 0.53 for one step, 0.30 for Diff-Instruct*, and 0.00 " +
      "for reward alone, which draws one size on one background. The leash slows this loss; it does not end it.",
    stop: 200,
    strength: 1,
  },
  {
    title: "Too much of it",
    sentence: "a green square right of a red circle",
    question: "Multiply by 2.5 what training has changed in both networks. No run ends there, but it shows the way they went. Whose pictures survive?",
    answers: ["reward alone’s", "Diff-Instruct*’s", "both", "neither"],
    right: 1,
    tell:
      "Diff-Instruct*’s: of 200 that were measured, 175 are still what the sentence says, and none of reward alone’s 200. " +
      "Already at × 1.5 only 41 of them are.",
    stop: 200,
    strength: 2.5,
  },
];
