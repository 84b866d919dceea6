/** What was measured along the runs: one number against the steps of training. */

import { css, drawMarker, freshContext, type Style } from "../styles.ts";

export interface Line {
  style: Style;
  color: string;
  /** By step, increasing. */
  values: readonly (readonly [number, number])[];
  /** The run that paints; the others are thin. */
  shipped: boolean;
}

const LEFT = 34, RIGHT = 12, TOP = 8, BOTTOM = 30;

/** Draws the lines up to the step `seen`, and where the slider stands if `at` is a step. */
export function drawChart(canvas: HTMLCanvasElement, lines: readonly Line[], seen: number, at: number | null): void {
  const { ctx, width, height } = freshContext(canvas);
  const all = lines.flatMap(({ values }) => values);
  if (!all.length) return;
  const last = Math.max(...all.map(([step]) => step));
  const [low, high] = [Math.min(...all.map(([, v]) => v)), Math.max(...all.map(([, v]) => v))];
  const margin = 0.08 * (high - low);
  const x = (step: number) => LEFT + (step / last) * (width - LEFT - RIGHT);
  const y = (v: number) => TOP + ((high + margin - v) / (high - low + 2 * margin)) * (height - TOP - BOTTOM);
  ctx.font = "12px system-ui, 'DejaVu Sans', sans-serif";
  ctx.lineWidth = 1;
  ctx.strokeStyle = css("--line");
  ctx.fillStyle = css("--soft");
  const unit = high - low > 1 ? 0.5 : 0.1;
  ctx.textAlign = "right";
  ctx.textBaseline = "middle";
  for (let k = Math.ceil((low - margin) / unit); k * unit <= high + margin; k++) {
    ctx.beginPath();
    ctx.moveTo(LEFT, y(k * unit));
    ctx.lineTo(width - RIGHT, y(k * unit));
    ctx.stroke();
    ctx.fillText((k * unit).toFixed(1), LEFT - 6, y(k * unit));
  }
  ctx.textBaseline = "top";
  for (const step of [0, last / 4, last / 2, (3 * last) / 4, last]) {
    ctx.textAlign = step === last ? "right" : step ? "center" : "left";
    ctx.fillText(String(step), step === last ? width : x(step), height - BOTTOM + 6);
  }
  if (at !== null) {
    ctx.strokeStyle = css("--faint");
    ctx.beginPath();
    ctx.moveTo(x(at), TOP);
    ctx.lineTo(x(at), height - BOTTOM);
    ctx.stroke();
  }
  for (const { style, color, values, shipped } of [...lines].sort((a, b) => +a.shipped - +b.shipped)) {
    ctx.strokeStyle = color;
    ctx.lineWidth = shipped ? 2.5 : 1;
    ctx.globalAlpha = shipped ? 1 : 0.5;
    ctx.beginPath();
    values.filter(([step]) => step <= seen).forEach(([step, v], i) => (i ? ctx.lineTo(x(step), y(v)) : ctx.moveTo(x(step), y(v))));
    ctx.stroke();
    ctx.globalAlpha = 1;
    const here = values.find(([step]) => step === at);
    if (!shipped || !here) continue;
    ctx.fillStyle = color;
    ctx.strokeStyle = css("--panel");
    ctx.lineWidth = 1.5;
    drawMarker(ctx, style.marker, x(here[0]), y(here[1]), 6);
  }
}
