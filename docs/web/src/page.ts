/** The page: what is set, when a frame is asked for, and who draws it. The worker computes; see engine.ts. */

import { startEngine, type Scope } from "./client.ts";
import { byId, make, notice, showQuestion, slider } from "./dom.ts";
import { alongTilt, drawFrontier, shownLines } from "./frontier.ts";
import { PanelView } from "./panel.ts";
import type { Bump } from "./reward.ts";
import type { Reply, Request } from "./protocol.ts";
import { HALF, type Frame, type Probe } from "./session.ts";
import {
  AddressError, BUMP_WIDTH, DEFAULT_LOOK, HORIZON, MOST_BUMPS, PARTS, readAddress, rewardOf, sameRun, writeAddress, type Axis,
  type Look, type Plan, type Settings, type Side,
} from "./state.ts";
import { STORIES } from "./stories.ts";
import { lineEntry, STYLES } from "./styles.ts";

declare const leashEngine: (self: Scope<Request, Reply>) => void;

/** Steps between two frames: slow enough to watch, and to leave time for drawing. */
const PACE = 4;
const BUDGET = 12;
/** Milliseconds for a frame that take longer than the screen's own. */
const SLOW = 14;
// on the way to a link's step, and where motion is not wanted, there is nothing to watch
const UNWATCHED = { steps: 1e9, budget: 90 };

class Page {
  private readonly send: (request: Request) => void;
  private readonly views: readonly [PanelView, PanelView];
  private readonly still = matchMedia("(prefers-reduced-motion: reduce)");
  private settings!: Settings;
  private look: Look = DEFAULT_LOOK;
  private story = 0;
  /** Whether the run has been changed on its way, or taken beyond its end. */
  private changed = false;
  private prediction: number | null = null;
  private frame: Frame | null = null;
  private session = 0;
  private running = false;
  private asked = false;
  private askedAt = 0;
  /** A drawing is due at the screen's next frame; whether nothing moves after it. */
  private scheduled = false;
  private settled = false;
  private stale = false;
  private probe: Probe | null = null;
  private painting = false;
  private brush = false;

  constructor() {
    this.send = startEngine(
      leashEngine,
      (frame) => this.receive(frame),
      (message) => notice(`The computation stopped: ${message}. Reload the page.`),
    );
    const view = (index: 0 | 1, name: "left" | "right") =>
      new PanelView(byId(name), name, (side) => this.setSide(index, side));
    this.views = [view(0, "left"), view(1, "right")];
    this.bindControls();
    this.views.forEach(({ canvas }, index) => this.bindPlane(canvas, index));
    new ResizeObserver(() => this.refresh()).observe(this.views[0].canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.showControls();
      this.refresh();
    });
    window.addEventListener("hashchange", () => this.open());
    this.open();
  }

  // ---------------------------------------------------------------------------------------------- state

  /** The state that the address says, or the first question. */
  private open(): void {
    byId("notice").hidden = true;
    try {
      if (location.hash.length < 2) return this.tellStory(1);
      const { plan, look, story } = readAddress(location.hash);
      this.look = look;
      this.begin(plan, story);
    } catch (error) {
      if (!(error instanceof AddressError)) throw error;
      notice(`${error.message}. The first question is shown instead.`);
      this.tellStory(1);
    }
  }

  private begin(plan: Plan, story: number): void {
    this.settings = plan.changes[plan.changes.length - 1]?.settings ?? plan.start;
    this.story = story;
    this.changed = plan.changes.length > 0;
    this.prediction = null;
    this.running = false;
    this.frame = null;
    this.send({ kind: "start", plan, session: ++this.session });
    this.showControls();
    this.refresh();
  }

  private restart(settings: Settings, running: boolean): void {
    const { prediction } = this;
    this.begin({ start: settings, changes: [], at: 0 }, this.story);
    this.prediction = prediction;
    this.running = running;
    this.showControls();
  }

  private tellStory(number: number): void {
    const story = STORIES[number - 1]!;
    this.look = { ...DEFAULT_LOOK, axis: story.axis };
    this.begin({ start: story.settings, changes: [], at: 0 }, number);
    this.writeLink(0);
  }

  private change(changes: Partial<Settings>): void {
    const before = this.settings;
    const settings = (this.settings = { ...before, ...changes });
    const otherStart =
      settings.maps !== before.maps || settings.sides.some((side, i) => side.name !== before.sides[i]!.name);
    if (otherStart || !this.frame || this.frame.step === 0) return this.restart(settings, this.running);
    // what had come to its end goes on from there, as somebody who moves a slider wants to see it act
    if (this.frame.over && !this.still.matches) this.running = true;
    this.changed = true;
    this.send({ kind: "change", settings, paused: !this.running });
    this.showControls();
    this.refresh();
  }

  private setSide(index: 0 | 1, side: Side): void {
    const [left, right] = this.settings.sides;
    this.change({ sides: index ? [left, side] : [side, right] });
  }

  private setLook(changes: Partial<Look>): void {
    this.look = { ...this.look, ...changes };
    this.showControls();
    this.refresh();
  }

  private play(): void {
    byId("said").textContent = "";
    if (this.frame?.over) {
      this.changed = true;
      this.send({ kind: "change", settings: this.settings, paused: true });
    }
    this.running = true;
    this.showControls();
    this.refresh();
  }

  private pause(): void {
    this.running = false;
    this.showControls();
    this.refresh();
  }

  private writeLink(at: number): string {
    const plan = this.frame?.plan ?? { start: this.settings, changes: [], at };
    const hash = writeAddress({ plan, look: this.look, story: this.left ? 0 : this.story });
    history.replaceState(null, "", `#${hash}`);
    return location.href;
  }

  // ---------------------------------------------------------------------------------------------- frames

  private get animated(): boolean {
    return this.running && !this.still.matches;
  }

  /** Asks for a frame, or, where one is on its way, for another one after it. */
  private refresh(): void {
    this.stale = true;
    if (this.asked) return;
    this.asked = true;
    this.askedAt = performance.now();
    this.stale = false;
    const behind = this.frame === null || this.frame.behind;
    const pace = this.animated && !behind ? { steps: PACE, budget: BUDGET } : UNWATCHED;
    const steps = this.running || behind ? pace.steps : 0;
    // the first frame of a run that is at its step shows that step
    const first = this.frame === null;
    this.send({
      kind: "frame", ...pace, steps: first ? 0 : steps, look: this.look, probe: this.probe, eased: this.animated,
    });
  }

  private receive(frame: Frame): void {
    this.asked = false;
    // a frame of a session that has been replaced meanwhile
    if (frame.session !== this.session) return this.refresh();
    this.frame = frame;
    const slow = performance.now() - this.askedAt > SLOW;
    const settled = !this.running && !frame.behind;
    if (frame.over) this.running = false;
    const next = () => {
      if (this.running || this.frame?.behind || this.stale) this.refresh();
    };
    // a slow worker starts on the next frame at once, a fast one waits for the screen
    const waiting = this.scheduled;
    if (slow && !waiting) next();
    this.settled = settled || frame.over;
    if (waiting) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      // a session may have been started since
      if (!this.frame) return;
      next();
      this.draw(this.frame);
      if (this.settled) this.rest(this.frame);
    });
  }

  private draw(frame: Frame): void {
    const { settings, look } = this;
    if (frame.behind) {
      byId("status").textContent = `catching up with the link: step ${frame.step}`;
      return;
    }
    const since = frame.end - HORIZON;
    byId("status").textContent = frame.over
      ? `step ${frame.step}: the learning rate has fallen to zero`
      : `step ${frame.step} of ${frame.end}${since ? `, the rate anew since ${since}` : ""}`;
    this.showPlay();
    if (this.running && this.still.matches) return;
    frame.sides.forEach((one, i) => {
      const view = this.views[i]!;
      view.plane.draw(one, STYLES[settings.sides[i]!.name], rewardOf(settings), this.probe?.side === i ? this.probe : null);
      view.report(one.summary);
    });
    drawFrontier(byId("frontier"), settings, frame.sides, look.axis);
  }

  /** What is done only when nothing moves. */
  private rest(frame: Frame): void {
    this.views.forEach((view, i) => view.describe(frame.sides[i]!.summary));
    const ends = frame.sides.map((one, i) => {
      const { reward, [this.look.axis]: lost } = one.summary;
      return `${i ? "right" : "left"} at mean reward ${reward.toFixed(2)} and ${lost.toFixed(2)}`;
    });
    byId("frontier").setAttribute(
      "aria-label",
      `Mean reward against ${byId<HTMLSelectElement>("axis").selectedOptions[0]!.text}, with the lines on which methods come to ` +
        `rest: ${ends.join(", ")}.`,
    );
    this.writeLink(frame.step);
    this.showVerdict(frame);
  }

  // ---------------------------------------------------------------------------------------------- controls

  private showControls(): void {
    const { settings, look } = this;
    for (const view of this.views) view.show(settings);
    byId<HTMLSelectElement>("reward").value = settings.reward;
    byId<HTMLSelectElement>("axis").value = look.axis;
    for (const { show, value } of this.sliders) show(value());
    byId<HTMLInputElement>("mass").checked = settings.weightsLearn;
    for (const part of PARTS) byId<HTMLInputElement>(part).checked = look[part];
    byId("paint").setAttribute("aria-pressed", String(this.painting));
    byId("wipe").hidden = settings.reward !== "painted" || !settings.bumps.length;
    for (const view of this.views) view.canvas.classList.toggle("painting", this.painting);
    const lines = shownLines(settings);
    byId("legend").replaceChildren(
      ...(lines.length ? lines.map(({ color, stroke, label }) => lineEntry(color, stroke, label)) : ["No lines are known for this reward."]));
    const along = alongTilt(settings, look.axis);
    byId("along").textContent = along.length ? `Along the tilted optimum, so that they cover each other: ${along.join("; ")}. ` : "";
    this.showPlay();
    this.showStory();
  }

  private showPlay(): void {
    const text = this.running ? "Pause" : this.frame?.over ? "Continue" : "Play";
    const button = byId("play");
    if (button.textContent !== text) button.textContent = text;
  }

  private showStory(): void {
    const { left } = this;
    const answer = (i: number) => {
      this.prediction = i;
      this.showControls();
      if (!this.frame?.over) this.play();
      else this.showVerdict(this.frame);
    };
    showQuestion(this.story, STORIES[this.story - 1], this.prediction, answer, left);
    byId("left-question").hidden = !left;
    if (left || !this.frame?.over) byId("verdict").hidden = true;
  }

  /** Whether the run is no longer the one that the question is about. */
  private get left(): boolean {
    const story = STORIES[this.story - 1];
    return story !== undefined && (this.changed || !sameRun(this.settings, story.settings));
  }

  private showVerdict(frame: Frame): void {
    const story = STORIES[this.story - 1];
    const verdict = byId("verdict");
    verdict.hidden = !story || !frame.over || this.left;
    if (!story || verdict.hidden) return;
    const said = this.prediction === null ? "" : this.prediction === story.right ? "As you said. " : "Not as you said. ";
    const text = said + story.tell;
    if (verdict.textContent !== text) verdict.textContent = text;
  }

  private sliders: { show(value: number): void; value(): number }[] = [];

  private bindControls(): void {
    byId("stories").append(
      ...STORIES.map(({ title }, i) =>
        make("button", { type: "button", textContent: `${i + 1} ${title}`, onclick: () => this.tellStory(i + 1) })),
    );
    byId("play").onclick = () => (this.running ? this.pause() : this.play());
    byId("again").onclick = () => this.restart(this.settings, !this.still.matches);
    byId("link").onclick = () => void this.copyLink();
    const bind = (id: "noise" | "rate" | "maps", log: boolean, text: (value: number) => string, moved: (value: number) => void) => {
      const { show } = slider(byId(id), byId(`${id}-value`), log, text, moved);
      this.sliders.push({ show, value: () => (id === "noise" ? this.look.noise : this.settings[id]) });
    };
    bind("noise", false, (v) => (v ? `σ = ${v.toFixed(2)}` : "none"), (noise) => this.setLook({ noise }));
    bind("rate", true, (v) => String(Number(v.toPrecision(2))), (rate) => this.change({ rate }));
    bind("maps", false, String, (maps) => this.change({ maps }));
    const select = (id: string, chosen: (value: string) => void) => {
      const element = byId<HTMLSelectElement>(id);
      element.onchange = () => chosen(element.value);
    };
    select("reward", (reward) => this.change({ reward: reward as Settings["reward"] }));
    select("axis", (axis) => this.setLook({ axis: axis as Axis }));
    const check = (id: string, changed: (checked: boolean) => void) => {
      const element = byId<HTMLInputElement>(id);
      element.onchange = () => changed(element.checked);
    };
    check("mass", (weightsLearn) => this.change({ weightsLearn }));
    for (const part of PARTS) check(part, (checked) => this.setLook({ [part]: checked }));
    byId("paint").onclick = () => {
      this.painting = !this.painting;
      this.showControls();
    };
    byId("wipe").onclick = () => this.change({ bumps: [] });
  }

  private async copyLink(): Promise<void> {
    this.running = false;
    this.showControls();
    const link = this.writeLink(this.frame?.step ?? 0);
    const said = byId("said");
    try {
      await navigator.clipboard.writeText(link);
      said.textContent = "Copied: the link shows this very step.";
    } catch {
      said.textContent = "The address bar has the link: it shows this very step.";
    }
  }

  // ---------------------------------------------------------------------------------------------- planes

  private bindPlane(canvas: HTMLCanvasElement, side: number): void {
    const half = () => this.frame?.sides[side]!.half ?? HALF;
    const place = (event: PointerEvent): Probe => {
      const box = canvas.getBoundingClientRect();
      return {
        side,
        x: (((event.clientX - box.left) / box.width) * 2 - 1) * half(),
        y: (1 - ((event.clientY - box.top) / box.height) * 2) * half(),
      };
    };
    const point = (probe: Probe | null) => {
      this.probe = probe;
      if (!this.running) this.refresh();
    };
    canvas.onpointerdown = (event) => {
      point(place(event));
      if (!this.painting) return;
      this.brush = true;
      canvas.setPointerCapture(event.pointerId);
      this.dab(place(event));
    };
    canvas.onpointermove = (event) => {
      point(place(event));
      if (this.brush) this.dab(place(event));
    };
    canvas.onpointerup = canvas.onpointercancel = () => {
      if (this.brush) this.change({ reward: "painted", bumps: this.settings.bumps });
      this.brush = false;
    };
    canvas.onpointerleave = (event) => {
      if (event.pointerType === "mouse") point(null);
    };
    canvas.onblur = () => point(null);
    canvas.onkeydown = (event) => {
      const at = this.probe?.side === side ? this.probe : { side, x: 0, y: 0 };
      const move = half() / 20;
      const moves: Record<string, [number, number]> = {
        ArrowLeft: [-move, 0], ArrowRight: [move, 0], ArrowUp: [0, move], ArrowDown: [0, -move],
      };
      const step = moves[event.key];
      if (step) {
        event.preventDefault();
        point({ side, x: at.x + step[0], y: at.y + step[1] });
      } else if (event.key === "Escape") point(null);
      else if (event.key === "Enter" && this.painting) {
        this.dab(at);
        this.change({ reward: "painted", bumps: this.settings.bumps });
      }
    };
  }

  /** Paints at a place: a bump, or more of the one that is there. The run hears of it at the end of the stroke. */
  private dab({ x, y }: Probe): void {
    const bumps: Bump[] = this.settings.reward === "painted" ? [...this.settings.bumps] : [];
    const near = bumps.findIndex((bump) => (bump.x - x) ** 2 + (bump.y - y) ** 2 < 0.2);
    const round = (value: number) => Number(value.toFixed(2));
    if (near >= 0) bumps[near] = { ...bumps[near]!, height: round(Math.min(1, bumps[near]!.height + 0.08)) };
    else if (bumps.length < MOST_BUMPS) bumps.push({ x: round(x), y: round(y), width: BUMP_WIDTH, height: 0.35 });
    this.settings = { ...this.settings, reward: "painted", bumps };
    if (this.frame && !this.running) this.draw(this.frame);
  }
}

if (typeof document !== "undefined") new Page();
