/** What the networks are made of. A tensor is [channels, positions], row by row, one sample at a time, in single precision. */

export type Floats = Float32Array;

/** W [O, K] X [K, N] + b, [O, N], summed in double precision. */
export function matmul(W: Floats, X: Floats, b: Floats | null, O: number, K: number, N: number): Floats {
  const Y = new Float32Array(O * N);
  // four columns side by side, against two rows at a time: what is read serves eight products
  const panel = new Float64Array(4 * K);
  for (let n = 0; n < N; n += 4) {
    const wide = Math.min(4, N - n);
    for (let k = 0; k < K; k++) for (let j = 0; j < wide; j++) panel[4 * k + j] = X[k * N + n + j]!;
    for (let o = 0; o < O; o += 2) {
      const first = o * K, second = o + 1 < O ? first + K : first;
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, c0 = 0, c1 = 0, c2 = 0, c3 = 0;
      for (let k = 0, t = 0; k < K; k++, t += 4) {
        const p = panel[t]!, q = panel[t + 1]!, r = panel[t + 2]!, s = panel[t + 3]!;
        const w = W[first + k]!, v = W[second + k]!;
        a0 += w * p; a1 += w * q; a2 += w * r; a3 += w * s;
        c0 += v * p; c1 += v * q; c2 += v * r; c3 += v * s;
      }
      const [d, e] = b ? [b[o]!, b[Math.min(o + 1, O - 1)]!] : [0, 0];
      const y = o * N + n;
      Y[y] = a0 + d;
      if (wide > 1) Y[y + 1] = a1 + d;
      if (wide > 2) Y[y + 2] = a2 + d;
      if (wide > 3) Y[y + 3] = a3 + d;
      if (o + 1 === O) continue;
      Y[y + N] = c0 + e;
      if (wide > 1) Y[y + N + 1] = c1 + e;
      if (wide > 2) Y[y + N + 2] = c2 + e;
      if (wide > 3) Y[y + N + 3] = c3 + e;
    }
  }
  return Y;
}

/** A convolution of X [C, side · side] by w [O, C, size, size], zeros around it. */
export function convolve(
  w: Floats, b: Floats | null, X: Floats, O: number, C: number, side: number, size: number, stride: number, padding: number,
): Floats {
  const out = Math.floor((side + 2 * padding - size) / stride) + 1;
  const N = out * out;
  if (size === 1 && stride === 1) return matmul(w, X, b, O, C, N);
  const columns = new Float32Array(C * size * size * N);
  for (let c = 0; c < C; c++)
    for (let ky = 0; ky < size; ky++)
      for (let kx = 0; kx < size; kx++) {
        const row = ((c * size + ky) * size + kx) * N;
        for (let y = 0; y < out; y++) {
          const sy = y * stride + ky - padding;
          if (sy < 0 || sy >= side) continue;
          for (let x = 0; x < out; x++) {
            const sx = x * stride + kx - padding;
            if (sx >= 0 && sx < side) columns[row + y * out + x] = X[(c * side + sy) * side + sx]!;
          }
        }
      }
  return matmul(w, columns, b, O, C * size * size, N);
}

export const silu = (X: Floats): Floats => X.map((v) => v / (1 + Math.exp(-v)));
export const quickGelu = (X: Floats): Floats => X.map((v) => v / (1 + Math.exp(-1.702 * v)));

/** To 1.5e-7 (Abramowitz and Stegun 7.1.26). */
function erf(x: number): number {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  const y = 1 - series * Math.exp(-x * x);
  return x < 0 ? -y : y;
}
const gelu1 = (v: number): number => 0.5 * v * (1 + erf(v * Math.SQRT1_2));
export const gelu = (X: Floats): Floats => X.map(gelu1);

/** The first half times gelu of the second. */
export function geglu(X: Floats): Floats {
  const n = X.length / 2;
  return Float32Array.from({ length: n }, (_, i) => X[i]! * gelu1(X[n + i]!));
}

export function groupNorm(X: Floats, weight: Floats, bias: Floats, groups: number, eps: number): Floats {
  const N = X.length / weight.length;
  const length = X.length / groups;
  const Y = new Float32Array(X.length);
  for (let start = 0; start < X.length; start += length) {
    let mean = 0, variance = 0;
    for (let j = start; j < start + length; j++) mean += X[j]!;
    mean /= length;
    for (let j = start; j < start + length; j++) variance += (X[j]! - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / length + eps);
    for (let j = start; j < start + length; j++) {
      const c = Math.floor(j / N);
      Y[j] = (X[j]! - mean) * scale * weight[c]! + bias[c]!;
    }
  }
  return Y;
}

/** Over the channels of each position. */
export function layerNorm(X: Floats, weight: Floats, bias: Floats, eps: number): Floats {
  const C = weight.length;
  const N = X.length / C;
  const Y = new Float32Array(X.length);
  for (let n = 0; n < N; n++) {
    let mean = 0, variance = 0;
    for (let c = 0; c < C; c++) mean += X[c * N + n]!;
    mean /= C;
    for (let c = 0; c < C; c++) variance += (X[c * N + n]! - mean) ** 2;
    const scale = 1 / Math.sqrt(variance / C + eps);
    for (let c = 0; c < C; c++) Y[c * N + n] = (X[c * N + n]! - mean) * scale * weight[c]! + bias[c]!;
  }
  return Y;
}

/** Attention of q [C, N] to k and v [C, M]; a causal one sees what is not after it. */
export function attention(q: Floats, k: Floats, v: Floats, C: number, heads: number, causal = false): Floats {
  const N = q.length / C, M = k.length / C, d = C / heads;
  const scale = 1 / Math.sqrt(d);
  const out = new Float32Array(C * N);
  const weight = new Float32Array(M);
  for (let h = 0; h < heads; h++)
    for (let n = 0; n < N; n++) {
      const seen = causal ? n + 1 : M;
      let top = -Infinity, sum = 0;
      for (let m = 0; m < seen; m++) {
        let a = 0;
        for (let i = h * d; i < (h + 1) * d; i++) a += q[i * N + n]! * k[i * M + m]!;
        weight[m] = a * scale;
        if (weight[m]! > top) top = weight[m]!;
      }
      for (let m = 0; m < seen; m++) sum += weight[m] = Math.exp(weight[m]! - top);
      for (let i = h * d; i < (h + 1) * d; i++) {
        let a = 0;
        for (let m = 0; m < seen; m++) a += weight[m]! * v[i * M + m]!;
        out[i * N + n] = a / sum;
      }
    }
  return out;
}

export function add(a: Floats, b: Floats): Floats {
  return a.map((v, i) => v + b[i]!);
}

export function concatenate(...parts: Floats[]): Floats {
  const all = new Float32Array(parts.reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

export function transposed(X: Floats, rows: number, columns: number): Floats {
  const Y = new Float32Array(X.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) Y[c * rows + r] = X[r * columns + c]!;
  return Y;
}

/** Each pixel of [C, side · side] four times. */
export function doubled(X: Floats, side: number): Floats {
  const C = X.length / side ** 2, wide = 2 * side;
  const Y = new Float32Array(4 * X.length);
  for (let c = 0; c < C; c++)
    for (let y = 0; y < wide; y++)
      for (let x = 0; x < wide; x++) Y[(c * wide + y) * wide + x] = X[(c * side + (y >> 1)) * side + (x >> 1)]!;
  return Y;
}

export function unit(X: Floats): Floats {
  const length = Math.sqrt(X.reduce((sum, v) => sum + v * v, 0));
  return X.map((v) => v / length);
}
