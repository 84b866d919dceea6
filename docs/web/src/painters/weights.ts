/** Weights from safetensors, as the package ships them, and what the configurations beside them must say. */

import type { Floats } from "./tensor.ts";

export interface Tensor {
  shape: number[];
  data: Floats;
}
export type Weights = ReadonlyMap<string, Tensor>;

let halves: Floats | null = null;

/** All numbers of half precision by their bits. */
function tableOfHalves(): Floats {
  return (halves ??= Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * (1 + fraction / 1024) * 2 ** (exponent - 15) : sign * fraction * 2 ** -24;
  }));
}

export function readSafetensors(name: string, bytes: Uint8Array<ArrayBuffer>): Weights {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Number(view.getBigUint64(0, true));
  const header: Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }> = JSON.parse(
    new TextDecoder().decode(bytes.subarray(8, 8 + length)),
  );
  const found = new Map<string, Tensor>();
  for (const [key, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (key === "__metadata__") continue;
    const [start, end] = data_offsets.map((offset) => 8 + length + offset) as [number, number];
    if (end > bytes.length) throw new Error(`${name} ends before ${key}; build the page's weights anew`);
    const own = bytes.slice(start, end).buffer;
    if (dtype === "F16") {
      const table = tableOfHalves();
      found.set(key, { shape, data: Float32Array.from(new Uint16Array(own), (bits) => table[bits]!) });
    } else if (dtype === "F32") found.set(key, { shape, data: new Float32Array(own) });
    else throw new Error(`${name} has ${key} in ${dtype}; this page reads F16 and F32`);
  }
  return found;
}

/** Raises unless a configuration says what this page computes. Keys that it does not ask for do not change what is computed. */
export function expectConfig(name: string, config: Record<string, unknown>, expected: Record<string, unknown>): void {
  for (const [key, value] of Object.entries(expected)) {
    const [here, wanted] = [config[key] ?? null, value].map((one) => JSON.stringify(one));
    if (here !== wanted) throw new Error(`${name} has ${key} ${here}, and this page computes ${wanted}; use the shipped world`);
  }
}
