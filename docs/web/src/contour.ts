/** Outlines of fields on a square grid, for drawing. */

export const POINTS = 72;

/** Fills a field over [−half, half]²: rows from the top down, columns from left to right. */
export function fill(value: (x: number, y: number) => number, half: number): Float64Array {
  const field = new Float64Array(POINTS * POINTS);
  const step = (2 * half) / (POINTS - 1);
  for (let i = 0; i < POINTS; i++)
    for (let j = 0; j < POINTS; j++) field[i * POINTS + j] = value(-half + step * j, half - step * i);
  return field;
}

/** The heights above which these shares of a field's mass lie. */
export function massLevels(field: Float64Array, shares: readonly number[]): number[] {
  const sorted = field.slice().sort().reverse();
  const total = sorted.reduce((sum, value) => sum + value, 0);
  return shares.map((share) => {
    let sum = 0;
    for (const value of sorted) if ((sum += value) >= share * total) return value;
    return 0;
  });
}

/** Line segments of a level, by marching squares: x1, y1, x2, y2, … in the field's window scaled to [0, 1]. */
export function contour(field: Float64Array, level: number, into: number[]): void {
  const at = (i: number, j: number) => field[i * POINTS + j]! - level;
  const scale = 1 / (POINTS - 1);
  const crossings: number[] = [];
  for (let i = 0; i < POINTS - 1; i++)
    for (let j = 0; j < POINTS - 1; j++) {
      const a = at(i, j), b = at(i, j + 1), c = at(i + 1, j + 1), d = at(i + 1, j);
      crossings.length = 0;
      if (a > 0 !== b > 0) crossings.push(j + a / (a - b), i);
      if (b > 0 !== c > 0) crossings.push(j + 1, i + b / (b - c));
      if (c > 0 !== d > 0) crossings.push(j + d / (d - c), i + 1);
      if (d > 0 !== a > 0) crossings.push(j, i + a / (a - d));
      for (let k = 0; k + 3 < crossings.length; k += 4)
        for (let n = 0; n < 4; n++) into.push(crossings[k + n]! * scale);
    }
}

/** Outlines of the regions that hold these shares of a density's mass. */
export function outlines(field: Float64Array, shares: readonly number[]): Float32Array {
  const segments: number[] = [];
  for (const level of massLevels(field, shares)) contour(field, level, segments);
  return Float32Array.from(segments);
}

/** Masses on a square grid of [−half, half]², blurred by a Gaussian, as a field over another window. */
export function blurred(mass: Float64Array, massHalf: number, sigma: number, half: number): Float64Array {
  const count = Math.sqrt(mass.length);
  const spacing = (2 * massHalf) / (count - 1);
  const width = Math.max(sigma, 0.6 * spacing);
  const kernel = new Float64Array(POINTS * count);
  for (let a = 0; a < POINTS; a++)
    for (let i = 0; i < count; i++) {
      const offset = -half + (2 * half * a) / (POINTS - 1) - (-massHalf + spacing * i);
      kernel[a * count + i] = Math.exp(-0.5 * (offset / width) ** 2);
    }
  const across = new Float64Array(count * POINTS);
  for (let i = 0; i < count; i++)
    for (let a = 0; a < POINTS; a++) {
      let sum = 0;
      for (let j = 0; j < count; j++) sum += mass[i * count + j]! * kernel[a * count + j]!;
      across[i * POINTS + a] = sum;
    }
  const field = new Float64Array(POINTS * POINTS);
  for (let b = 0; b < POINTS; b++)
    for (let a = 0; a < POINTS; a++) {
      let sum = 0;
      for (let i = 0; i < count; i++) sum += across[i * POINTS + a]! * kernel[b * count + i]!;
      // rows of a field run from the top down
      field[(POINTS - 1 - b) * POINTS + a] = sum;
    }
  return field;
}
