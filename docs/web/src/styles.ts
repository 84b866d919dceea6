/** How methods are drawn and called: colours and markers of distar_core.figures.picture.STYLES, labels of figures.names. */

import { make } from "./dom.ts";
import type { MethodName } from "./method.ts";

export type Marker = "cross" | "square" | "triangle" | "circle" | "diamond" | "plus" | "down";

export interface Style {
  label: string;
  color: string;
  /** Where the page is dark and the colour would be lost on it. */
  onDark?: string;
  marker: Marker;
  dash: readonly number[];
}

export const STYLES: Readonly<Record<MethodName, Style>> = {
  "reward-only": { label: "reward only", color: "#5c5c62", onDark: "#a9a9b0", marker: "cross", dash: [1, 1] },
  "kl-x0": { label: "KL, w = σ²/α²", color: "#e42536", onDark: "#ff5d6c", marker: "square", dash: [10, 3] },
  "kl-one": { label: "KL, w = 1", color: "#f89c20", marker: "triangle", dash: [6, 3, 2, 3] },
  star: { label: "score, pseudo-Huber", color: "#5790fc", marker: "circle", dash: [] },
  l2: { label: "score, squared L2", color: "#7a21dd", onDark: "#b283ff", marker: "diamond", dash: [7, 4] },
  detached: { label: "score, detached form", color: "#964a8b", onDark: "#cf86c4", marker: "plus", dash: [] },
  dmd: { label: "DMD", color: "#2f8f5b", marker: "square", dash: [] },
  didr: { label: "DIDR, exact target", color: "#8a6d1f", onDark: "#d0ad4a", marker: "down", dash: [] },
  "didr-proxy": { label: "DIDR, proxy", color: "#b0507f", marker: "plus", dash: [] },
};

/** Names in the menus, where the method's own stands before the label of figures. */
export const MENU: Readonly<Record<MethodName, string>> = {
  "reward-only": "no leash: reward only",
  "kl-x0": "Diff-Instruct++: KL, w = σ²/α²",
  "kl-one": "KL, w = 1",
  star: "Diff-Instruct*: score, pseudo-Huber",
  l2: "score, squared L2",
  detached: "score, detached form",
  dmd: "DMD: KL, normalised per sample",
  didr: "DIDR: KL to the tilted reference",
  "didr-proxy": "DIDR by proxy",
};

/** The colour on the page as it is now: theme.js has said whether that is dark. */
export const colorOf = ({ color, onDark }: Style): string =>
  (document.documentElement.dataset.theme === "dark" && onDark) || color;

export const TILT = "tilt";

export const PULLS = { reward: "--reward", regularizer: "--regularizer", sum: "--ink" } as const;

export function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A line of a legend: a swatch and what it stands for. */
export function legendEntry(color: string, label: string): HTMLElement {
  const swatch = make("span", { className: "swatch" });
  swatch.style.background = color;
  return make("span", { className: "entry" }, swatch, label);
}

/** How a line is drawn, in CSS pixels. */
export interface Stroke {
  dash: readonly number[];
  width: number;
  opacity: number;
}

/** A line of a legend as above, the swatch being a piece of the line itself. */
export function lineEntry(color: string, { dash, width, opacity }: Stroke, label: string): HTMLElement {
  const style = `stroke: ${color}; stroke-width: ${width}; stroke-dasharray: ${dash.join(" ") || "none"}; opacity: ${opacity}`;
  // parsed as a part of the page, an svg needs no namespace
  const innerHTML = `<svg aria-hidden="true"><line x2="100%" y1="50%" y2="50%" style="${style}"></line></svg>`;
  return make("span", { className: "entry" }, make("span", { className: "drawn", innerHTML }), label);
}

/** A canvas context in CSS pixels, cleared, as large as the canvas is shown. */
export function freshContext(canvas: HTMLCanvasElement): { ctx: CanvasRenderingContext2D; width: number; height: number } {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const ctx = canvas.getContext("2d")!;
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return { ctx, width, height };
}

export function drawMarker(ctx: CanvasRenderingContext2D, marker: Marker, x: number, y: number, r: number): void {
  const corners: Partial<Record<Marker, [number, number][]>> = {
    square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    triangle: [[0, -1.25], [1.15, 0.9], [-1.15, 0.9]],
    down: [[0, 1.25], [1.15, -0.9], [-1.15, -0.9]],
    diamond: [[0, -1.35], [1.35, 0], [0, 1.35], [-1.35, 0]],
    plus: [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4],
      [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]],
    cross: [[-1.1, -0.6], [-0.6, -1.1], [0, -0.5], [0.6, -1.1], [1.1, -0.6], [0.5, 0], [1.1, 0.6], [0.6, 1.1], [0, 0.5],
      [-0.6, 1.1], [-1.1, 0.6], [-0.5, 0]],
  };
  ctx.beginPath();
  const outline = corners[marker];
  if (outline) outline.forEach(([dx, dy], i) => (i ? ctx.lineTo(x + r * dx, y + r * dy) : ctx.moveTo(x + r * dx, y + r * dy)));
  else ctx.arc(x, y, r, 0, 2 * Math.PI);
  ctx.closePath();
  ctx.fill();
  ctx.stroke();
}
