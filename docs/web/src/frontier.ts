/** Mean reward against what is lost for it: the known lines, and the ways of both runs towards them. */

import { knownAt, lineOf, type KnownPoint } from "./known.ts";
import { knownLine } from "./method.ts";
import type { SideFrame } from "./session.ts";
import type { Axis, Settings } from "./state.ts";
import { colorOf, css, drawMarker, freshContext, STYLES, TILT, type Stroke, type Style } from "./styles.ts";
import { tickLabels, ticks } from "./ticks.ts";

const AXES: Record<Axis, { label: string; low: number; high: number }> = {
  kl: { label: "KL to the reference, nats", low: 0, high: 3.4 },
  modes: { label: "effective modes, of 8", low: 0.8, high: 8.2 },
  spread: { label: "spread of the fullest mode", low: 0, high: 0.3 },
};
const REWARD_RANGE: Record<Settings["reward"], [number, number]> = {
  mode: [0.3, 1], side: [-0.1, 1], "off-data": [0, 1], linear: [-0.2, 1.4], painted: [0, 1],
};
/** The lines that are always shown. */
const LINES = ["kl-x0", "kl-one", "star", "l2"] as const;
/** Those that are shown where a side has them. */
const DIFFERENTIATED: Readonly<Record<string, Style>> = Object.fromEntries(
  (["star", "l2"] as const).map((name) => [
    `${name}-differentiated`, { ...STYLES[name], label: `${STYLES[name].label}, law differentiated`, dash: [2, 3] },
  ]));
/** Part of an axis that lines are apart, at the most, which cannot be told from one line. */
const TOGETHER = 1 / 60;
const MARGIN = { left: 52, right: 12, top: 10, bottom: 38 };

const trusted = (rewardName: string, line: string): KnownPoint[] => lineOf(rewardName, line).filter((point) => point.trusted);

export interface ShownLine {
  name: string;
  label: string;
  color: string;
  stroke: Stroke;
}

/** The lines of the chart in the order in which they are drawn; none where nothing is known of the reward. */
export function shownLines(settings: Settings): ShownLine[] {
  if (!lineOf(settings.reward, TILT).length) return [];
  const own = new Set(settings.sides.map(({ method }) => knownLine(method)));
  const shown = (name: string, style: Style): ShownLine => {
    const [width, opacity] = own.has(name) ? [2.6, 1] : [1.8, 0.65];
    return { name, label: style.label, color: colorOf(style), stroke: { dash: style.dash, width, opacity } };
  };
  // wide and pale beneath the others, as some of them run along it
  const tilt = { name: TILT, label: "tilted optimum", color: "var(--ink)", stroke: { dash: [], width: 8, opacity: 0.2 } };
  const others = Object.keys(DIFFERENTIATED).filter((name) => own.has(name) && trusted(settings.reward, name).length);
  return [
    tilt, ...LINES.map((name) => shown(name, STYLES[name])), ...others.map((name) => shown(name, DIFFERENTIATED[name]!)),
  ];
}

/** Labels of the lines that run along the tilted optimum, wherever both are known. */
export function alongTilt(settings: Settings, axis: Axis): string[] {
  const tilt = trusted(settings.reward, TILT);
  const { low, high } = AXES[axis];
  const close = ({ reward, [axis]: value }: KnownPoint): boolean => {
    const after = tilt.findIndex((point) => point.reward >= reward);
    if (after < 1) return true;
    const [a, b] = [tilt[after - 1]!, tilt[after]!];
    const there = a[axis] + ((reward - a.reward) / (b.reward - a.reward)) * (b[axis] - a[axis]);
    return Math.abs(value - there) <= TOGETHER * (high - low);
  };
  return shownLines(settings)
    .filter(({ name }) => name !== TILT && trusted(settings.reward, name).every(close))
    .map(({ label }) => label);
}

export function drawFrontier(
  canvas: HTMLCanvasElement, settings: Settings, sides: readonly SideFrame[], axis: Axis,
): void {
  const { ctx, width, height } = freshContext(canvas);
  const { label, low: y0, high } = AXES[axis];
  const rewards = sides.flatMap((side) => side.trace.map((summary) => summary.reward)).filter(Number.isFinite);
  let [x0, x1] = REWARD_RANGE[settings.reward];
  x1 = Math.max(x1, ...rewards.map((r) => 1.02 * r));
  x0 = Math.min(x0, ...rewards);
  const lost = sides.flatMap((side) => side.trace.map((summary) => summary[axis])).filter(Number.isFinite);
  const y1 = Math.max(high, ...lost.map((value) => Math.min(1.1 * value, 2.5 * high)));
  const { left, right, top, bottom } = MARGIN;
  const px = (x: number) => left + ((x - x0) / (x1 - x0)) * (width - left - right);
  // what is beyond an end of the axis, infinite KL for one, is drawn at that end
  const py = (y: number) =>
    height - bottom - ((Math.min(Math.max(y, y0), y1) - y0) / (y1 - y0)) * (height - bottom - top);
  const ink = css("--ink");

  ctx.strokeStyle = css("--line");
  ctx.fillStyle = css("--soft");
  ctx.lineWidth = 1;
  ctx.font = "12px system-ui, sans-serif";
  ctx.strokeRect(left, top, width - left - right, height - bottom - top);
  const across = ticks(x0, x1, 5);
  const up = ticks(y0, y1, 5);
  ctx.textAlign = "center";
  tickLabels(across).forEach((text, i) => ctx.fillText(text, px(across[i]!), height - bottom + 16));
  ctx.textAlign = "right";
  tickLabels(up).forEach((text, i) => ctx.fillText(text, left - 6, py(up[i]!) + 4));
  ctx.textAlign = "center";
  ctx.fillText("mean reward", (left + width - right) / 2, height - 5);
  ctx.save();
  ctx.translate(12, (top + height - bottom) / 2);
  ctx.rotate(-Math.PI / 2);
  ctx.fillText(label, 0, 0);
  ctx.restore();

  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top - 8, width - left - right + 8, height - bottom - top + 16);
  ctx.clip();
  const lines = settings.sides.map(({ method }) => knownLine(method));
  for (const { name, color, stroke } of shownLines(settings)) {
    ctx.strokeStyle = color.startsWith("var(") ? ink : color;
    ctx.lineWidth = stroke.width;
    ctx.globalAlpha = stroke.opacity;
    ctx.setLineDash([...stroke.dash]);
    ctx.beginPath();
    let pen = false;
    for (const point of lineOf(settings.reward, name)) {
      // between untrusted points the truth is not known, and a line stops
      if (!point.trusted) pen = false;
      else {
        ctx[pen ? "lineTo" : "moveTo"](px(point.reward), py(point[axis]));
        pen = true;
      }
    }
    ctx.stroke();
  }
  ctx.setLineDash([]);
  ctx.globalAlpha = 1;

  sides.forEach((side, i) => {
    const { name, method } = settings.sides[i]!;
    const style = STYLES[name];
    const color = colorOf(style);
    const rest = lines[i] && knownAt(settings.reward, lines[i]!, method.rewardScale, axis);
    if (rest) {
      ctx.strokeStyle = color;
      ctx.lineWidth = 2.5;
      ctx.beginPath();
      ctx.arc(px(rest[0]), py(rest[1]), 11, 0, 2 * Math.PI);
      ctx.stroke();
    }
    ctx.strokeStyle = color;
    ctx.lineWidth = 1.3;
    ctx.beginPath();
    side.trace.forEach((summary, n) => ctx[n ? "lineTo" : "moveTo"](px(summary.reward), py(summary[axis])));
    ctx.stroke();
    ctx.fillStyle = color;
    ctx.strokeStyle = ink;
    const { reward, [axis]: height } = side.summary;
    if (Number.isFinite(reward)) drawMarker(ctx, style.marker, px(reward), py(height), 6);
    ctx.fillStyle = ink;
    ctx.font = "600 12px system-ui, sans-serif";
    ctx.textAlign = "center";
    const inside = px(reward) < width - 30;
    if (Number.isFinite(reward)) ctx.fillText(i ? "R" : "L", px(reward) + (i && inside ? 16 : -16), py(height) + 4);
  });
  ctx.restore();
}
