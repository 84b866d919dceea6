/** Round numbers along an axis. */

/** Round numbers from low to high, about `count` of them. */
export function ticks(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * (rough / power < 1.5 ? 1 : rough / power < 3.5 ? 2 : rough / power < 7.5 ? 5 : 10);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

/** Such numbers as text, with the digits that tell them apart. */
export function tickLabels(values: readonly number[]): string[] {
  const step = values.length > 1 ? values[1]! - values[0]! : 1;
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return values.map((value) => (Math.abs(value) < step / 2 ? 0 : value).toFixed(digits).replace("-", "−"));
}
