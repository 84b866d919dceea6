/** Both runs in step, with the changes made on the way, and what a page needs to draw them. No page in here. */

import { blurred, fill, outlines } from "./contour.ts";
import { Generator } from "./generator.ts";
import { NoisedMixture, ring, type Mixture } from "./mixture.ts";
import { Random } from "./random.ts";
import { decay, Run, type Motion } from "./run.ts";
import { HORIZON, LARGEST_STEP, rewardOf, type Change, type Look, type Plan, type Settings } from "./state.ts";
import { summarise, type Summary } from "./summary.ts";
import { GRID, tiltedMass } from "./target.ts";

export const SAMPLES = 1000;
/** Half of the plane's window, until a cloud leaves it. */
export const HALF = 4.2;
const SUMMARY_EVERY = 8;
const ARROWS = 13;
// a change that follows another sooner waits, so that dragging a slider does not fill the address
const SHORTEST_PART = 16;
const REFERENCE = ring();

export interface Probe {
  side: number;
  x: number;
  y: number;
}

export interface SideFrame {
  /** Samples, x, y, x, y, …, with the noise that is looked through. */
  points: Float32Array;
  /** Half of the window. */
  half: number;
  arrows: Motion[];
  /** Lines as of contour.ts, in the window; empty where not asked for. */
  density: Float32Array;
  optimum: Float32Array;
  reference: Float32Array;
  summary: Summary;
  /** Summaries on the way, since the last start: one each SUMMARY_EVERY steps. */
  trace: readonly Summary[];
}

export interface Frame {
  /** Which of the sessions that the page started. */
  session: number;
  step: number;
  /** The step at which the learning rate is zero, and the run over. */
  end: number;
  over: boolean;
  /** Whether the run is still on its way to the step that a link names. */
  behind: boolean;
  plan: Plan;
  sides: readonly [SideFrame, SideFrame];
}

class Panel {
  readonly run: Run;
  readonly generator: Generator;
  trace: Summary[] = [];
  private half = HALF;
  private arrows: Motion[] = [];
  /** Outlines by name, each with what it was made from. */
  private readonly outlines = new Map<string, { key: string; lines: Float32Array }>();
  private frames = 0;
  private tilt: { key: string; mass: Float64Array } | null = null;
  private readonly fixed = new Float64Array(5 * SAMPLES);

  constructor(
    private readonly index: number,
    settings: Settings,
  ) {
    this.generator = Generator.startingAs(REFERENCE, settings.maps, new Random(1));
    // both sides with the same noise, so that only the methods differ
    this.run = new Run(this.generator, REFERENCE, this.task(settings), new Random(2));
    const rng = new Random(3);
    for (let i = 0; i < SAMPLES; i++) {
      this.fixed[5 * i] = (i + 0.5) / SAMPLES;
      for (let n = 1; n < 5; n++) this.fixed[5 * i + n] = rng.normal();
    }
    this.measure(settings);
  }

  task(settings: Settings) {
    return {
      method: settings.sides[this.index]!.method,
      reward: rewardOf(settings),
      weightsLearn: settings.weightsLearn,
    };
  }

  measure(settings: Settings): void {
    this.trace.push(summarise(this.generator, REFERENCE, rewardOf(settings), new Random(4), 2000, 49));
  }

  /** The samples that are shown: the same noise throughout, so that each moves on its own way. */
  private points(noise: number): Float32Array {
    const points = new Float32Array(2 * SAMPLES);
    const { generator, fixed } = this;
    let k = -1, below = 0;
    for (let i = 0; i < SAMPLES; i++) {
      while (below <= fixed[5 * i]! && k < generator.count - 1) below += Math.exp(generator.law.logWeights[++k]!);
      const zx = fixed[5 * i + 1]!, zy = fixed[5 * i + 2]!;
      points[2 * i] = generator.x(k, zx, zy) + noise * fixed[5 * i + 3]!;
      points[2 * i + 1] = generator.y(k, zx, zy) + noise * fixed[5 * i + 4]!;
    }
    return points;
  }

  frame(settings: Settings, look: Look, probe: Probe | null, step: number, eased: boolean): SideFrame {
    const points = this.points(look.noise);
    const reach = Float32Array.from(points, Math.abs).sort()[Math.floor(0.985 * points.length)]!;
    const wanted = Math.max(HALF, 1.1 * reach);
    this.half += (eased ? 0.12 : 1) * (wanted - this.half);
    if (Math.abs(this.half - wanted) < 0.03 * wanted) this.half = wanted;
    // the dear parts are renewed in turn while the run moves, and at once when it stands still
    this.frames++;
    const turn = !eased || this.frames % 3 === this.index;
    if (look.pulls && turn) this.arrows = this.motions(points, look.noise, probe, eased ? 4 : 16);
    const { noise } = look;
    const { half } = this;
    const density = (law: Mixture, sigma: number) => {
      const noised = new NoisedMixture(law, sigma);
      return fill((x, y) => Math.exp(noised.logDensity(x, y)), half);
    };
    const scale = settings.sides[this.index]!.method.rewardScale;
    const { reward, bumps } = settings;
    return {
      points, half, arrows: look.pulls ? this.arrows : [],
      density: this.outline("density", look.density, turn, [step, half, noise], [0.5, 0.9], () =>
        density(this.generator.law, Math.max(noise, 0.12))),
      optimum: this.outline("optimum", look.optimum, turn, [scale, reward, bumps, half, noise], [0.5, 0.9], () =>
        this.tilted(settings, noise)),
      reference: this.outline("reference", true, turn, [half, noise], [0.4, 0.86], () => density(REFERENCE, noise)),
      summary: this.trace[this.trace.length - 1]!, trace: this.trace,
    };
  }

  /** An outline, made anew when it is this side's turn and what it depends on has changed. */
  private outline(
    name: string, wanted: boolean, turn: boolean, dependsOn: unknown[], shares: number[], field: () => Float64Array,
  ): Float32Array {
    if (!wanted) return new Float32Array(0);
    const key = JSON.stringify(dependsOn);
    const known = this.outlines.get(name);
    if (known && (known.key === key || !turn)) return known.lines;
    const lines = outlines(field(), shares);
    this.outlines.set(name, { key, lines });
    return lines;
  }

  private tilted(settings: Settings, noise: number): Float64Array {
    const scale = settings.sides[this.index]!.method.rewardScale;
    const key = [scale, settings.reward, JSON.stringify(settings.bumps)].join();
    if (this.tilt?.key !== key) this.tilt = { key, mass: tiltedMass(REFERENCE, rewardOf(settings), scale) };
    return blurred(this.tilt.mass, GRID.half, noise, this.half);
  }

  /** The pulls at samples that lie apart, and at the place that is pointed at; over `draws` pairs of noise at each level. */
  private motions(points: Float32Array, noise: number, probe: Probe | null, draws: number): Motion[] {
    const clean = noise ? this.points(0) : points;
    const apart = (0.28 * this.half) ** 2;
    const chosen: { x: number; y: number }[] = probe?.side === this.index ? [probe] : [];
    for (let i = 0; i < SAMPLES && chosen.length < ARROWS; i++) {
      const at = { x: clean[2 * i]!, y: clean[2 * i + 1]! };
      if (chosen.every((other) => (other.x - at.x) ** 2 + (other.y - at.y) ** 2 > apart)) chosen.push(at);
    }
    const rng = new Random(11);
    return chosen.map(({ x, y }) => this.run.motionAt(x, y, draws, rng));
  }
}

export class Session {
  step = 0;
  private settings: Settings;
  private readonly panels: readonly [Panel, Panel];
  private readonly changes: Change[] = [];
  private waiting: Settings | null = null;
  private readonly planned: Change[];
  private began = 0;

  constructor(
    private readonly plan: Plan,
    private readonly number = 0,
  ) {
    this.settings = plan.start;
    this.planned = [...plan.changes];
    this.panels = [new Panel(0, plan.start), new Panel(1, plan.start)];
    this.followPlan();
  }

  /** Whether the step of the plan is not reached yet. */
  get behind(): boolean {
    return this.step < this.plan.at;
  }

  get end(): number {
    return this.began + HORIZON;
  }

  get over(): boolean {
    return !this.behind && (this.step >= this.end || this.step >= LARGEST_STEP);
  }

  /** New settings from the next step on, or a little later if others have just been taken. */
  change(settings: Settings, paused: boolean): void {
    this.waiting = settings;
    if (paused || this.over) this.take();
  }

  private take(): void {
    if (!this.waiting) return;
    this.apply({ at: this.step, settings: this.waiting });
    this.waiting = null;
  }

  private apply(change: Change): void {
    if (this.changes[this.changes.length - 1]?.at === change.at) this.changes.pop();
    this.changes.push(change);
    const before = this.settings;
    this.settings = change.settings;
    this.began = change.at;
    const sameReward = JSON.stringify(rewardOf(before)) === JSON.stringify(rewardOf(change.settings));
    for (const panel of this.panels) {
      panel.run.assign(panel.task(change.settings));
      // a way that was measured with another reward does not go on in the same picture
      if (!sameReward) {
        panel.trace = [];
        panel.measure(change.settings);
      }
    }
  }

  private followPlan(): void {
    while (this.planned[0]?.at === this.step) this.apply(this.planned.shift()!);
  }

  /** One step of both runs. */
  advance(): void {
    const last = this.changes[this.changes.length - 1]?.at ?? -SHORTEST_PART;
    if (!this.behind && this.step - last >= SHORTEST_PART) this.take();
    const rate = this.settings.rate * decay((this.step - this.began) / HORIZON);
    for (const panel of this.panels) panel.run.step(rate);
    this.step++;
    if (this.step % SUMMARY_EVERY === 0) for (const panel of this.panels) panel.measure(this.settings);
    this.followPlan();
  }

  /** Up to `most` steps within about `budget` milliseconds, none once the rate is zero; stops at the plan's step. */
  run(most: number, budget: number, now: () => number): void {
    const started = now();
    const { behind } = this;
    for (let n = 0; n < most && !this.over; n++) {
      this.advance();
      if (now() - started > budget || behind !== this.behind) return;
    }
  }

  frame(look: Look, probe: Probe | null, eased: boolean): Frame {
    const { settings, step, panels } = this;
    const of = (panel: Panel) => panel.frame(settings, look, probe, step, eased);
    return {
      session: this.number,
      step,
      end: this.end,
      over: this.over,
      behind: this.behind,
      plan: { start: this.plan.start, changes: [...this.changes], at: step },
      sides: [of(panels[0]), of(panels[1])],
    };
  }
}
