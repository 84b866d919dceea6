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

const either = (words: readonly string[]) => `(${words.join("|")})`;
const CAPTION = new RegExp(
  `^a (?:${either(SIZES)} )?${either(COLOURS)} ${either(SHAPES)}` +
    `(?: ${either(RELATIONS)} a ${either(COLOURS)} ${either(SHAPES)})?(?: on a ${either(BACKGROUNDS)} background)?$`,
);

/** What a caption states, or null if the grammar does not know it. */
export function readCaption(caption: string): Stated | null {
  const match = CAPTION.exec(caption);
  if (!match || (match[1] && match[4])) return null;
  const index = (group: number, among: readonly string[]) => (match[group] ? among.indexOf(match[group]!) : null);
  const things = [[2, 3], [5, 6]].filter(([colour]) => match[colour!]).map(([colour, shape]) => ({
    colour: index(colour!, COLOURS)!, shape: index(shape!, SHAPES)!,
  }));
  return { things, size: index(1, SIZES), relation: index(4, RELATIONS), background: index(7, BACKGROUNDS) };
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

/** What is to be said about a sentence before it is painted; empty if it is one of the world's captions. */
export function remark(text: string, tokenizer: Tokenizer): string {
  const known: readonly string[] = WORDS;
  const unknown = [...new Set(text.split(" ").filter((word) => !known.includes(word)))];
  const long = tokenizer.pieces(text).length > tokenizer.room;
  const unseen = unknown.length
    ? `The painters have never seen ${unknown.map((word) => `“${word}”`).join(", ")}`
    : readCaption(text) ? "" : "The words are known, but no caption was built like this";
  if (!unseen) return "";
  const cut = long ? `, and they read only the first ${tokenizer.room} tokens of the sentence` : "";
  return `${unseen}${cut}; they paint something all the same, and nobody can say whether it is right.`;
}
