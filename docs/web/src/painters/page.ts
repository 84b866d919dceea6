/** The page: what is wished for, and what has been painted. The worker computes; see engine.ts. */

import { startEngine, type Scope } from "../client.ts";
import { byId, make, notice, showQuestion } from "../dom.ts";
import { colorOf, css, legendEntry, STYLES } from "../styles.ts";
import { drawChart, type Line } from "./chart.ts";
import { BACKGROUNDS, COLOURS, readCaption, RELATIONS, SHAPES, SIZES, tidied, WORDS } from "./language.ts";
import { ASPECTS, type Aspect } from "./oracle.ts";
import { COLUMNS, keyOf, type Painted, type Painter, type Reply, type Request } from "./protocol.ts";
import { QUESTIONS } from "./questions.ts";
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

const listed = (words: readonly string[]) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;
const signed = (value: number, digits: number) => value.toFixed(digits).replace("-", "−");
const mean = (values: readonly number[]) => values.reduce((sum, v) => sum + v, 0) / values.length;
const any = <T>(among: readonly T[]): T => among[Math.floor(Math.random() * among.length)]!;

class Studio {
  private readonly send: (request: Request) => void;
  private readonly measured = PAINTERS.measured;
  private readonly still = matchMedia("(prefers-reduced-motion: reduce)");
  private sentence = "";
  private seed = 0;
  private stop = 0;
  private strength = 1;
  private story = 0;
  private prediction: number | null = null;
  /** The farthest stop that has been seen since the question: the charts give no more away. */
  private seen = 0;
  /** Where a walk along the training ends. */
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
    const input = byId<HTMLInputElement>("sentence");
    input.oninput = () => {
      clearTimeout(this.typing);
      this.typing = window.setTimeout(() => this.write(input.value), PATIENCE);
    };
    byId("any").onclick = () => this.write(randomCaption(), true);
    byId("noise").onclick = () => this.change({ seed: this.seed + 1 });
    const stop = byId<HTMLInputElement>("stop"), strength = byId<HTMLInputElement>("strength");
    stop.oninput = () => this.change({ stop: this.stops[Number(stop.value)]! });
    strength.oninput = () => this.change({ strength: Number(strength.value) });
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
    this.story = 0;
    this.prediction = null;
    this.seen = 0;
    this.sentence = "";
    this.change({
      sentence: tidied(sentence ?? "") || QUESTIONS[0]!.sentence,
      seed: number("noise", noise, 0, (v) => Number.isInteger(v) && v >= 0 && v < 1e6),
      stop: number("step", step, 0, (v) => this.stops.includes(v)),
      strength: number("times", times, 1, (v) => v >= 0 && v <= 3),
    });
    if (problems.length) notice(`The link says ${listed(problems)}, which this page does not know; the rest of it is shown.`);
  }

  private ask(number: number): void {
    this.story = number;
    this.prediction = null;
    this.seen = 0;
    this.change({ sentence: QUESTIONS[number - 1]!.sentence, stop: 0, strength: 1 });
  }

  private write(text: string, clear = false): void {
    const sentence = tidied(text);
    if (!sentence) return;
    if (clear) byId<HTMLInputElement>("sentence").value = sentence;
    this.change({ sentence });
  }

  private append(word: string): void {
    const input = byId<HTMLInputElement>("sentence");
    input.value = `${input.value.trim()} ${word}`.trim();
    this.write(input.value);
  }

  private change(changes: { sentence?: string; seed?: number; stop?: number; strength?: number }, walking = false): void {
    const { sentence = this.sentence, seed = this.seed, stop = this.stop, strength = this.strength } = changes;
    if (sentence !== this.sentence || seed !== this.seed) this.pictures.clear();
    if (!walking) this.aim = null;
    Object.assign(this, { sentence, seed, stop, strength, seen: Math.max(this.seen, stop) });
    const input = byId<HTMLInputElement>("sentence");
    if (tidied(input.value) !== sentence) input.value = sentence;
    if (this.ready) this.send({ kind: "wish", wish: { sentence, seed, stop, strength: stop ? strength : 1 } });
    const address = new URLSearchParams({ sentence, noise: String(seed), step: String(stop), times: String(strength) });
    history.replaceState(null, "", `#${address}`);
    this.show();
  }

  /** After a prediction the sliders go on their own; at once where motion is not wanted. */
  private predict(answer: number): void {
    const { stop, strength, sentence } = QUESTIONS[this.story - 1]!;
    this.prediction = answer;
    const there = this.stop === stop && this.strength === strength && this.sentence === sentence;
    byId("greedy").scrollIntoView({ block: "nearest", behavior: this.motion });
    if (this.still.matches || there) {
      this.change({ sentence, stop, strength });
      this.aim = { stop, strength };
    } else {
      this.change({ sentence });
      this.aim = { stop, strength };
      this.walk();
    }
    this.showStory();
  }

  private get motion(): ScrollBehavior {
    return this.still.matches ? "instant" : "smooth";
  }

  private walk(): void {
    const { aim } = this;
    // pictures that come meanwhile must not put a step off
    if (!aim || !this.complete || this.walking) return;
    if (this.stop === aim.stop && this.strength === aim.strength) return this.showStory();
    this.walking = window.setTimeout(() => {
      this.walking = 0;
      if (this.aim !== aim) return this.walk();
      const next = this.stops[this.stops.indexOf(this.stop) + 1];
      const further = this.stop < aim.stop && next !== undefined;
      const strength = Math.min(aim.strength, this.strength + 0.5);
      this.change(further ? { stop: next } : { strength }, true);
      this.walk();
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
      if (reply.sentence === this.sentence) byId("remark").textContent = reply.text;
    } else if (reply.sentence === this.sentence && reply.seed === this.seed) {
      this.time(reply);
      // a picture on its way is a motion
      if (reply.key === "reference" && reply.done < PAINTERS.steps && this.still.matches) return;
      this.pictures.set(`${reply.key} ${reply.column}`, reply);
      this.showPictures();
      if (this.aim) this.walk();
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
    return Array.from({ length: COLUMNS }, (_, column) => this.pictures.get(`${key} ${column}`));
  }

  /** Whether both trained painters have painted what is wished for. */
  private get complete(): boolean {
    return METHODS.every((method) => this.of(method).every(Boolean));
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
      if (whole)
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
    this.showStory();
    this.drawCharts();
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
    const verdict = byId("verdict");
    const there = this.stop === story.stop && this.strength === story.strength;
    const over = this.prediction !== null && this.aim !== null && there && this.complete;
    if (!over && this.prediction !== null && !verdict.hidden) return;
    const news = over && verdict.hidden;
    verdict.hidden = !over;
    if (over) verdict.textContent = `${this.prediction === story.right ? "As you said." : "Not as you said."} ${story.tell}`;
    if (news) verdict.scrollIntoView({ block: "nearest", behavior: this.motion });
  }
}

function randomCaption(): string {
  const thing = () => `${any(COLOURS)} ${any(SHAPES)}`;
  const two = Math.random() < 0.6;
  const size = two ? "" : any(["", ...SIZES.map((word) => `${word} `)]);
  const place = any(["", ...BACKGROUNDS.map((word) => ` on a ${word} background`)]);
  return `a ${size}${thing()}${two ? ` ${any(RELATIONS)} a ${thing()}` : ""}${place}`;
}

if (typeof document !== "undefined") {
  if (typeof PAINTERS === "undefined") {
    notice("weights.js is not beside this page; `make site` writes it, as does `python -m tools.painters_data docs/web/weights.js`.");
    byId("status").textContent = "";
  } else new Studio();
}
