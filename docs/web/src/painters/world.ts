/** The miniature world: from a sentence and noise to pictures, by whichever painter, and what the judges say about them. */

import { readCaption, Tokenizer } from "./language.ts";
import { Clip, Decoder, Preference, TextEncoder, UNet, type Config, type Prompt } from "./networks.ts";
import { compare, gold, read, type Verdict } from "./oracle.ts";
import { concatenate, type Floats } from "./tensor.ts";
import { expectConfig, readSafetensors, type Weights } from "./weights.ts";

/** What tools/painters_data.py writes into weights.js: files as base64, configurations as they lie beside them. */
export interface Data {
  files: Record<string, string>;
  configs: Record<string, Config>;
  tokenizer: { vocab: Record<string, number>; merges: [string, string][] };
  /** Of the reference's drawing. */
  steps: number;
  guidance_scale: number;
  /** The one-step generator's time. */
  t_star: number;
}

export const METHODS = ["star", "greedy"] as const;
export type Method = (typeof METHODS)[number];
export const LATENT = 256;

const SCHEDULER: Config = {
  _class_name: "EulerDiscreteScheduler", beta_start: 0.00085, beta_end: 0.012, beta_schedule: "scaled_linear",
  num_train_timesteps: 1000, prediction_type: "epsilon", timestep_spacing: "leading", steps_offset: 1,
  interpolation_type: "linear", timestep_type: "discrete", final_sigmas_type: "zero", rescale_betas_zero_snr: false,
  use_karras_sigmas: false, use_exponential_sigmas: false, use_beta_sigmas: false, trained_betas: null, sigma_min: null,
  sigma_max: null,
};

/** sigma/alpha by time, and the times of the reference's steps. */
export class Schedule {
  readonly times: number[];
  /** alpha² by time. */
  private readonly kept: number[];

  constructor(config: Config, steps: number) {
    expectConfig("the scheduler", config, SCHEDULER);
    const [first, last] = [config.beta_start, config.beta_end].map((beta) => Math.sqrt(beta as number)) as [number, number];
    let product = 1;
    this.kept = Array.from({ length: 1000 }, (_, t) => (product *= 1 - (first + ((last - first) * t) / 999) ** 2));
    const stride = Math.floor(1000 / steps);
    this.times = Array.from({ length: steps }, (_, k) => (steps - 1 - k) * stride + 1);
  }

  alpha(t: number): number {
    return Math.sqrt(this.kept[t]!);
  }

  sigma(t: number): number {
    return Math.sqrt(1 - this.kept[t]!);
  }

  /** sigma/alpha at the k-th of the reference's steps; zero after the last. */
  ratio(k: number): number {
    const t = this.times[k];
    return t === undefined ? 0 : this.sigma(t) / this.alpha(t);
  }
}

export function decoded(base64: string): Uint8Array<ArrayBuffer> {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

export interface Judgement {
  verdict: Verdict;
  gold: number;
  proxy: number;
}

export class World {
  readonly tokenizer: Tokenizer;
  readonly schedule: Schedule;
  readonly start: UNet;
  /** Steps of the runs at which adapters were kept, beginning with 0, the start. */
  readonly stops: readonly number[];
  private readonly reference: UNet;
  private readonly decoder: Decoder;
  private readonly encoders: readonly [TextEncoder, TextEncoder];
  private readonly clip: Clip;
  private readonly preference: Preference;
  private readonly adapters: Record<Method, ReadonlyMap<number, Weights>>;
  private readonly painters = new Map<string, UNet>();
  /** What CLIP makes of the sentence that was judged last. */
  private words: { sentence: string; embedding: Floats } | null = null;

  constructor(private readonly data: Data) {
    const { configs, tokenizer } = data;
    const file = (name: string): Weights => {
      const found = data.files[name];
      if (found === undefined) throw new Error(`weights.js has no ${name}; build the site anew`);
      return readSafetensors(name, decoded(found));
    };
    const config = (name: string): Config => configs[name] ?? {};
    expectConfig("the pipeline", config("pipeline"), { _class_name: "StableDiffusionXLPipeline", force_zeros_for_empty_prompt: true });
    this.tokenizer = new Tokenizer(tokenizer.vocab, tokenizer.merges);
    this.schedule = new Schedule(config("scheduler"), data.steps);
    this.start = new UNet(file("generator"), config("generator"));
    this.reference = new UNet(file("reference"), config("reference"));
    this.decoder = new Decoder(file("decoder"), config("vae"));
    this.encoders = [
      new TextEncoder(file("text_encoder"), config("text_encoder"), false),
      new TextEncoder(file("text_encoder_2"), config("text_encoder_2"), true),
    ];
    this.clip = new Clip(file("clip"), config("clip"));
    this.preference = new Preference(file("preference"), this.clip);
    const byStop = (method: Method): ReadonlyMap<number, Weights> => {
      const found = new Map<number, Map<string, Weights extends ReadonlyMap<string, infer T> ? T : never>>();
      for (const [key, tensor] of file(method)) {
        const dot = key.indexOf(".");
        const stop = Number(key.slice(0, dot));
        if (!found.has(stop)) found.set(stop, new Map());
        found.get(stop)!.set(key.slice(dot + 1), tensor);
      }
      return found;
    };
    this.adapters = { star: byStop("star"), greedy: byStop("greedy") };
    this.stops = [0, ...this.adapters.star.keys()].sort((a, b) => a - b);
    if (METHODS.some((method) => this.stops.some((stop) => stop && !this.adapters[method].has(stop))))
      throw new Error("the adapters of the two methods were kept at different steps; train them anew");
  }

  prompt(sentence: string): Prompt {
    const ids = this.tokenizer.ids(sentence);
    const [first, second] = this.encoders.map((encoder) => encoder.run(ids));
    return { text: concatenate(first!.states, second!.states), pooled: second!.pooled! };
  }

  /** The one-step generator as a method's run left it at a stop, with its adapters times a strength. */
  painter(method: Method, stop: number, strength: number): UNet {
    if (stop === 0) return this.start;
    const key = `${method} ${stop} ${strength}`;
    let found = this.painters.get(key);
    if (!found) {
      const adapters = this.adapters[method].get(stop);
      if (!adapters) throw new Error(`the run of ${method} kept nothing at step ${stop}; known are ${this.stops.join(", ")}`);
      if (this.painters.size > 60) this.painters.clear();
      this.painters.set(key, (found = this.start.adapted(adapters, strength)));
    }
    return found;
  }

  /** A picture [3, 32 · 32] in one step from unit noise z [4, 64]. */
  inOneStep(painter: UNet, z: Floats, prompt: Prompt): Floats {
    const { t_star } = this.data;
    const [alpha, sigma] = [this.schedule.alpha(t_star), this.schedule.sigma(t_star)];
    const eps = painter.eps(z, t_star, prompt);
    return this.decoder.picture(z.map((v, i) => (v - sigma * eps[i]!) / alpha));
  }

  /** The reference's pictures on its way, one a step: what it takes the picture to be; the last is its picture. */
  *denoise(z: Floats, prompt: Prompt): Generator<Floats | null, void, void> {
    const nothing: Prompt = { text: prompt.text.map(() => 0), pooled: prompt.pooled.map(() => 0) };
    const { schedule } = this;
    let x = z.map((v) => v * Math.sqrt(schedule.ratio(0) ** 2 + 1));
    for (let k = 0; k < schedule.times.length; k++) {
      const [now, next] = [schedule.ratio(k), schedule.ratio(k + 1)];
      const input = x.map((v) => v / Math.sqrt(now ** 2 + 1));
      const [told, untold] = [prompt, nothing].map((one) => this.reference.eps(input, schedule.times[k]!, one)) as [Floats, Floats];
      const eps = told.map((v, i) => untold[i]! + this.data.guidance_scale * (v - untold[i]!));
      const guess = x.map((v, i) => v - now * eps[i]!);
      x = x.map((v, i) => v + (next - now) * eps[i]!);
      const last = k === schedule.times.length - 1;
      // decoding takes as long as a step, so it is done for some only
      yield last || k % 3 === 1 ? this.decoder.picture(last ? x : guess) : null;
    }
  }

  /** What the judges say, or null for a sentence that is no caption of the world. */
  judge(picture: Floats, sentence: string): Judgement | null {
    const stated = readCaption(sentence);
    if (!stated) return null;
    const reading = read(picture);
    const verdict = compare(reading, stated);
    if (this.words?.sentence !== sentence) this.words = { sentence, embedding: this.clip.words(this.tokenizer.ids(sentence)) };
    return { verdict, gold: gold(reading, verdict), proxy: this.preference.score(picture, this.words.embedding) };
  }
}
