/** Mean reward against what is lost for it: the known lines, and the ways of both runs towards them. */

import { knownAt, lineOf } from "./known.ts";
import { knownLine } from "./method.ts";
import type { SideFrame } from "./session.ts";
import type { Axis, Settings } from "./state.ts";
import { colorOf, css, drawMarker, freshContext, STYLES, TILT } from "./styles.ts";

const AXES: Record<Axis, { label: string; low: number; high: number }> = {
  kl: { label: "KL to the reference, nats", low: 0, high: 3.4 },
  modes: { label: "effective modes, of 8", low: 0.8, high: 8.2 },
  spread: { label: "spread of the fullest mode", low: 0, high: 0.3 },
};
const REWARD_RANGE: Record<Settings["reward"], [number, number]> = {
  mode: [0.3, 1], side: [-0.1, 1], "off-data": [0, 1], linear: [-0.2, 1.4], painted: [0, 1],
};
/** The lines that are always shown. */
export const LINES = ["kl-x0", "kl-one", "star", "l2"] as const;
const MARGIN = { left: 52, right: 12, top: 10, bottom: 38 };

/** Round numbers from low to high, about `count` of them. */
function ticks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * (rough / power < 1.5 ? 1 : rough / power < 3.5 ? 2 : rough / power < 7.5 ? 5 : 10);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
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
  const digits = (step: number) => Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const across = ticks(x0, x1, 5);
  const up = ticks(y0, y1, 5);
  ctx.textAlign = "center";
  for (const x of across) ctx.fillText(x.toFixed(digits(across[1]! - across[0]!)), px(x), height - bottom + 16);
  ctx.textAlign = "right";
  for (const y of up) ctx.fillText(y.toFixed(digits(up[1]! - up[0]!)), left - 6, py(y) + 4);
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
  const drawLine = (name: string, color: string, dash: readonly number[], strong: boolean) => {
    ctx.strokeStyle = color;
    ctx.lineWidth = strong ? 2.4 : 1.6;
    ctx.globalAlpha = strong ? 1 : 0.45;
    ctx.setLineDash([...dash]);
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
    ctx.setLineDash([]);
  };
  for (const name of LINES) drawLine(name, colorOf(STYLES[name]), STYLES[name].dash, lines.includes(name));
  for (const name of new Set(lines)) {
    if (name && name !== TILT && !LINES.some((line) => line === name)) drawLine(name, colorOf(STYLES.star), [2, 3], true);
  }
  drawLine(TILT, ink, [3, 3], true);
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
