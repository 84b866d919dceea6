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

/** The lines of a level, by marching squares: x, y, x, y, …, NaN, NaN after each line, in the field's window scaled to [0, 1]. A line
 * that does not end at the window's edge is closed.
 */
export function contour(field: Float64Array, level: number, into: number[]): void {
  const at = (i: number, j: number) => field[i * POINTS + j]! - level;
  // an edge of the grid that the level crosses has a number, a place, and at most two neighbours on its line
  const places = new Map<number, [x: number, y: number]>();
  const neighbours = new Map<number, number[]>();
  const link = (from: number, to: number) => {
    const known = neighbours.get(from);
    if (known) known.push(to);
    else neighbours.set(from, [to]);
  };
  const found: number[] = [];
  const crossed = (i: number, j: number, down: 0 | 1, here: number, there: number) => {
    if (here > 0 === there > 0) return;
    const edge = 2 * (i * POINTS + j) + down;
    const share = here / (here - there);
    if (!places.has(edge)) places.set(edge, down ? [j, i + share] : [j + share, i]);
    found.push(edge);
  };
  for (let i = 0; i < POINTS - 1; i++)
    for (let j = 0; j < POINTS - 1; j++) {
      const a = at(i, j), b = at(i, j + 1), c = at(i + 1, j + 1), d = at(i + 1, j);
      found.length = 0;
      crossed(i, j, 0, a, b);
      crossed(i, j + 1, 1, b, c);
      crossed(i + 1, j, 0, d, c);
      crossed(i, j, 1, a, d);
      for (let k = 0; k < found.length; k += 2) {
        link(found[k]!, found[k + 1]!);
        link(found[k + 1]!, found[k]!);
      }
    }
  const scale = 1 / (POINTS - 1);
  const put = (edge: number) => into.push(places.get(edge)![0] * scale, places.get(edge)![1] * scale);
  const follow = (start: number) => {
    put(start);
    for (let last = start, edge = neighbours.get(start)!.pop(); edge !== undefined; ) {
      put(edge);
      const others = neighbours.get(edge)!;
      others.splice(others.indexOf(last), 1);
      [last, edge] = [edge, others.pop()];
    }
    into.push(NaN, NaN);
  };
  const starts = [...places.keys()];
  for (const edge of starts) if (neighbours.get(edge)!.length === 1) follow(edge);
  for (const edge of starts) if (neighbours.get(edge)!.length) follow(edge);
}

/** Outlines of the regions that hold these shares of a density's mass, as `contour` has them. */
export function outlines(field: Float64Array, shares: readonly number[]): Float32Array {
  const lines: number[] = [];
  for (const level of massLevels(field, shares)) contour(field, level, lines);
  return Float32Array.from(lines);
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
