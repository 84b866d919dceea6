/** The page: what is wished for, and what has been painted. The worker computes; see engine.ts. */

import { startEngine, type Scope } from "../client.ts";
import { byId, make, notice, showQuestion } from "../dom.ts";
import { colorOf, css, legendEntry, STYLES } from "../styles.ts";
import { drawChart, type Line } from "./chart.ts";
import { BACKGROUNDS, captionOf, COLOURS, following, readCaption, RELATIONS, SHAPES, SIZES, tidied, WORDS } from "./language.ts";
import { ASPECTS, type Aspect } from "./oracle.ts";
import { COLUMNS, keyOf, type Painted, type Painter, type Reply, type Request } from "./protocol.ts";
import { QUESTIONS, type Question } from "./questions.ts";
import { METHODS, type Data, type Method } from "./world.ts";

type Numbers = Record<"preference" | "gold" | "faithful" | "diversity" | "open_entropy", number>;
interface Run {
  seed: number;
  strengths: Record<string, Numbers>;
  runs: Record<string, Record<string, Numbers>>;
}
type Measured = { draws: number; start: Numbers } & Record<Method, Run>;

declare const PAINTERS: Data & { measured: Measured };
declare const paintersEngine: (self: Scope<Request, Reply>) => void;

const TITLES: Readonly<Record<Painter, readonly [string, string]>> = {
  reference: ["Reference", "the diffusion, 20 steps"],
  start: ["One step", "its student, no reward yet"],
  star: ["Diff-Instruct*", "rewarded, on the leash"],
  greedy: ["Reward alone", "rewarded, no leash"],
};
const PAINTER_NAMES = Object.keys(TITLES) as Painter[];
const WRONG: Readonly<Record<Aspect, string>> = {
  number: "the number of objects", colour: "a colour", shape: "a shape", size: "the size", background: "the background",
  relation: "who is where",
};
/** Milliseconds from the last letter to the first picture, and of one stop of a walk along the training. */
const PATIENCE = 250;
const PACE = 160;
/** Of the strength, at each such stop. */
const PUSH = 0.5;

const listed = (words: readonly string[]) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;
const signed = (value: number, digits: number) => value.toFixed(digits).replace("-", "−");
const mean = (values: readonly number[]) => values.reduce((sum, v) => sum + v, 0) / values.length;
const anyOf = (among: readonly unknown[]) => Math.floor(Math.random() * among.length);
/** Where something stands off, without taking it out of the keyboard's way. */
const turnOff = (button: Element, off: boolean) => button.setAttribute("aria-disabled", String(off));

class Studio {
  private readonly send: (request: Request) => void;
  private readonly measured = PAINTERS.measured;
  private readonly still = matchMedia("(prefers-reduced-motion: reduce)");
  private sentence = "";
  /** Whether the field is empty; the sentence is then the last that was in it. */
  private blank = false;
  /** What is said of the sentence. */
  private said = "";
  private seed = 0;
  private stop = 0;
  private strength = 1;
  private story = 0;
  private prediction: number | null = null;
  /** Whether the question has been answered on the page, too: from then on that stays. */
  private told = false;
  /** The farthest stop that has been seen since the question: the charts give no more away. */
  private seen = 0;
  /** Where a walk along the training ends; null where none goes on. */
  private aim: { stop: number; strength: number } | null = null;
  private stops: readonly number[] = [0];
  private ready = false;
  private pictures = new Map<string, Painted>();
  private shown = new Map<HTMLCanvasElement, Painted>();
  private typing = 0;
  private walking = 0;
  private chosen: { painter: Painter; column: number } | null = null;
  private readonly times: Record<"one" | "reference", number[]> = { one: [], reference: [] };

  constructor() {
    this.build();
    this.send = startEngine(paintersEngine, (reply) => this.receive(reply), (message) => notice(`The painters stopped: ${message}. Reload the page.`));
    this.send({ kind: "load", data: PAINTERS });
  }

  // ---------------------------------------------------------------------------------------------- the page's parts

  private build(): void {
    for (const painter of PAINTER_NAMES)
      byId(METHODS.includes(painter as Method) ? "after" : "before").append(this.row(painter));
    byId("stories").append(...QUESTIONS.map(({ title }, i) =>
      make("button", { type: "button", textContent: `${i + 1} ${title}`, onclick: () => this.ask(i + 1) })));
    byId("words").append(...WORDS.map((word) =>
      make("button", { type: "button", textContent: word, onclick: () => this.append(word) })));
    byId("shorter").onclick = () => this.put(tidied(this.field.value).split(" ").slice(0, -1).join(" "));
    byId("empty").onclick = () => this.put("");
    this.field.oninput = () => {
      clearTimeout(this.typing);
      this.typing = window.setTimeout(() => this.write(), PATIENCE);
      this.showWords();
    };
    byId("any").onclick = () => this.put(randomCaption());
    byId("noise").onclick = () => this.change({ seed: this.seed + 1 });
    const stop = byId<HTMLInputElement>("stop"), strength = byId<HTMLInputElement>("strength");
    stop.oninput = () => this.byHand({ stop: this.stops[Number(stop.value)]! });
    strength.oninput = () => this.byHand({ strength: Number(strength.value) });
    byId("walk").onclick = () => (this.aim ? this.byHand({}) : this.go());
    byId("legend").append(...METHODS.map((method) => legendEntry("", TITLES[method][0])));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
    new ResizeObserver(() => this.drawCharts()).observe(byId("gold"));
    window.addEventListener("hashchange", () => this.open());
  }

  private row(painter: Painter): HTMLElement {
    const [title, what] = TITLES[painter];
    const pictures = Array.from({ length: COLUMNS }, (_, column) =>
      make("button", {
        type: "button", className: "picture", disabled: true, ariaLabel: `${title}, noise ${column + 1}: not painted yet`,
        onclick: () => this.choose(painter, column),
      }, make("canvas", { width: 32, height: 32 }), make("span", { className: "mark" })));
    const row = make("section", { id: painter, className: "painter" },
      make("div", { className: "who" }, make("h2", { textContent: title }), make("p", { textContent: what }),
        make("p", { className: "numbers" })),
      make("div", { className: "pictures" }, ...pictures));
    row.setAttribute("aria-label", title);
    return row;
  }

  // ------------------------------------------------------------------------------------------------------- state

  /** The state that the address says, or the first question. */
  private open(): void {
    const said = new URLSearchParams(location.hash.slice(1));
    byId("notice").hidden = true;
    if (![...said].length) return this.ask(1);
    const [sentence, noise, step, times] = ["sentence", "noise", "step", "times"].map((key) => said.get(key));
    const problems: string[] = [...said.keys()].filter((key) => !["sentence", "noise", "step", "times"].includes(key));
    const number = (key: string, text: string | null | undefined, otherwise: number, fits: (value: number) => boolean) => {
      if (text === null || text === undefined) return otherwise;
      if (text !== "" && fits(Number(text))) return Number(text);
      problems.push(`${key}=${text}`);
      return otherwise;
    };
    this.begin(0);
    this.change({
      sentence: tidied(sentence ?? "") || QUESTIONS[0]!.sentence,
      seed: number("noise", noise, 0, (v) => Number.isInteger(v) && v >= 0 && v < 1e6),
      stop: number("step", step, 0, (v) => this.stops.includes(v)),
      strength: number("times", times, 1, (v) => v >= 0 && v <= 3),
    });
    if (problems.length) notice(`The link says ${listed(problems)}, which this page does not know; the rest of it is shown.`);
  }

  private ask(number: number): void {
    this.begin(number);
    this.change({ sentence: QUESTIONS[number - 1]!.sentence, stop: 0, strength: 1 });
  }

  private begin(story: number): void {
    Object.assign(this, { story, prediction: null, told: false, aim: null, seen: 0, blank: false });
  }

  private get field(): HTMLInputElement {
    return byId<HTMLInputElement>("sentence");
  }

  private put(text: string): void {
    this.field.value = text;
    this.write();
  }

  /** What stands in the field is the sentence; an empty field leaves the last one, of which nothing is shown. */
  private write(): void {
    clearTimeout(this.typing);
    const sentence = tidied(this.field.value);
    if (!sentence !== this.blank) this.forget();
    this.blank = !sentence;
    this.change(sentence ? { sentence } : {});
  }

  private append(word: string): void {
    const sentence = tidied(this.field.value);
    if (!following(sentence).has(word)) return;
    this.put(`${sentence} ${word}`.trim());
    // on a phone the words that may follow come first
    byId("words").parentElement!.scrollLeft = 0;
  }

  private change(changes: { sentence?: string; seed?: number; stop?: number; strength?: number }): void {
    const { sentence = this.sentence, seed = this.seed, stop = this.stop, strength = this.strength } = changes;
    if (sentence !== this.sentence) this.forget();
    if (sentence !== this.sentence || seed !== this.seed) this.pictures.clear();
    Object.assign(this, { sentence, seed, stop, strength, seen: Math.max(this.seen, stop) });
    if (!this.blank && tidied(this.field.value) !== sentence) this.field.value = sentence;
    if (this.ready) this.send({ kind: "wish", wish: { sentence, seed, stop, strength: stop ? strength : 1 } });
    const address = new URLSearchParams({ sentence, noise: String(seed), step: String(stop), times: String(strength) });
    history.replaceState(null, "", `#${address}`);
    this.show();
    this.walk();
  }

  /** A hand on a slider ends the walk. */
  private byHand(changes: { stop?: number; strength?: number }): void {
    this.aim = null;
    this.change(changes);
  }

  private predict(answer: number): void {
    this.prediction = answer;
    if (this.told) return this.showStory();
    byId("greedy").scrollIntoView({ block: "nearest", behavior: this.motion });
    if (this.blank) this.put(QUESTIONS[this.story - 1]!.sentence);
    this.go();
  }

  /** The sliders go on their own to where the question is answered; at once where motion is not wanted. */
  private go(): void {
    const { stop, strength } = QUESTIONS[this.story - 1]!;
    this.aim = { stop, strength };
    this.change(this.still.matches ? this.aim : {});
  }

  private get motion(): ScrollBehavior {
    return this.still.matches ? "instant" : "smooth";
  }

  private walk(): void {
    const { aim } = this;
    // pictures that come meanwhile must not put a step off
    if (!aim || !this.complete || this.walking) return;
    if (this.stop === aim.stop && this.strength === aim.strength) return;
    this.walking = window.setTimeout(() => {
      this.walking = 0;
      if (this.aim !== aim) return this.walk();
      const next = this.stops[this.stops.indexOf(this.stop) + 1];
      const further = this.stop < aim.stop && next !== undefined;
      const strength = Math.min(aim.strength, this.strength + PUSH);
      this.change(further ? { stop: next } : { strength });
    }, PACE);
  }

  // ----------------------------------------------------------------------------------------------------- pictures

  private receive(reply: Reply): void {
    if (reply.kind === "ready") {
      this.stops = reply.stops;
      this.ready = true;
      byId<HTMLInputElement>("stop").max = String(reply.stops.length - 1);
      byId("status").textContent = "";
      this.open();
    } else if (reply.kind === "failed") notice(`The painters stopped: ${reply.message}.`);
    else if (reply.kind === "remark") {
      if (reply.sentence !== this.sentence) return;
      this.said = reply.text;
      this.showWords();
    } else if (reply.sentence === this.sentence && reply.seed === this.seed) {
      this.time(reply);
      // a picture on its way is a motion
      if (reply.key === "reference" && reply.done < PAINTERS.steps && this.still.matches) return;
      this.pictures.set(`${reply.key} ${reply.column}`, reply);
      this.showPictures();
      this.showStory();
      this.walk();
    }
  }

  private time({ key, milliseconds, done }: Painted): void {
    if (key !== "reference") this.times.one.push(milliseconds);
    else if (done < PAINTERS.steps) this.times.reference.push(milliseconds);
    const middle = (values: number[]) => [...values.slice(-60)].sort((a, b) => a - b)[Math.min(30, values.length >> 1)]!;
    const { one, reference } = this.times;
    if (one.length + reference.length < 20) return;
    byId("status").textContent = `On this machine a picture in one step takes ${middle(one).toFixed(0)} ms` +
      `${reference.length > 6 ? `, a step of the reference with its picture ${middle(reference).toFixed(0)} ms` : ""}.`;
  }

  private of(painter: Painter): (Painted | undefined)[] {
    const key = keyOf(painter, this.stop, this.strength);
    return Array.from({ length: COLUMNS }, (_, column) => (this.blank ? undefined : this.pictures.get(`${key} ${column}`)));
  }

  /** Whether both trained painters have painted what is wished for. */
  private get complete(): boolean {
    return METHODS.every((method) => this.of(method).every(Boolean));
  }

  /** What was said of another sentence's pictures is said no longer. */
  private forget(): void {
    for (const painter of PAINTER_NAMES) {
      byId(painter).querySelector(".numbers")!.replaceChildren();
      byId(painter).querySelectorAll(".picture").forEach((button, column) => {
        button.classList.remove("wrong");
        button.querySelector(".mark")!.textContent = "";
        button.setAttribute("aria-label", `${TITLES[painter][0]}, noise ${column + 1}: not painted yet`);
      });
    }
    this.shown.clear();
    if (this.chosen) byId("detail").textContent = "";
  }

  private showPictures(): void {
    for (const painter of PAINTER_NAMES) {
      const row = byId(painter);
      const found = this.of(painter);
      row.querySelectorAll<HTMLButtonElement>(".picture").forEach((button, column) =>
        this.showPicture(painter, column, button, found[column]));
      const judged = found.flatMap((one) => one?.judgement ?? []);
      const whole = judged.length === COLUMNS;
      const right = judged.filter(({ verdict }) => verdict.all).length;
      const numbers = row.querySelector(".numbers")!;
      const done = Math.min(...found.map((one) => one?.done ?? 0));
      let said: string[];
      if (this.blank) said = [];
      else if (whole)
        said = [
          `reward ${signed(mean(judged.map(({ proxy }) => proxy)), 1)}`, `true ${signed(mean(judged.map(({ gold }) => gold)), 2)}`,
          `${right} of ${COLUMNS} as written`,
        ];
      else if (painter === "reference" && done < PAINTERS.steps)
        said = [this.still.matches ? "being painted" : `step ${done} of ${PAINTERS.steps}`];
      // what is painted in one step keeps its last numbers for a moment
      else if (readCaption(this.sentence)) continue;
      else said = ["not judged"];
      if (numbers.textContent !== said.join("")) numbers.replaceChildren(...said.map((text) => make("span", { textContent: text })));
    }
    this.showDetail();
  }

  private showPicture(painter: Painter, column: number, button: HTMLButtonElement, found: Painted | undefined): void {
    const canvas = button.querySelector("canvas")!;
    button.classList.toggle("stale", !found);
    if (!found || this.shown.get(canvas) === found) return;
    this.shown.set(canvas, found);
    button.disabled = false;
    canvas.getContext("2d")!.putImageData(new ImageData(found.pixels, 32, 32), 0, 0);
    const { judgement } = found;
    const mark = button.querySelector(".mark")!;
    mark.textContent = judgement ? (judgement.verdict.all ? "✓" : "✗") : "";
    button.classList.toggle("wrong", judgement !== null && !judgement.verdict.all);
    button.setAttribute("aria-label", this.described(painter, column, found));
  }

  private described(painter: Painter, column: number, { judgement }: Painted): string {
    const name = `${TITLES[painter][0]}, noise ${column + 1}`;
    if (!judgement) return `${name}: not judged`;
    const { verdict, gold, proxy } = judgement;
    const wrong = ASPECTS.filter((aspect) => !verdict[aspect]).map((aspect) => WRONG[aspect]);
    const said = wrong.length ? `${listed(wrong)} ${wrong.length > 1 ? "are" : "is"} not as written` : "all is as written";
    return `${name}: ${said}; reward ${signed(proxy, 1)}, true preference ${signed(gold, 2)}`;
  }

  private choose(painter: Painter, column: number): void {
    this.chosen = { painter, column };
    this.showDetail();
  }

  private showDetail(): void {
    const { chosen } = this;
    document.querySelectorAll<HTMLElement>(".picture").forEach((button) => {
      const own = chosen && button.parentElement!.parentElement!.id === chosen.painter &&
        [...button.parentElement!.children].indexOf(button) === chosen.column;
      button.setAttribute("aria-pressed", String(Boolean(own)));
    });
    if (!chosen) return;
    const found = this.of(chosen.painter)[chosen.column];
    const text = found ? `${this.described(chosen.painter, chosen.column, found)}.` : "";
    if (text && byId("detail").textContent !== text) byId("detail").textContent = text;
  }

  // --------------------------------------------------------------------------------------------------- everything

  private show(): void {
    const stop = byId<HTMLInputElement>("stop"), strength = byId<HTMLInputElement>("strength");
    const text = this.stop ? `step ${this.stop} of ${this.stops[this.stops.length - 1]}` : "not yet";
    stop.value = String(this.stops.indexOf(this.stop));
    stop.setAttribute("aria-valuetext", text);
    byId("stop-value").textContent = text;
    strength.value = String(this.strength);
    strength.disabled = this.stop === 0;
    const times = `× ${this.strength}${this.strength === 1 ? "" : ", no run"}`;
    strength.setAttribute("aria-valuetext", times);
    byId("strength-value").textContent = times;
    for (const painter of PAINTER_NAMES) byId(painter).style.setProperty("--method", this.color(painter));
    byId("legend").querySelectorAll<HTMLElement>(".swatch").forEach((swatch, i) => (swatch.style.background = this.color(METHODS[i]!)));
    this.showPictures();
    this.showWords();
    this.showStory();
    this.drawCharts();
  }

  /** Which words may follow what stands in the field, and what is to be said of it. */
  private showWords(): void {
    const sentence = tidied(this.field.value);
    const next = following(sentence);
    byId("words").childNodes.forEach((button) => turnOff(button as Element, !next.has(button.textContent!)));
    for (const id of ["shorter", "empty"]) turnOff(byId(id), !sentence);
    const remark = this.blank ? "Nothing to paint: write a sentence, or begin with the word “a”." : this.said;
    if (byId("remark").textContent !== remark) byId("remark").textContent = remark;
  }

  private color(painter: Painter): string {
    if (painter === "reference") return css("--regularizer");
    return painter === "start" ? css("--faint") : colorOf(STYLES[painter === "star" ? "star" : "reward-only"]);
  }

  private drawCharts(): void {
    const own = this.strength === 1;
    for (const metric of ["preference", "gold"] as const) {
      const lines: Line[] = METHODS.flatMap((method) =>
        Object.entries(this.measured[method].runs).map(([seed, stops]) => ({
          style: STYLES[method === "star" ? "star" : "reward-only"], color: this.color(method),
          shipped: Number(seed) === this.measured[method].seed,
          values: [[0, this.measured.start[metric]], ...Object.entries(stops).map(([step, found]) => [Number(step), found[metric]])] as
            [number, number][],
        })));
      const canvas = byId<HTMLCanvasElement>(metric);
      drawChart(canvas, lines, this.seen, own ? this.stop : null);
      const ends = METHODS.map((method) => `${TITLES[method][0]} ${this.measuredAt(method)[metric].toFixed(2)}`);
      canvas.setAttribute("aria-label", `${metric === "gold" ? "The true preference" : "The reward"} against steps of training, ` +
        `three runs each; at step ${this.stop}: ${ends.join(", ")}`);
    }
    byId("measured").textContent = `Means over ${this.measured.draws} pictures of held-out sentences. ` + (own
      ? METHODS.map((method) => `${TITLES[method][0]}: ${Math.round(100 * this.measuredAt(method).faithful)} % as written.`).join(" ")
      : "Nothing marks where you are: no run ends there.");
  }

  private measuredAt(method: Method): Numbers {
    const { runs, seed } = this.measured[method];
    return runs[String(seed)]![String(this.stop)] ?? this.measured.start;
  }

  private showStory(): void {
    const story = QUESTIONS[this.story - 1];
    showQuestion(this.story, story, this.prediction, (i) => this.predict(i));
    if (!story) return;
    const { prediction } = this;
    const verdict = byId("verdict");
    const there = this.stop === story.stop && this.strength === story.strength;
    const news = prediction !== null && !this.told && there && this.complete;
    if (news) Object.assign(this, { told: true, aim: null });
    const text = this.told ? `${prediction === story.right ? "As you said." : "Not as you said."} ${story.tell}` : "";
    if (verdict.textContent !== text) verdict.textContent = text;
    verdict.hidden = !this.told;
    byId("waiting").hidden = prediction === null || this.told;
    if (!byId("waiting").hidden) this.showWay(story);
    // whoever writes is not taken away from the field
    if (news && document.activeElement !== this.field) verdict.scrollIntoView({ block: "nearest", behavior: this.motion });
  }

  /** How far it is to the answer. */
  private showWay({ stop, strength }: Question): void {
    const place = (step: number, times: number) => `step ${step}${strength === 1 ? "" : `, × ${times}`}`;
    byId("where").textContent = `The answer comes at ${place(stop, strength)}; this is ${place(this.stop, this.strength)}.`;
    byId("walk").textContent = this.aim ? "Pause" : "Continue";
    const way = byId<HTMLProgressElement>("way");
    const painted = METHODS.flatMap((method) => this.of(method)).filter(Boolean).length / (METHODS.length * COLUMNS);
    way.max = this.stops.indexOf(stop) + Math.abs(strength - 1) / PUSH + 1;
    way.value = way.max - 1 - (this.stops.indexOf(stop) - this.stops.indexOf(this.stop)) - Math.abs(strength - this.strength) / PUSH + painted;
  }
}

function randomCaption(): string {
  const thing = () => ({ colour: anyOf(COLOURS), shape: anyOf(SHAPES) });
  /** One of them, or nothing. */
  const open = (among: readonly string[]) => [null, ...among.keys()][anyOf([null, ...among])]!;
  const two = Math.random() < 0.6;
  return captionOf({
    things: two ? [thing(), thing()] : [thing()], size: two ? null : open(SIZES), relation: two ? anyOf(RELATIONS) : null,
    background: open(BACKGROUNDS),
  });
}

if (typeof document !== "undefined") {
  if (typeof PAINTERS === "undefined") {
    notice("weights.js is not beside this page; `make site` writes it, as does `python -m tools.painters_data docs/web/weights.js`.");
    byId("status").textContent = "";
  } else new Studio();
}
