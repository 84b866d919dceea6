/** One run: noised samples of the generator, the pulls on them, and a step of the maps and their weights. */

import { Adam, Generator } from "./generator.ts";
import { weightGradientKnown, type Method } from "./method.ts";
import { copyOf, FIELDS, LEVELS, NoisedMixture, type Mixture } from "./mixture.ts";
import { regularizerPull, weightValue, type Sample } from "./pull.ts";
import type { Random } from "./random.ts";
import { rewardAt, type Reward } from "./reward.ts";
import { targetOf, type Target } from "./target.ts";

/** Samples of a step, shared equally by the maps. */
export const BATCH = 768;
/** The weights' rate over that of the maps. */
const WEIGHT_RATE = 15;

export interface Task {
  method: Method;
  reward: Reward;
  /** Whether maps may trade mass, where the gradient in a weight is known. */
  weightsLearn: boolean;
}

/** What moves a sample at a point, averaged over levels and noise: minus the pulls. */
export interface Motion {
  x: number;
  y: number;
  rewardX: number;
  rewardY: number;
  regularizerX: number;
  regularizerY: number;
}

export class Run {
  readonly shiftGradient: Float64Array;
  readonly scaleGradient: Float64Array;
  readonly weightGradient: Float64Array;
  private readonly shiftAdam: Adam;
  private readonly scaleAdam: Adam;
  /** The law that the assistant knows: the generator's, or one that is late. */
  private readonly believed: Mixture;
  private readonly assistant: NoisedMixture[];
  private target: Target;
  private task: Task;
  private readonly own = new Float64Array(FIELDS);
  private readonly theirs = new Float64Array(FIELDS);
  private readonly pull = new Float64Array(2);
  private readonly slope = new Float64Array(2);
  private readonly sample: Sample = { x0: 0, y0: 0, xt: 0, yt: 0, ex: 0, ey: 0, sigma: 1 };

  constructor(
    readonly generator: Generator,
    private readonly reference: Mixture,
    task: Task,
    private readonly rng: Random,
  ) {
    const { count, law } = generator;
    this.believed = copyOf(law);
    this.assistant = Array.from(LEVELS, (sigma) => new NoisedMixture(this.believed, sigma));
    this.task = task;
    this.target = targetOf(task.method, reference, task.reward);
    this.shiftGradient = new Float64Array(2 * count);
    this.scaleGradient = new Float64Array(4 * count);
    this.weightGradient = new Float64Array(count);
    this.shiftAdam = new Adam(2 * count);
    this.scaleAdam = new Adam(4 * count);
  }

  /** Another method or reward from here on; the generator stays where it is. */
  assign(task: Task): void {
    this.task = task;
    this.target = targetOf(task.method, this.reference, task.reward);
  }

  clearGradients(): void {
    this.shiftGradient.fill(0);
    this.scaleGradient.fill(0);
    this.weightGradient.fill(0);
  }

  /** Adds a sample of map k to the gradients; its pulls are then in `pulls`. */
  accumulate(k: number, zx: number, zy: number, level: number, ex: number, ey: number, share: number): void {
    const { generator, task, pull, slope } = this;
    const x = generator.x(k, zx, zy);
    const y = generator.y(k, zx, zy);
    const scale = task.method.rewardAt === "sample" ? task.method.rewardScale : 0;
    const value = rewardAt(task.reward, x, y, slope);
    let worth = -scale * value;
    if (task.method.regularizer === "none") pull[0] = pull[1] = 0;
    else {
      const logRatio = this.evaluate(level, x, y, ex, ey);
      const { componentScores } = this.assistant[level]!;
      const [sx, sy] = [componentScores[2 * k]!, componentScores[2 * k + 1]!];
      worth += weightValue(task.method, this.sample, this.own, this.theirs, logRatio, sx, sy);
    }
    slope[0]! *= -scale;
    slope[1]! *= -scale;
    this.weightGradient[k]! += share * worth;
    const px = share * (pull[0]! + slope[0]!);
    const py = share * (pull[1]! + slope[1]!);
    this.shiftGradient[2 * k]! += px;
    this.shiftGradient[2 * k + 1]! += py;
    this.scaleGradient[4 * k]! += px * zx;
    this.scaleGradient[4 * k + 1]! += px * zy;
    this.scaleGradient[4 * k + 2]! += py * zx;
    this.scaleGradient[4 * k + 3]! += py * zy;
  }

  /** The regularizer's pull on the last sample, and the reward's; x, y. */
  get pulls(): { regularizer: Float64Array; reward: Float64Array } {
    return { regularizer: this.pull, reward: this.slope };
  }

  /** The regularizer's pull at a noised sample into `pull`; returns the log-ratio of generator and target there. */
  private evaluate(level: number, x: number, y: number, ex: number, ey: number): number {
    const { sample } = this;
    const sigma = LEVELS[level]!;
    sample.x0 = x;
    sample.y0 = y;
    sample.xt = x + sigma * ex;
    sample.yt = y + sigma * ey;
    sample.ex = ex;
    sample.ey = ey;
    sample.sigma = sigma;
    const ours = this.assistant[level]!.at(sample.xt, sample.yt, this.own);
    const theirs = this.target.at(level, sample.xt, sample.yt, this.theirs);
    regularizerPull(this.task.method, sample, this.own, this.theirs, this.pull);
    return ours - theirs;
  }

  /** One step. Every map gets as many samples, so that its own gradient does not depend on its weight. */
  step(rate: number): void {
    const { generator, rng, task } = this;
    const { count } = generator;
    // noise in pairs of opposite sign, and all levels equally often: less variance at no cost
    const pairs = Math.max(1, Math.round(BATCH / (2 * count)));
    this.clearGradients();
    for (let k = 0; k < count; k++) {
      const first = Math.floor(rng.uniform() * LEVELS.length);
      for (let i = 0; i < pairs; i++) {
        const level = (first + i) % LEVELS.length;
        const zx = rng.normal(), zy = rng.normal(), ex = rng.normal(), ey = rng.normal();
        this.accumulate(k, zx, zy, level, ex, ey, 0.5 / pairs);
        this.accumulate(k, zx, zy, level, -ex, -ey, 0.5 / pairs);
      }
    }
    this.shiftAdam.update(generator.shifts, this.shiftGradient, rate);
    this.scaleAdam.update(generator.scales, this.scaleGradient, rate);
    if (task.weightsLearn && weightGradientKnown(task.method)) {
      generator.moveWeights(this.weightGradient, WEIGHT_RATE * rate);
    }
    this.refresh();
  }

  /** After the generator has changed: its law, and what the assistant makes of it. */
  refresh(): void {
    this.generator.refresh();
    const share = 1 / (1 + this.task.method.lag);
    for (const key of ["logWeights", "means", "covariances"] as const) {
      const from = this.generator.law[key];
      const to = this.believed[key];
      for (let i = 0; i < to.length; i++) to[i]! += share * (from[i]! - to[i]!);
    }
    for (const noised of this.assistant) noised.refresh();
  }

  /** What moves a sample at (x, y), over every level and `draws` pairs of noise. */
  motionAt(x: number, y: number, draws: number, rng: Random): Motion {
    const { method, reward } = this.task;
    let regularizerX = 0, regularizerY = 0;
    if (method.regularizer !== "none") {
      const share = 1 / (2 * draws * LEVELS.length);
      for (let level = 0; level < LEVELS.length; level++)
        for (let i = 0; i < draws; i++) {
          const ex = rng.normal(), ey = rng.normal();
          for (const sign of [1, -1]) {
            this.evaluate(level, x, y, sign * ex, sign * ey);
            regularizerX -= share * this.pull[0]!;
            regularizerY -= share * this.pull[1]!;
          }
        }
    }
    rewardAt(reward, x, y, this.slope);
    const scale = method.rewardAt === "sample" ? method.rewardScale : 0;
    return { x, y, rewardX: scale * this.slope[0]!, rewardY: scale * this.slope[1]!, regularizerX, regularizerY };
  }
}

/** The part of a rate that is left after a share of a run: half a cosine from 1 to 0, see distar_core.rates. */
export const decay = (share: number): number => 0.5 * (1 + Math.cos(Math.PI * Math.min(Math.max(share, 0), 1)));
