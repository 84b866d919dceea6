/** The networks of the miniature world, layer by layer as diffusers, transformers and open_clip compute them. */

import {
  add, attention, concatenate, convolve, doubled, geglu, gelu, groupNorm, layerNorm, matmul, quickGelu, silu, transposed, unit,
  type Floats,
} from "./tensor.ts";
import { expectConfig, type Tensor, type Weights } from "./weights.ts";

export type Config = Record<string, unknown>;

const NORM_GROUPS = 8;
const EPS = 1e-5;
/** Of the decoder's and the attention blocks' group norms. */
const FINE_EPS = 1e-6;

class Network {
  constructor(protected readonly weights: Weights) {}

  protected tensor(name: string): Tensor {
    const found = this.weights.get(name);
    if (!found) throw new Error(`the weights lack ${name}; build the page's weights anew`);
    return found;
  }

  protected data(name: string): Floats {
    return this.tensor(name).data;
  }

  protected linear(name: string, X: Floats): Floats {
    const { shape: [O, K], data } = this.tensor(`${name}.weight`);
    return matmul(data, X, this.weights.get(`${name}.bias`)?.data ?? null, O!, K!, X.length / K!);
  }

  protected conv(name: string, X: Floats, side: number, stride = 1): Floats {
    const { shape: [O, C, size], data } = this.tensor(`${name}.weight`);
    const bias = this.weights.get(`${name}.bias`)?.data ?? null;
    return convolve(data, bias, X, O!, C!, side, size!, stride, size === 3 ? 1 : 0);
  }

  protected groupNorm(name: string, X: Floats, eps: number): Floats {
    return groupNorm(X, this.data(`${name}.weight`), this.data(`${name}.bias`), NORM_GROUPS, eps);
  }

  protected layerNorm(name: string, X: Floats): Floats {
    return layerNorm(X, this.data(`${name}.weight`), this.data(`${name}.bias`), EPS);
  }

  /** A residual block, with or without an embedding of the time. */
  protected residual(name: string, X: Floats, side: number, time: Floats | null, eps: number): Floats {
    let h = this.conv(`${name}.conv1`, silu(this.groupNorm(`${name}.norm1`, X, eps)), side);
    if (time) {
      const shift = this.linear(`${name}.time_emb_proj`, silu(time));
      h = h.map((v, i) => v + shift[Math.floor(i / side ** 2)]!);
    }
    h = this.conv(`${name}.conv2`, silu(this.groupNorm(`${name}.norm2`, h, eps)), side);
    return add(h, this.weights.has(`${name}.conv_shortcut.weight`) ? this.conv(`${name}.conv_shortcut`, X, side) : X);
  }
}

// --------------------------------------------------------------------------------------------------------------- UNet

/** Text [128, 16] of both encoders and the pooled embedding [64] of the second. */
export interface Prompt {
  text: Floats;
  pooled: Floats;
}

const UNET: Config = {
  _class_name: "UNet2DConditionModel", sample_size: 8, in_channels: 4, out_channels: 4, block_out_channels: [32, 64],
  down_block_types: ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
  mid_block_type: "UNetMidBlock2DCrossAttn", layers_per_block: 1, transformer_layers_per_block: 1, attention_head_dim: [2, 4],
  num_attention_heads: null, cross_attention_dim: 128, use_linear_projection: true, norm_num_groups: NORM_GROUPS, norm_eps: EPS,
  act_fn: "silu", addition_embed_type: "text_time", addition_time_embed_dim: 8, projection_class_embeddings_input_dim: 112,
  class_embed_type: null, encoder_hid_dim: null, time_embedding_type: "positional", time_embedding_act_fn: null,
  time_cond_proj_dim: null, timestep_post_act: null, flip_sin_to_cos: true, freq_shift: 0, center_input_sample: false,
  conv_in_kernel: 3, conv_out_kernel: 3, downsample_padding: 1, mid_block_scale_factor: 1, resnet_time_scale_shift: "default",
  resnet_out_scale_factor: 1, resnet_skip_time_act: false, dual_cross_attention: false, only_cross_attention: false,
  attention_type: "default", cross_attention_norm: null, mid_block_only_cross_attention: null,
};
const HEAD_WIDTH = 16;
/** Original size, crop and target size of an uncropped picture of 32 pixels. */
const TIME_IDS = [32, 32, 0, 0, 32, 32];

function sinusoid(value: number, width: number): Floats {
  const half = width / 2;
  return Float32Array.from({ length: width }, (_, i) => {
    const angle = value * Math.exp((-Math.log(10000) * (i % half)) / half);
    return i < half ? Math.cos(angle) : Math.sin(angle);
  });
}

export class UNet extends Network {
  constructor(weights: Weights, private readonly config: Config) {
    super(weights);
    expectConfig("the UNet", config, UNET);
  }

  private transformer(name: string, X: Floats, text: Floats): Floats {
    const C = this.tensor(`${name}.norm.weight`).shape[0]!;
    const block = `${name}.transformer_blocks.0`;
    let h = this.linear(`${name}.proj_in`, this.groupNorm(`${name}.norm`, X, FINE_EPS));
    for (const part of [1, 2]) {
      const own = this.layerNorm(`${block}.norm${part}`, h);
      const seen = part === 1 ? own : text;
      const layer = (kind: string, Y: Floats) => this.linear(`${block}.attn${part}.${kind}`, Y);
      h = add(layer("to_out.0", attention(layer("to_q", own), layer("to_k", seen), layer("to_v", seen), C, C / HEAD_WIDTH)), h);
    }
    const wide = geglu(this.linear(`${block}.ff.net.0.proj`, this.layerNorm(`${block}.norm3`, h)));
    return add(this.linear(`${name}.proj_out`, add(this.linear(`${block}.ff.net.2`, wide), h)), X);
  }

  private embedded(name: string, X: Floats): Floats {
    return this.linear(`${name}.linear_2`, silu(this.linear(`${name}.linear_1`, X)));
  }

  /** The noise that it predicts in latents x [4, 64] at an integer time. */
  eps(x: Floats, t: number, { text, pooled }: Prompt): Floats {
    const extra = concatenate(pooled, ...TIME_IDS.map((id) => sinusoid(id, 8)));
    const time = add(this.embedded("time_embedding", sinusoid(t, 32)), this.embedded("add_embedding", extra));
    const level = (name: string, k: number, X: Floats, side: number) =>
      this.transformer(`${name}.attentions.${k}`, this.residual(`${name}.resnets.${k}`, X, side, time, EPS), text);
    const s0 = this.conv("conv_in", x, 8);
    const s1 = level("down_blocks.0", 0, s0, 8);
    const s2 = this.conv("down_blocks.0.downsamplers.0.conv", s1, 8, 2);
    const s3 = level("down_blocks.1", 0, s2, 4);
    let h = this.residual("mid_block.resnets.1", level("mid_block", 0, s3, 4), 4, time, EPS);
    h = level("up_blocks.0", 0, concatenate(h, s3), 4);
    h = level("up_blocks.0", 1, concatenate(h, s2), 4);
    h = this.conv("up_blocks.0.upsamplers.0.conv", doubled(h, 4), 8);
    h = level("up_blocks.1", 0, concatenate(h, s1), 8);
    h = level("up_blocks.1", 1, concatenate(h, s0), 8);
    return this.conv("conv_out", silu(this.groupNorm("conv_norm_out", h, EPS)), 8);
  }

  /** The same network with adapters: W + strength · B A in every layer that has a pair LAYER.lora_A, LAYER.lora_B. */
  adapted(adapters: Weights, strength: number): UNet {
    const weights = new Map(this.weights);
    for (const [key, A] of adapters) {
      if (!key.endsWith(".lora_A")) continue;
      const layer = key.slice(0, -".lora_A".length);
      const B = adapters.get(`${layer}.lora_B`);
      const W = this.tensor(`${layer}.weight`);
      const [rank, K] = A.shape as [number, number];
      if (!B || B.shape[1] !== rank || B.shape[0] !== W.shape[0] || K !== W.shape[1])
        throw new Error(`the adapter of ${layer} does not fit its layer; train the adapters anew`);
      const change = matmul(B.data, A.data, null, B.shape[0]!, rank, K);
      weights.set(`${layer}.weight`, { shape: W.shape, data: W.data.map((v, i) => v + strength * change[i]!) });
    }
    return new UNet(weights, this.config);
  }
}

// ------------------------------------------------------------------------------------------------------------ decoder

const VAE: Config = {
  _class_name: "AutoencoderKL", latent_channels: 4, out_channels: 3, sample_size: 32, block_out_channels: [16, 32, 64],
  up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"], layers_per_block: 1, norm_num_groups: NORM_GROUPS,
  act_fn: "silu", mid_block_add_attention: true, use_post_quant_conv: true, scaling_factor: 1, shift_factor: null,
};

export class Decoder extends Network {
  private readonly mean: number[];
  private readonly std: number[];

  constructor(weights: Weights, config: Config) {
    super(weights);
    expectConfig("the autoencoder", config, VAE);
    this.mean = config.latents_mean as number[];
    this.std = config.latents_std as number[];
    if (this.mean?.length !== 4 || this.std?.length !== 4) throw new Error("the autoencoder has no mean and deviation of its four channels");
  }

  /** Latents [4, 64] -> a picture [3, 32 · 32] in [0, 1]. */
  picture(latents: Floats): Floats {
    const residual = (name: string, X: Floats, side: number) => this.residual(`decoder.${name}`, X, side, null, FINE_EPS);
    const scaled = latents.map((v, i) => v * this.std[i >> 6]! + this.mean[i >> 6]!);
    let h = residual("mid_block.resnets.0", this.conv("decoder.conv_in", this.conv("post_quant_conv", scaled, 8), 8), 8);
    const name = "decoder.mid_block.attentions.0";
    const own = this.groupNorm(`${name}.group_norm`, h, FINE_EPS);
    const layer = (kind: string, X: Floats) => this.linear(`${name}.${kind}`, X);
    h = add(layer("to_out.0", attention(layer("to_q", own), layer("to_k", own), layer("to_v", own), 64, 1)), h);
    h = residual("mid_block.resnets.1", h, 8);
    let side = 8;
    for (const level of [0, 1, 2]) {
      for (const k of [0, 1]) h = residual(`up_blocks.${level}.resnets.${k}`, h, side);
      if (level === 2) break;
      h = this.conv(`decoder.up_blocks.${level}.upsamplers.0.conv`, doubled(h, side), 2 * side);
      side *= 2;
    }
    h = this.conv("decoder.conv_out", silu(this.groupNorm("decoder.conv_norm_out", h, FINE_EPS)), side);
    return h.map((v) => Math.min(1, Math.max(0, v / 2 + 0.5)));
  }
}

// ------------------------------------------------------------------------------------------------------- text encoders

const TEXT: Config = {
  hidden_size: 64, intermediate_size: 128, num_hidden_layers: 3, num_attention_heads: 4, max_position_embeddings: 16,
  hidden_act: "quick_gelu", layer_norm_eps: EPS, projection_dim: 64,
};
const WIDTH = 64;
const HEADS = 4;

abstract class TokenNetwork extends Network {
  /** Token and position embeddings [64, tokens]. */
  protected embeddings(ids: readonly number[], tokens: string, positions: string): Floats {
    const [token, position] = [this.data(tokens), this.data(positions)];
    const N = ids.length;
    return Float32Array.from({ length: WIDTH * N }, (_, i) => {
      const c = Math.floor(i / N), n = i % N;
      return token[ids[n]! * WIDTH + c]! + position[n * WIDTH + c]!;
    });
  }
}

const column = (X: Floats, n: number): Floats => {
  const N = X.length / WIDTH;
  return Float32Array.from({ length: WIDTH }, (_, c) => X[c * N + n]!);
};

export class TextEncoder extends TokenNetwork {
  private readonly end: number;

  /** Of transformers' CLIPTextModel, with or without a projection. */
  constructor(weights: Weights, config: Config, projected: boolean) {
    super(weights);
    expectConfig("a text encoder", config, {
      ...TEXT, architectures: [projected ? "CLIPTextModelWithProjection" : "CLIPTextModel"],
    });
    this.end = config.eos_token_id as number;
    this.prefix = weights.has("text_model.final_layer_norm.weight") ? "text_model." : "";
  }

  private readonly prefix: string;

  /** Token ids [16] -> the states before the last layer [64, 16], and the projected embedding [64] at the first end. */
  run(ids: readonly number[]): { states: Floats; pooled: Floats | null } {
    const embedding = `${this.prefix}embeddings`;
    let h = this.embeddings(ids, `${embedding}.token_embedding.weight`, `${embedding}.position_embedding.weight`);
    let states = h;
    for (const k of [0, 1, 2]) {
      states = h;
      const layer = `${this.prefix}encoder.layers.${k}`;
      const own = this.layerNorm(`${layer}.layer_norm1`, h);
      const linear = (name: string, X: Floats) => this.linear(`${layer}.${name}`, X);
      const [q, key, v] = ["q_proj", "k_proj", "v_proj"].map((name) => linear(`self_attn.${name}`, own)) as [Floats, Floats, Floats];
      h = add(linear("self_attn.out_proj", attention(q, key, v, WIDTH, HEADS, true)), h);
      h = add(linear("mlp.fc2", quickGelu(linear("mlp.fc1", this.layerNorm(`${layer}.layer_norm2`, h)))), h);
    }
    if (!this.weights.has("text_projection.weight")) return { states, pooled: null };
    const last = column(this.layerNorm(`${this.prefix}final_layer_norm`, h), ids.indexOf(this.end));
    return { states, pooled: this.linear("text_projection", last) };
  }
}

// -------------------------------------------------------------------------------------------------------------- judges

const CLIP: Config = {
  model_cfg: {
    embed_dim: 64,
    vision_cfg: { layers: 3, width: 64, head_width: 16, patch_size: 4, image_size: 32 },
    text_cfg: { context_length: 16, width: 64, heads: 4, layers: 3, hf_tokenizer_name: "own", vocab_size: 125 },
  },
  preprocess_cfg: { mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], interpolation: "bicubic" },
};

/** open_clip's CLIP of the world: unit embeddings [64] of a picture and of a caption. */
export class Clip extends TokenNetwork {
  constructor(weights: Weights, config: Config) {
    super(weights);
    expectConfig("CLIP", config, CLIP);
  }

  private blocks(name: string, h: Floats, causal: boolean): Floats {
    for (const k of [0, 1, 2]) {
      const block = `${name}.resblocks.${k}`;
      const N = h.length / WIDTH;
      const all = matmul(
        this.data(`${block}.attn.in_proj_weight`), this.layerNorm(`${block}.ln_1`, h), this.data(`${block}.attn.in_proj_bias`),
        3 * WIDTH, WIDTH, N,
      );
      const [q, key, v] = [0, 1, 2].map((part) => all.subarray(part * WIDTH * N, (part + 1) * WIDTH * N)) as [Floats, Floats, Floats];
      h = add(h, this.linear(`${block}.attn.out_proj`, attention(q, key, v, WIDTH, HEADS, causal)));
      h = add(h, this.linear(`${block}.mlp.c_proj`, gelu(this.linear(`${block}.mlp.c_fc`, this.layerNorm(`${block}.ln_2`, h)))));
    }
    return h;
  }

  /** x P for a square matrix P. */
  private projected(name: string, x: Floats): Floats {
    return unit(matmul(transposed(this.data(name), WIDTH, WIDTH), x, null, WIDTH, WIDTH, 1));
  }

  features(picture: Floats): Floats {
    const { shape: [O, C, size], data } = this.tensor("visual.conv1.weight");
    const patches = convolve(data, null, picture.map((v) => (v - 0.5) / 0.5), O!, C!, 32, size!, size!, 0);
    const first = this.data("visual.class_embedding"), position = this.data("visual.positional_embedding");
    const h = Float32Array.from({ length: WIDTH * 65 }, (_, i) => {
      const c = Math.floor(i / 65), n = i % 65;
      return (n ? patches[c * 64 + n - 1]! : first[c]!) + position[n * WIDTH + c]!;
    });
    const seen = this.blocks("visual.transformer", this.layerNorm("visual.ln_pre", h), false);
    return this.projected("visual.proj", this.layerNorm("visual.ln_post", column(seen, 0)));
  }

  /** Of token ids [16], pooled at the largest. */
  words(ids: readonly number[]): Floats {
    const h = this.blocks("transformer", this.embeddings(ids, "token_embedding.weight", "positional_embedding"), true);
    const last = ids.indexOf(Math.max(...ids));
    return this.projected("text_projection", this.layerNorm("ln_final", column(h, last)));
  }
}

/** The learnt reward: a small convolutional network beside CLIP. */
export class Preference extends Network {
  constructor(weights: Weights, private readonly clip: Clip) {
    super(weights);
  }

  /** Of a picture [3, 32 · 32] in [0, 1] and the embedding of its caption. */
  score(picture: Floats, words: Floats): number {
    let h: Floats = picture.map((v) => 2 * v - 1);
    for (const [k, side] of [[0, 32], [2, 16], [4, 8]] as const) h = silu(this.conv(`eyes.${k}`, h, side, 2));
    const seen = this.clip.features(picture);
    const agreement = seen.map((v, i) => 8 * v * words[i]!);
    const wide = this.linear("head.1", silu(concatenate(this.linear("eyes.7", h), agreement)));
    return this.linear("head.3", silu(wide))[0]!;
  }
}
