/** The page about Theorem 3.1: estimates of one gradient beside its known value, as samples come in. */

import { byId, make } from "./dom.ts";
import { Estimates, FORMS, LineProblem, relativeError, SETTINGS, type SettingName } from "./line.ts";
import type { Law, Mistake } from "./method.ts";
import { Random } from "./random.ts";
import { css, freshContext, lineEntry } from "./styles.ts";
import { tickLabels, ticks } from "./ticks.ts";

const LABELS: Record<Mistake, string> = {
  none: "Theorem 3.1, nothing detached",
  slope: "d′ detached",
  braces: "the braces detached",
  conditional: "ε/σ dropped",
  reference: "reference under no_grad",
  d_alone: "d(y) alone",
};
/** What is said where samples are drawn anew, by what has been changed. */
const ANEW = { setting: "the generator", huber: "the distance", law: "the sampling law" } as const;
const COLORS: Record<Mistake, string> = {
  none: "#5790fc", slope: "#f89c20", braces: "#e42536", conditional: "#964a8b", reference: "#7a8b3a", d_alone: "#8a8a90",
};
const DASHES: Record<Mistake, number[]> = {
  none: [], slope: [8, 3], braces: [3, 3], conditional: [10, 3, 2, 3], reference: [6, 6], d_alone: [1, 3],
};
const MOST = 3_000_000;
/** Milliseconds of computation between two drawings. */
const BUDGET = 12;
const SMALLEST_ERROR = 1e-3;
const LARGEST_ERROR = 100;

interface Choice {
  setting: SettingName;
  huber: boolean;
  law: Law;
  form: Mistake;
}
const HUBER_C = 0.3;
const DEFAULT: Choice = { setting: "line", huber: true, law: "frozen", form: "slope" };

class TheoremPage {
  private choice: Choice = DEFAULT;
  private estimates!: Estimates;
  private problem!: LineProblem;
  private running = false;
  private drawn = 0;

  constructor() {
    const select = (id: string, chosen: (value: string) => Partial<Choice>) => {
      const element = byId<HTMLSelectElement>(id);
      element.onchange = () => this.choose(chosen(element.value));
    };
    byId("legend").append(
      ...FORMS.map((form) => lineEntry(COLORS[form], { dash: DASHES[form], width: form === "none" ? 2.6 : 2, opacity: 1 }, LABELS[form])));
    for (const form of FORMS.slice(1)) byId<HTMLSelectElement>("form").add(new Option(LABELS[form], form));
    select("setting", (setting) =>
      // the pencil of notebook 04 has squared L2
      ({ setting: setting as SettingName, huber: setting === "line" }));
    select("distance", (distance) => ({ huber: distance === "huber" }));
    select("law", (law) => ({ law: law as Law }));
    select("form", (form) => ({ form: form as Mistake }));
    byId("play").onclick = () => this.play(!this.running);
    byId("again").onclick = () => this.begin();
    const redraw = () => this.draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    new ResizeObserver(redraw).observe(byId("errors"));
    window.addEventListener("hashchange", () => this.open());
    this.open();
  }

  /** The choice that the address says, word by word; words that it does not know are named. */
  private open(): void {
    const words = location.hash.slice(1).split(",").filter(Boolean);
    const choice = { ...DEFAULT };
    const unknown: string[] = [];
    for (const word of words) {
      if (word in SETTINGS) choice.setting = word as SettingName;
      else if (word === "huber" || word === "l2") choice.huber = word === "huber";
      else if (word === "frozen" || word === "differentiated") choice.law = word;
      else if (FORMS.includes(word as Mistake) && word !== "none") choice.form = word as Mistake;
      else unknown.push(word);
    }
    const notice = byId("notice");
    notice.hidden = !unknown.length;
    notice.textContent = `The link says ${unknown.join(", ")}, which this page does not know; the rest of it is shown.`;
    this.choice = choice;
    this.begin();
  }

  private choose(changes: Partial<Choice>): void {
    this.choice = { ...this.choice, ...changes };
    const { setting, huber, law, form } = this.choice;
    history.replaceState(null, "", `#${[setting, huber ? "huber" : "l2", law, form].join(",")}`);
    if ("form" in changes) return this.show();
    this.begin();
    const changed = (Object.keys(ANEW) as (keyof typeof ANEW)[]).find((name) => name in changes)!;
    byId("said").textContent = `Samples are drawn anew: with ${ANEW[changed]} the truth has changed.`;
  }

  private begin(): void {
    const { setting, huber, law } = this.choice;
    this.problem = new LineProblem(SETTINGS[setting], huber ? HUBER_C : null, law);
    this.estimates = new Estimates(this.problem, new Random(1));
    while (this.estimates.count < 100) this.estimates.draw();
    byId("said").textContent = "";
    this.play(false);
  }

  private play(running: boolean): void {
    const started = running && !this.running;
    const all = this.estimates.count >= MOST;
    this.running = running && !all;
    const button = byId<HTMLButtonElement>("play");
    button.textContent = this.running ? "Pause" : "Draw samples";
    button.disabled = all;
    if (all) byId("said").textContent = "The page draws no more than these.";
    else if (this.running) byId("said").textContent = "";
    this.show();
    if (started) requestAnimationFrame(() => this.tick());
  }

  private tick(): void {
    if (!this.running) return;
    const until = performance.now() + BUDGET;
    // slowly at first, where each sample is seen
    const most = Math.max(8, this.estimates.count / 40);
    for (let n = 0; n < most && performance.now() < until && this.estimates.count < MOST; n++) this.estimates.draw();
    if (this.estimates.count >= MOST) return this.play(false);
    this.draw();
    requestAnimationFrame(() => this.tick());
  }

  private show(): void {
    const { setting, huber, law, form } = this.choice;
    byId<HTMLSelectElement>("setting").value = setting;
    byId<HTMLSelectElement>("distance").value = huber ? "huber" : "l2";
    byId<HTMLSelectElement>("law").value = law;
    byId<HTMLSelectElement>("form").value = form;
    byId("right-loss").innerHTML = lossOf("none", law);
    byId("compared-loss").innerHTML = lossOf(form, law);
    byId("compared").style.setProperty("--form", COLORS[form]);
    byId("compared-name").textContent = LABELS[form];
    this.draw();
  }

  private draw(): void {
    this.drawBars();
    this.drawErrors();
    // the table is read, so it is renewed a few times a second and at rest
    const now = performance.now();
    if (this.running && now - this.drawn < 250) return;
    this.drawn = now;
    this.fillTable();
  }

  private names(): string[] {
    const { maps } = this.problem;
    const of = (letter: string) => Array.from({ length: maps }, (_, k) => (maps > 1 ? `${letter}${"₁₂₃"[k]}` : letter));
    return [...of("m"), ...of("s")];
  }

  private fillTable(): void {
    const { estimates, choice } = this;
    const form = FORMS.indexOf(choice.form);
    const right = estimates.estimate(0);
    const wrong = estimates.estimate(form);
    const errors = estimates.standardErrors();
    const number = (value: number, digits = 4) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
    const row = (...cells: string[]) =>
      make("tr", {}, ...cells.map((cell, i) => (i ? make("td", {}, cell) : make("th", { scope: "row" }, cell))));
    byId("wrong-name").textContent = LABELS[choice.form];
    byId("numbers").replaceChildren(
      ...this.names().map((name, i) =>
        row(name, number(estimates.truth[i]!, 6), `${number(right[i]!)} ± ${errors[i]!.toFixed(4)}`, number(wrong[i]!))),
      row("distance from the truth", "", percent(relativeError(right, estimates.truth)), percent(relativeError(wrong, estimates.truth))),
    );
    byId("count").textContent = `${estimates.count.toLocaleString("en")} samples`;
    const said = FORMS.map((name, f) => `${LABELS[name]} ${percent(relativeError(estimates.estimate(f), estimates.truth))}`);
    byId("errors").setAttribute("aria-label", `Relative error against the number of samples, both logarithmic. Now: ${said.join(", ")}.`);
    byId("bars").setAttribute("aria-label", "The gradient in each parameter: true value, right and wrong estimate, as in the table.");
  }

  private drawBars(): void {
    const { ctx, width, height } = freshContext(byId("bars"));
    const { estimates, choice } = this;
    const right = estimates.estimate(0);
    const wrong = estimates.estimate(FORMS.indexOf(choice.form));
    const names = this.names();
    const axis = barAxis([...estimates.truth, ...right, ...wrong]);
    const [left, end, top, bottom] = [52, 8, 10, 24];
    const scale = (height - bottom - top) / (axis.high - axis.low);
    const y = (value: number) => top + scale * (axis.high - value);
    const slot = (width - left - end) / names.length;
    const ink = css("--ink");
    ctx.font = "12px system-ui, sans-serif";
    ctx.textAlign = "right";
    ctx.fillStyle = css("--soft");
    const labels = tickLabels(axis.ticks);
    axis.ticks.forEach((value, i) => {
      ctx.strokeStyle = css(value === 0 ? "--faint" : "--line");
      ctx.beginPath();
      ctx.moveTo(left, y(value));
      ctx.lineTo(width - end, y(value));
      ctx.stroke();
      ctx.fillText(labels[i]!, left - 6, y(value) + 4);
    });
    ctx.font = "14px system-ui, sans-serif";
    ctx.textAlign = "center";
    names.forEach((name, i) => {
      const x = left + slot * (i + 0.5);
      const bar = Math.min(26, slot / 3.2);
      ctx.fillStyle = COLORS.none;
      ctx.fillRect(x - bar - 1, Math.min(y(0), y(right[i]!)), bar, Math.abs(y(right[i]!) - y(0)));
      ctx.fillStyle = COLORS[choice.form];
      ctx.fillRect(x + 1, Math.min(y(0), y(wrong[i]!)), bar, Math.abs(y(wrong[i]!) - y(0)));
      ctx.strokeStyle = ink;
      ctx.lineWidth = 3;
      ctx.beginPath();
      ctx.moveTo(x - bar - 6, y(estimates.truth[i]!));
      ctx.lineTo(x + bar + 6, y(estimates.truth[i]!));
      ctx.stroke();
      ctx.lineWidth = 1;
      ctx.fillStyle = ink;
      ctx.fillText(name, x, height - 7);
    });
  }

  private drawErrors(): void {
    const { ctx, width, height } = freshContext(byId("errors"));
    const { estimates, choice } = this;
    const [left, right, top, bottom] = [62, 12, 10, 38];
    const [low, high] = [Math.log10(16), Math.log10(MOST)];
    const x = (count: number) => left + ((Math.log10(count) - low) / (high - low)) * (width - left - right);
    const bounded = (error: number) => Math.log10(Math.min(Math.max(error, SMALLEST_ERROR), LARGEST_ERROR));
    const [least, range] = [Math.log10(SMALLEST_ERROR), Math.log10(LARGEST_ERROR / SMALLEST_ERROR)];
    const y = (error: number) => height - bottom - ((bounded(error) - least) / range) * (height - bottom - top);
    ctx.strokeStyle = css("--line");
    ctx.fillStyle = css("--soft");
    ctx.font = "12px system-ui, sans-serif";
    ctx.strokeRect(left, top, width - left - right, height - bottom - top);
    ctx.textAlign = "center";
    for (const [count, text] of [[100, "100"], [10_000, "10,000"], [1_000_000, "1,000,000"]] as const) ctx.fillText(text, x(count), height - bottom + 16);
    ctx.fillText("samples", (left + width - right) / 2, height - 4);
    ctx.textAlign = "right";
    for (const error of [0.001, 0.01, 0.1, 1, 10, 100]) ctx.fillText(`${(100 * error).toLocaleString("en")}%`, left - 6, y(error) + 4);
    const stroke = (points: [number, number][], color: string, weight: number, dash: number[]) => {
      ctx.strokeStyle = color;
      ctx.lineWidth = weight;
      ctx.setLineDash(dash);
      ctx.beginPath();
      points.forEach(([count, error], i) => ctx[i ? "lineTo" : "moveTo"](x(count), y(error)));
      ctx.stroke();
      ctx.setLineDash([]);
    };
    ctx.globalAlpha = 1;
    FORMS.forEach((form, f) => {
      ctx.globalAlpha = form === "none" || form === choice.form ? 1 : 0.4;
      const points = estimates.errors[f]!.map((error, i): [number, number] => [estimates.counts[i]!, error]);
      stroke(points, COLORS[form], form === "none" || form === choice.form ? 2.6 : 1.4, DASHES[form]);
    });
    ctx.globalAlpha = 1;
    // what the law of large numbers promises: through the standard error at the last count, one over the root
    const errors = estimates.standardErrors();
    const size = Math.hypot(...errors) / Math.hypot(...estimates.truth) * Math.sqrt(estimates.count);
    stroke([[16, size / 4], [MOST, size / Math.sqrt(MOST)]], css("--faint"), 1.2, [2, 4]);
  }
}

/** The least axis of round numbers on which all bars stand whole, zero included. */
function barAxis(values: readonly number[]): { low: number; high: number; ticks: number[] } {
  const [least, most] = [Math.min(0, ...values), Math.max(0, ...values)];
  const [first = 0, second = 1] = ticks(least, most, 5);
  const step = second - first;
  const [low, high] = [Math.floor(least / step), Math.ceil(most / step)];
  return { low: low * step, high: high * step, ticks: Array.from({ length: high - low + 1 }, (_, i) => (low + i) * step) };
}

/** A loss in HTML, with what departs from Theorem 3.1 marked, and what the law adds. */
function lossOf(form: Mistake, law: Law): string {
  const marked = (what: Mistake, otherwise: string, text = `detach[${otherwise}]`) => (form === what ? `<mark>${text}</mark>` : otherwise);
  const [score, reference] = ["ψ", "ref"].map((name) => `s<sub>${name}</sub>(x<sub>t</sub>)`) as [string, string];
  const gap = `y = σ ( ${score} − ${marked("reference", reference)} )`;
  const added = law === "differentiated" ? " +\u00a0d(y)" : "";
  if (form === "d_alone") return `<span>ℒ = <mark>d(y)</mark>,</span> <span>${gap}</span>`;
  const noise = form === "conditional" ? " <mark><del>+ ε/σ</del></mark>" : " + ε/σ";
  const braces = marked("braces", `{ ${score}${noise} }`);
  return `<span>ℒ = −σ ${marked("slope", "d′(y)")} · ${braces}${added},</span> <span>${gap}</span>`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
}

export { Estimates, LineProblem, Random, relativeError, SETTINGS };

if (typeof document !== "undefined") new TheoremPage();
