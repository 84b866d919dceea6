/** Draws one side's plane: reward, reference, samples, outlines, pulls. */

import { rewardAt, type Reward } from "./reward.ts";
import { HALF, type Probe, type SideFrame } from "./session.ts";
import { colorOf, css, freshContext, PULLS, type Style } from "./styles.ts";

const SHADES = 64;
/** Length of a pull of 1 on the screen, in planes. */
const PULL_LENGTH = 1 / 9;

export class Plane {
  private readonly shading = document.createElement("canvas");
  private shaded = "";

  constructor(readonly canvas: HTMLCanvasElement) {
    this.shading.width = this.shading.height = SHADES;
  }

  draw(frame: SideFrame, style: Style, reward: Reward, probe: Probe | null): void {
    const { ctx, width: size } = freshContext(this.canvas);
    const { half } = frame;
    const px = (x: number) => ((x + half) / (2 * half)) * size;
    const py = (y: number) => ((half - y) / (2 * half)) * size;
    ctx.drawImage(this.shade(reward, half), 0, 0, size, size);
    this.outline(ctx, frame.reference, size, css("--faint"), 1.2, []);
    this.outline(ctx, frame.density, size, colorOf(style), 2, []);
    this.outline(ctx, frame.optimum, size, css("--ink"), 1.5, [5, 4]);
    const radius = Math.max(1.6, size / 190);
    ctx.globalAlpha = 0.55;
    ctx.fillStyle = colorOf(style);
    for (let i = 0; i < frame.points.length; i += 2) {
      ctx.beginPath();
      ctx.arc(px(frame.points[i]!), py(frame.points[i + 1]!), radius, 0, 2 * Math.PI);
      ctx.fill();
    }
    ctx.globalAlpha = 1;
    for (const motion of frame.arrows) {
      const from: [number, number] = [px(motion.x), py(motion.y)];
      const arrow = (x: number, y: number, name: string, weight: number) =>
        drawArrow(ctx, from, x * PULL_LENGTH * size, -y * PULL_LENGTH * size, css(name), weight);
      arrow(motion.rewardX, motion.rewardY, PULLS.reward, 3.4);
      arrow(motion.regularizerX, motion.regularizerY, PULLS.regularizer, 3.4);
      arrow(motion.rewardX + motion.regularizerX, motion.rewardY + motion.regularizerY, PULLS.sum, 1.6);
    }
    ctx.strokeStyle = ctx.fillStyle = css("--ink");
    if (probe) {
      ctx.lineWidth = 1.5;
      ctx.beginPath();
      ctx.arc(px(probe.x), py(probe.y), 7, 0, 2 * Math.PI);
      ctx.stroke();
    }
    if (half > 1.3 * HALF) {
      ctx.font = "600 13px system-ui, sans-serif";
      ctx.fillText(`zoomed out ×${(half / HALF).toFixed(half > 10 * HALF ? 0 : 1)}`, 8, size - 10);
    }
  }

  private outline(
    ctx: CanvasRenderingContext2D, lines: Float32Array, size: number, color: string, width: number, dash: number[],
  ): void {
    ctx.strokeStyle = color;
    ctx.lineWidth = width;
    ctx.setLineDash(dash);
    ctx.beginPath();
    let pen = false;
    for (let i = 0; i < lines.length; i += 2) {
      const [x, y] = [size * lines[i]!, size * lines[i + 1]!];
      if (!Number.isNaN(x)) ctx[pen ? "lineTo" : "moveTo"](x, y);
      pen = !Number.isNaN(x);
    }
    ctx.stroke();
    ctx.setLineDash([]);
  }

  /** The reward as colour, from none at its least to full at its most in the window. */
  private shade(reward: Reward, half: number): HTMLCanvasElement {
    const key = JSON.stringify(reward) + half.toFixed(2);
    if (this.shaded === key) return this.shading;
    this.shaded = key;
    const ctx = this.shading.getContext("2d")!;
    const image = ctx.createImageData(SHADES, SHADES);
    const gradient = new Float64Array(2);
    const step = (2 * half) / SHADES;
    const values = Array.from({ length: SHADES * SHADES }, (_, n) =>
      rewardAt(reward, -half + step * ((n % SHADES) + 0.5), half - step * (Math.floor(n / SHADES) + 0.5), gradient));
    const low = Math.min(...values);
    const range = Math.max(...values) - low;
    values.forEach((value, n) => image.data.set([222, 120, 190, range > 0 ? (110 * (value - low)) / range : 0], 4 * n));
    ctx.putImageData(image, 0, 0);
    return this.shading;
  }
}

function drawArrow(
  ctx: CanvasRenderingContext2D, [x, y]: [number, number], dx: number, dy: number, color: string, width: number,
): void {
  const length = Math.hypot(dx, dy);
  if (length < 2) return;
  const head = Math.min(9, 0.45 * length + 2);
  const [ux, uy] = [dx / length, dy / length];
  ctx.strokeStyle = ctx.fillStyle = color;
  ctx.lineWidth = width;
  ctx.beginPath();
  ctx.moveTo(x, y);
  ctx.lineTo(x + dx - 0.7 * head * ux, y + dy - 0.7 * head * uy);
  ctx.stroke();
  ctx.beginPath();
  ctx.moveTo(x + dx, y + dy);
  ctx.lineTo(x + dx - head * (ux + 0.5 * uy), y + dy - head * (uy - 0.5 * ux));
  ctx.lineTo(x + dx - head * (ux - 0.5 * uy), y + dy - head * (uy + 0.5 * ux));
  ctx.fill();
}
