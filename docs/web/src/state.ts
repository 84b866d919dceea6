/** What a visitor has set, and the address that says all of it: a link shows what its sender saw. */

import { METHODS, type Law, type Method, type MethodName, type Mistake, type Unit, type Weight } from "./method.ts";
import { REWARDS, type Bump, type Reward, type RewardName } from "./reward.ts";

export interface Side {
  name: MethodName;
  method: Method;
}

/** All that a run depends on. */
export interface Settings {
  sides: readonly [Side, Side];
  reward: RewardName | "painted";
  bumps: readonly Bump[];
  rate: number;
  maps: number;
  weightsLearn: boolean;
}

/** The step at which settings were changed, and what they are since; the learning rate starts anew there. */
export interface Change {
  at: number;
  settings: Settings;
}

/** A run and the step up to which it went. */
export interface Plan {
  start: Settings;
  changes: readonly Change[];
  at: number;
}

export type Axis = "kl" | "modes" | "spread";

/** What is looked at, which no run depends on. */
export interface Look {
  /** Noise to look through. */
  noise: number;
  axis: Axis;
  pulls: boolean;
  density: boolean;
  optimum: boolean;
}

export interface State {
  plan: Plan;
  look: Look;
  /** Number of the story, from 1; 0 for none. */
  story: number;
}

/** Steps in which the learning rate falls to zero. */
export const HORIZON = 1200;
export const LARGEST_STEP = 60_000;
export const MOST_BUMPS = 30;
export const BUMP_WIDTH = 0.6;
export const LIMITS = {
  scale: [0, 20],
  c: [0.001, 10],
  lag: [0, 200],
  rate: [0.001, 0.1],
  maps: [8, 64],
  noise: [0, 3.2],
} as const;

export const side = (name: MethodName, changes: Partial<Method> = {}): Side => ({
  name,
  method: { ...METHODS[name], ...changes },
});

export const DEFAULT_SETTINGS: Settings = {
  sides: [side("reward-only", { rewardScale: 0.83 }), side("star", { rewardScale: 0.83 })],
  reward: "mode",
  bumps: [],
  rate: 0.02,
  maps: 32,
  weightsLearn: true,
};
export const DEFAULT_LOOK: Look = { noise: 0, axis: "kl", pulls: true, density: true, optimum: false };

/** What can be shown in the planes or not; an address names those that are not as in DEFAULT_LOOK. */
export const PARTS = ["pulls", "density", "optimum"] as const;

export const rewardOf = (settings: Settings): Reward =>
  settings.reward === "painted" ? { bumps: settings.bumps, slope: 0, side: 0 } : REWARDS[settings.reward];

/** Whether runs with these settings are the same; bumps that are not the reward do nothing. */
export const sameRun = (...both: [Settings, Settings]): boolean => {
  const [one, other] = both.map((settings) => JSON.stringify({ ...settings, bumps: rewardOf(settings).bumps }));
  return one === other;
};

// ------------------------------------------------------------------------------------------------------- address

type Entries = Map<string, string>;

const short = (value: number): string => String(Number(value.toPrecision(6)));
const NAMES = ["left", "right"] as const;

function sideEntries(name: string, { name: method, method: m }: Side): [string, string][] {
  return [
    [name, method],
    [`${name}.scale`, short(m.rewardScale)],
    [`${name}.weight`, m.weight],
    [`${name}.unit`, m.unit],
    [`${name}.c`, m.huberC === null ? "l2" : short(m.huberC)],
    [`${name}.law`, m.law],
    [`${name}.mistake`, m.mistake],
    [`${name}.lag`, short(m.lag)],
  ];
}

function settingsEntries(settings: Settings): Entries {
  return new Map([
    ...NAMES.flatMap((name, i) => sideEntries(name, settings.sides[i]!)),
    ["reward", settings.reward],
    ["bumps", settings.bumps.map((b) => [b.x, b.y, b.width, b.height].map(short).join("_")).join("~")],
    ["rate", short(settings.rate)],
    ["maps", short(settings.maps)],
    ["mass", settings.weightsLearn ? "free" : "held"],
  ]);
}

/** The entries that differ from those of `base`; choosing a method sets what belongs to it, so that is not said twice. */
function differing(settings: Settings, base: Settings): [string, string][] {
  const expected = settingsEntries(base);
  settings.sides.forEach((one, i) => {
    if (one.name === base.sides[i]!.name) return;
    for (const [key, value] of sideEntries(NAMES[i]!, side(one.name))) if (key !== NAMES[i]) expected.set(key, value);
  });
  return [...settingsEntries(settings)].filter(([key, value]) => expected.get(key) !== value);
}

/** A state as the part of an address behind #; empty for the default. */
export function writeAddress({ plan, look, story }: State): string {
  const parts = differing(plan.start, DEFAULT_SETTINGS).map(([key, value]) => `${key}=${value}`);
  let before = plan.start;
  const changes = plan.changes.map(({ at, settings }) => {
    const said = [at, ...differing(settings, before).map(([key, value]) => `${key}:${value}`)].join(",");
    before = settings;
    return said;
  });
  if (changes.length) parts.push(`then=${changes.join(";")}`);
  if (plan.at) parts.push(`at=${plan.at}`);
  if (look.noise) parts.push(`noise=${short(look.noise)}`);
  if (look.axis !== "kl") parts.push(`axis=${look.axis}`);
  const others = PARTS.filter((part) => look[part] !== DEFAULT_LOOK[part]);
  if (others.length) parts.push(`switch=${others.join(",")}`);
  if (story) parts.push(`story=${story}`);
  return parts.join("&");
}

export class AddressError extends Error {}

function fail(key: string, value: string, remedy: string): never {
  throw new AddressError(`${key}=${value} in the link cannot be read; ${remedy}`);
}

function oneOf<T extends string>(key: string, value: string, known: readonly T[]): T {
  return known.includes(value as T) ? (value as T) : fail(key, value, `use one of ${known.join(", ")}`);
}

function numberIn(key: string, value: string, [low, high]: readonly [number, number]): number {
  const number = value.trim() === "" ? NaN : Number(value);
  return number >= low && number <= high ? number : fail(key, value, `use a number from ${low} to ${high}`);
}

function wholeIn(key: string, value: string, limits: readonly [number, number]): number {
  const number = numberIn(key, value, limits);
  return Number.isInteger(number) ? number : fail(key, value, "use a whole number");
}

function readBumps(value: string): Bump[] {
  const bumps = value.split("~").filter(Boolean).map((text) => {
    const [x, y, width, height, ...more] = text.split("_").map((n) => numberIn("bumps", n, [-100, 100]));
    if (height === undefined || more.length || width! <= 0) fail("bumps", text, "use x_y_width_height");
    return { x: x!, y: y!, width: width!, height };
  });
  return bumps.length <= MOST_BUMPS ? bumps : fail("bumps", String(bumps.length), `use at most ${MOST_BUMPS}`);
}

const METHOD_NAMES = Object.keys(METHODS) as MethodName[];
const REWARD_NAMES = [...(Object.keys(REWARDS) as RewardName[]), "painted"] as const;

function readSide(name: string, entries: Entries, base: Side): Side {
  const chosen = entries.get(name);
  const found = chosen === undefined ? base : side(oneOf(name, chosen, METHOD_NAMES));
  const method = { ...found.method };
  const read = <T>(key: string, reader: (key: string, value: string) => T, put: (value: T) => void) => {
    const value = entries.get(`${name}.${key}`);
    if (value !== undefined) put(reader(`${name}.${key}`, value));
  };
  read("scale", (k, v) => numberIn(k, v, LIMITS.scale), (v) => (method.rewardScale = v));
  read("weight", (k, v) => oneOf<Weight>(k, v, ["one", "sigma", "x0", "dmd"]), (v) => (method.weight = v));
  read("unit", (k, v) => oneOf<Unit>(k, v, ["score", "eps", "x0"]), (v) => (method.unit = v));
  read("c", (k, v) => (v === "l2" ? null : numberIn(k, v, LIMITS.c)), (v) => (method.huberC = v));
  read("law", (k, v) => oneOf<Law>(k, v, ["frozen", "differentiated"]), (v) => (method.law = v));
  read("mistake", (k, v) => oneOf<Mistake>(k, v, MISTAKES), (v) => (method.mistake = v));
  read("lag", (k, v) => numberIn(k, v, LIMITS.lag), (v) => (method.lag = v));
  return { name: found.name, method };
}

export const MISTAKES = ["none", "slope", "braces", "conditional", "reference", "d_alone"] as const;

function readSettings(entries: Entries, base: Settings): Settings {
  const known = settingsEntries(base);
  for (const [key, value] of entries) if (!known.has(key)) fail(key, value, `use one of ${[...known.keys()].join(", ")}`);
  const get = <T>(key: string, otherwise: T, reader: (key: string, value: string) => T): T => {
    const value = entries.get(key);
    return value === undefined ? otherwise : reader(key, value);
  };
  return {
    sides: [readSide("left", entries, base.sides[0]), readSide("right", entries, base.sides[1])],
    reward: get("reward", base.reward, (k, v) => oneOf(k, v, REWARD_NAMES)),
    bumps: get("bumps", base.bumps, (_, v) => readBumps(v)),
    rate: get("rate", base.rate, (k, v) => numberIn(k, v, LIMITS.rate)),
    maps: get("maps", base.maps, (k, v) => (Number(v) % 8 ? fail(k, v, "use a multiple of 8") : numberIn(k, v, LIMITS.maps))),
    weightsLearn: get("mass", base.weightsLearn, (k, v) => oneOf(k, v, ["free", "held"]) === "free"),
  };
}

const split = (text: string, by: string): [string, string] => {
  const at = text.indexOf(by);
  return at < 0 ? fail(text, "", `write key${by}value`) : [text.slice(0, at), text.slice(at + 1)];
};

/** The state that an address says. Throws AddressError for one that says what cannot be. */
export function readAddress(hash: string): State {
  let text: string;
  try {
    text = decodeURIComponent(hash.replace(/^#/, ""));
  } catch {
    fail("#", hash, "copy the link again");
  }
  const entries: Entries = new Map(text.split("&").filter(Boolean).map((part) => split(part, "=")));
  const take = <T>(key: string, otherwise: T, reader: (value: string) => T): T => {
    const value = entries.get(key);
    entries.delete(key);
    return value === undefined ? otherwise : reader(value);
  };
  const at = take("at", 0, (v) => wholeIn("at", v, [0, LARGEST_STEP]));
  const others = take("switch", [] as string[], (v) => v.split(","));
  for (const part of others) oneOf("switch", part, PARTS);
  const shown = (part: (typeof PARTS)[number]) => DEFAULT_LOOK[part] !== others.includes(part);
  const look: Look = {
    noise: take("noise", 0, (v) => numberIn("noise", v, LIMITS.noise)),
    axis: take("axis", "kl" as Axis, (v) => oneOf("axis", v, ["kl", "modes", "spread"])),
    pulls: shown("pulls"),
    density: shown("density"),
    optimum: shown("optimum"),
  };
  const story = take("story", 0, (v) => wholeIn("story", v, [0, 6]));
  const said = take("then", [] as string[], (v) => v.split(";"));
  const start = readSettings(entries, DEFAULT_SETTINGS);
  let before = start;
  let last = 0;
  const changes = said.map((text) => {
    const [step, ...changed] = text.split(",");
    last = wholeIn("then", step!, [last, at]);
    before = readSettings(new Map(changed.map((part) => split(part, ":"))), before);
    if (before.maps !== start.maps) fail("then", text, "the number of maps cannot change within a run");
    return { at: last, settings: before };
  });
  return { plan: { start, changes, at }, look, story };
}
