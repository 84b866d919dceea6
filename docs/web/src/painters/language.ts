/** The world's language: its words, what its captions state, and how the tokenizers cut them; distar_core.world.scenes. */

export const PIXELS = 32;
export const HUES = [0, 55, 125, 225] as const;
export const COLOURS = ["red", "yellow", "green", "blue"] as const;
export const SHAPES = ["circle", "square", "triangle"] as const;
export const SIZES = ["small", "large"] as const;
/** Radii of each size. */
export const RADII = [[4.4, 5.2], [7.2, 8.6]] as const;
export const BACKGROUNDS = ["light", "dark"] as const;
export const RELATIONS = ["left of", "right of", "above", "below"] as const;
export const BRIGHTNESS = [0.75, 1] as const;
/** Of a triangle of radius 1. */
export const CIRCUMRADIUS = 1.3;
export const WORDS = [
  "a", "on", "of", "background", ...SIZES, ...COLOURS, ...SHAPES, ...BACKGROUNDS, "left", "right", "above", "below",
] as const;

export interface Thing {
  colour: number;
  shape: number;
}

/** What a caption states, as indices; null where it leaves something open. */
export interface Stated {
  things: Thing[];
  size: number | null;
  relation: number | null;
  background: number | null;
}

/** The caption that states this and nothing else. */
export function captionOf({ things, size, relation, background }: Stated): string {
  const [first, second] = things.map(({ colour, shape }) => `${COLOURS[colour]} ${SHAPES[shape]}`);
  return `a ${size === null ? "" : `${SIZES[size]} `}${first}${relation === null ? "" : ` ${RELATIONS[relation]} a ${second}`}` +
    (background === null ? "" : ` on a ${BACKGROUNDS[background]} background`);
}

/** All captions of the grammar: one object, with a size or without, or two that have none. */
function everyCaption(): Map<string, Stated> {
  const things = COLOURS.flatMap((_, colour) => SHAPES.map((_, shape) => ({ colour, shape })));
  const open = (among: readonly string[]) => [null, ...among.keys()];
  const one = things.flatMap((thing) => open(SIZES).map((size) => ({ things: [thing], size, relation: null })));
  const two = things.flatMap((a) => things.flatMap((b) =>
    [...RELATIONS.keys()].map((relation) => ({ things: [a, b], size: null, relation }))));
  return new Map([...one, ...two].flatMap((stated) => open(BACKGROUNDS).map((background) => {
    const whole = { ...stated, background };
    return [captionOf(whole), whole] as const;
  })));
}
const CAPTIONS: ReadonlyMap<string, Stated> = everyCaption();

/** What a caption states, or null if the grammar does not know it. */
export const readCaption = (caption: string): Stated | null => CAPTIONS.get(caption) ?? null;

/** The words with which a caption may go on that begins so; none where no caption does. */
export function following(beginning: string): Set<string> {
  const begun = beginning && `${beginning} `;
  return new Set([...CAPTIONS.keys()].filter((caption) => caption.startsWith(begun))
    .map((caption) => caption.slice(begun.length).split(" ", 1)[0]!));
}

/** A sentence as the painters get it: lower case, single spaces, no full stop. */
export function tidied(text: string): string {
  return text.toLowerCase().replace(/\s+/g, " ").trim().replace(/[.!?]+$/, "").trim();
}

/** A CLIP tokenizer of 16 tokens: byte-pair encoding with the merges of a tokenizer.json. */
export class Tokenizer {
  private readonly ranks: Map<string, number>;
  private readonly start: number;
  readonly end: number;

  private readonly known: ReadonlyMap<string, number>;

  constructor(
    vocabulary: Readonly<Record<string, number>>, merges: readonly (readonly [string, string])[], private readonly limit = 16,
  ) {
    this.known = new Map(Object.entries(vocabulary));
    this.ranks = new Map(merges.map(([a, b], rank) => [`${a} ${b}`, rank]));
    this.start = this.id(START);
    this.end = this.id(END);
  }

  private id(token: string): number {
    const found = this.known.get(token);
    if (found === undefined) throw new Error(`the tokenizer lacks ${token}; build the page's weights anew`);
    return found;
  }

  /** The ids of a text without start and end, however many; what it does not know is the end's. */
  pieces(text: string): number[] {
    return text.split(/(<\|startoftext\|>|<\|endoftext\|>)/).flatMap((part) => {
      if (part === START || part === END) return [this.id(part)];
      const lowered = [...part.normalize("NFC")].map((letter) => letter.toLowerCase()).join("");
      return (lowered.match(SPLIT) ?? []).flatMap((word) => word.match(BYTES)!.flatMap((piece) => this.encoded(piece)));
    });
  }

  private encoded(piece: string): number[] {
    // what lies outside ASCII has no letter of its own: each of its bytes is unknown
    const letters = [...piece].flatMap((letter) =>
      letter < "\u0080" ? [letter] : [...new TextEncoder().encode(letter)].map(() => "\u0000"));
    letters[letters.length - 1] += "</w>";
    for (;;) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < letters.length; i++) {
        const rank = this.ranks.get(`${letters[i]} ${letters[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) break;
      letters.splice(at, 2, letters[at]! + letters[at + 1]!);
    }
    return letters.map((letter) => this.known.get(letter) ?? this.end);
  }

  /** The 16 ids of a text: start, what fits, end, and ends to the limit. */
  ids(text: string): number[] {
    const ids = [this.start, ...this.pieces(text).slice(0, this.limit - 2)];
    return ids.concat(Array<number>(this.limit - ids.length).fill(this.end));
  }

  /** How many tokens fit beside start and end. */
  get room(): number {
    return this.limit - 2;
  }
}

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const SPLIT = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;
const BYTES = /'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}+|[^\p{White_Space}\p{L}\p{N}]+/gu;

/** In quotation marks, and no longer than the page has room for. */
const quoted = (words: string, most: number) => `“${words.length > most ? `${words.slice(0, most - 1)}…` : words}”`;

/** Why the pictures of a sentence are not judged, in one sentence; empty if it is one of the world's captions. */
export function remark(text: string, tokenizer: Tokenizer): string {
  if (readCaption(text)) return "";
  const known: readonly string[] = WORDS;
  const words = text.split(" ");
  const begun = words.map((_, i) => words.slice(0, i).join(" "));
  const lost = words.findIndex((word, i) => tokenizer.pieces(`${begun[i]} ${word}`).length > tokenizer.room);
  const room = lost < 0 ? "" : `no room for ${quoted(words.slice(lost).join(" "), 18)}`;
  const unknown = [...new Set(words.filter((word) => !known.includes(word)))];
  if (unknown.length) {
    const [first, second, more] = unknown.map((word) => quoted(word, 10));
    const named = !second ? first : more ? `${first}, ${second} and others` : `${first} and ${second}`;
    return `Not judged: they have never seen ${named}${room && `; spelled in letters, ${second ? "they leave" : "it leaves"} ${room}`}.`;
  }
  const wrong = words.findIndex((word, i) => !following(begun[i]!).has(word));
  if (wrong < 0) return "Not judged: the sentence is not complete yet.";
  const before = wrong > 4 ? `… ${words.slice(wrong - 3, wrong).join(" ")}` : begun[wrong];
  const place = wrong === 0 ? `begins with “${words[0]}”` : `has “${words[wrong]}” after “${before}”`;
  return `Not judged: no sentence that they learnt ${place}${room && `; there is ${room}`}.`;
}
