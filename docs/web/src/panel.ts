/** One side of the page: its menu, plane, numbers and settings. */

import { choice, choiceRow, make, sliderRow } from "./dom.ts";
import { hasSetting, HUBER_C, METHODS, weightGradientKnown, type Method, type MethodName } from "./method.ts";
import { Plane } from "./plane.ts";
import type { Summary } from "./summary.ts";
import { side, type Settings, type Side } from "./state.ts";
import { colorOf, MENU, STYLES } from "./styles.ts";

const WEIGHTS = { one: "w = 1", sigma: "w = σ", x0: "w = σ²/α²" };
const UNITS = { eps: "noise (σ times the score)", score: "score", x0: "x₀ (σ² times the score)" };
const DISTANCES = { huber: "pseudo-Huber", l2: "squared L2" };
const LAWS = { frozen: "frozen", differentiated: "differentiated" };
const MISTAKES = {
  none: "as in Theorem 3.1",
  slope: "wrong: d′ detached",
  braces: "wrong: the braces detached",
  conditional: "wrong: ε/σ dropped",
  reference: "wrong: reference under no_grad",
  d_alone: "wrong: d of the gap alone",
};

const digits = (value: number, count: number): string =>
  Number.isFinite(value) ? (Math.abs(value) >= 1000 ? value.toExponential(1) : value.toFixed(count)) : value > 0 ? "∞" : "–";

export class PanelView {
  readonly plane: Plane;
  readonly canvas: HTMLCanvasElement;
  private readonly menu: HTMLSelectElement;
  private readonly numbers: Record<keyof Summary, HTMLElement>;
  private readonly scale;
  private readonly more: HTMLElement;
  private readonly held: HTMLElement;
  private readonly rows;
  private shown: Side | null = null;

  /** @param changed gets the side as it is to be from now on. */
  constructor(
    private readonly root: HTMLElement,
    private readonly name: "left" | "right",
    changed: (side: Side) => void,
  ) {
    const id = (part: string) => `${name}-${part}`;
    const set = (changes: Partial<Method>) =>
      changed({ name: this.shown!.name, method: { ...this.shown!.method, ...changes } });
    this.menu = choice(id("method"), MENU, (value) =>
      changed(side(value as MethodName, { rewardScale: this.shown!.method.rewardScale })));
    this.menu.setAttribute("aria-label", `Method on the ${name}`);
    this.canvas = make("canvas", { id: id("plane"), tabIndex: 0 });
    // "application", since the arrow keys move the place that is pointed at
    this.canvas.setAttribute("role", "application");
    this.plane = new Plane(this.canvas);
    const stats = make("dl", { className: "stats" });
    const stat = (label: string) => {
      const value = make("dd", {}, "–");
      stats.append(make("div", {}, make("dt", {}, label), value));
      return value;
    };
    this.numbers = {
      reward: stat("reward"), modes: stat("modes"), kl: stat("KL"), spread: stat("spread"), offData: stat("off data"),
    };
    this.scale = sliderRow(id("scale"), "reward scale", [-1, 1.3, 0.01], true, (v) => v.toFixed(2), (rewardScale) =>
      set({ rewardScale }));
    const c = sliderRow(id("c"), "constant c", [-2, 1, 0.02], true, (v) => String(v), (huberC) => set({ huberC }));
    const lag = sliderRow(id("lag"), "assistant", [0, 200, 5], false, (v) => (v ? `${v} late` : "exact"), (late) =>
      set({ lag: late }));
    const weight = choiceRow(id("weight"), "weight over levels", WEIGHTS, (value) => set({ weight: value as Method["weight"] }));
    const unit = choiceRow(id("unit"), "gap measured in", UNITS, (value) => set({ unit: value as Method["unit"] }));
    const distance = choiceRow(id("distance"), "distance", DISTANCES, (value) =>
      set({ huberC: value === "l2" ? null : HUBER_C }));
    const law = choiceRow(id("law"), "sampling law", LAWS, (value) => set({ law: value as Method["law"] }));
    const mistake = choiceRow(id("mistake"), "gradient", MISTAKES, (value) => set({ mistake: value as Method["mistake"] }));
    this.rows = { weight, distance, c, unit, law, mistake, lag };
    this.more = make("summary", {}, "More settings");
    this.held = make("p", { className: "key" }, "The maps' weights are held here: the gradient in them is not known.");
    root.append(
      this.menu, this.canvas, stats, this.scale.row,
      make("details", {}, this.more, ...Object.values(this.rows).map(({ row }) => row)), this.held,
    );
  }

  /** The controls as the settings have them. */
  show(settings: Settings): void {
    const own = settings.sides[this.name === "left" ? 0 : 1];
    const { method } = own;
    this.shown = own;
    this.menu.value = own.name;
    this.root.style.setProperty("--method", colorOf(STYLES[own.name]));
    this.scale.show(method.rewardScale);
    const { c, lag, weight, unit, distance, law, mistake } = this.rows;
    if (method.huberC !== null) c.show(method.huberC);
    lag.show(method.lag);
    weight.select.value = method.weight;
    unit.select.value = method.unit;
    distance.select.value = method.huberC === null ? "l2" : "huber";
    law.select.value = method.law;
    mistake.select.value = method.mistake;
    c.row.hidden = !hasSetting(method, "huberC") || method.huberC === null;
    lag.row.hidden = !hasSetting(method, "lag");
    weight.row.hidden = !hasSetting(method, "weight");
    distance.row.hidden = !hasSetting(method, "huberC");
    unit.row.hidden = !hasSetting(method, "unit");
    law.row.hidden = !hasSetting(method, "law");
    mistake.row.hidden = !hasSetting(method, "mistake");
    this.more.parentElement!.hidden = method.regularizer === "none";
    const standard = METHODS[own.name];
    const differs = (Object.keys(standard) as (keyof Method)[]).some(
      (key) => key !== "rewardScale" && hasSetting(method, key) && standard[key] !== method[key]);
    this.more.textContent = differs ? "More settings: changed" : "More settings";
    this.held.hidden = !settings.weightsLearn || weightGradientKnown(method);
  }

  report(summary: Summary): void {
    this.numbers.reward.textContent = digits(summary.reward, 3);
    this.numbers.modes.textContent = digits(summary.modes, 1);
    this.numbers.kl.textContent = digits(summary.kl, 2);
    this.numbers.spread.textContent = digits(summary.spread, 3);
    this.numbers.offData.textContent = Number.isFinite(summary.offData) ? `${digits(100 * summary.offData, 0)}%` : "–";
  }

  /** The plane in words; not at every frame, which nobody could listen to. */
  describe(summary: Summary): void {
    this.canvas.setAttribute(
      "aria-label",
      `Samples with ${MENU[this.shown!.name]}: mean reward ${digits(summary.reward, 2)}, ${digits(summary.modes, 1)} of 8 ` +
        `modes in use, spread ${digits(summary.spread, 2)} against 0.24, ${digits(100 * summary.offData, 0)} percent off the ` +
        "data. Arrow keys point at a place, Escape leaves it, Enter paints there while painting.",
    );
  }
}
