// Asks the built docs/web/painters.js: a question as JSON on standard input, its answer as JSON on standard output.
// Pictures and latents travel as base64 of single precision.
import { readFileSync } from "node:fs";
import { runInThisContext } from "node:vm";

const [script, weights] = process.argv.slice(2);
const replies = [];
const scope = { onmessage: null, postMessage(reply) { replies.push(reply); } };
for (const path of [script, weights]) runInThisContext(readFileSync(path, "utf8"));
paintersEngine(scope);
const { QUESTIONS, Tokenizer, World, compare, decoded, following, gold, noiseOf, read, readCaption, remark, tidied } = scope.library;

const numbers = (text) => new Float32Array(decoded(text).buffer);
const packed = (floats) => Buffer.from(floats.buffer, floats.byteOffset, floats.byteLength).toString("base64");

const tasks = {
  /** Pictures by (sentence, z, method, stop, strength); "reference" and "start" are methods, too. */
  paint({ wishes }) {
    const world = new World(PAINTERS);
    return wishes.map(({ sentence, z, method, stop = 0, strength = 1 }) => {
      const prompt = world.prompt(sentence);
      if (method !== "reference") {
        const painter = method === "start" ? world.start : world.painter(method, stop, strength);
        return packed(world.inOneStep(painter, numbers(z), prompt));
      }
      return packed([...world.denoise(numbers(z), prompt)].at(-1));
    });
  },
  tokens({ texts }) {
    const tokenizer = new Tokenizer(PAINTERS.tokenizer.vocab, PAINTERS.tokenizer.merges);
    return texts.map((text) => tokenizer.ids(text));
  },
  captions({ texts }) {
    return texts.map(readCaption);
  },
  judge({ pictures, sentences }) {
    const world = new World(PAINTERS);
    return pictures.map((picture, i) => world.judge(numbers(picture), sentences[i]));
  },
  oracle({ pictures, sentences }) {
    return pictures.map((picture, i) => {
      const reading = read(numbers(picture));
      const verdict = compare(reading, readCaption(sentences[i]));
      return { ...reading, verdict, gold: gold(reading, verdict) };
    });
  },
  /** What is said of worlds with one thing changed each: [part, key, value] of their configurations, or a file that is missing. */
  changed({ changes }) {
    return changes.map(({ config, file }) => {
      const data = { ...PAINTERS, files: { ...PAINTERS.files }, configs: structuredClone(PAINTERS.configs) };
      if (config) data.configs[config[0]][config[1]] = config[2];
      if (file) delete data.files[file];
      try {
        new World(data);
        return null;
      } catch (error) {
        return error.message;
      }
    });
  },
  remarks({ texts }) {
    const tokenizer = new Tokenizer(PAINTERS.tokenizer.vocab, PAINTERS.tokenizer.merges);
    return texts.map((text) => [tidied(text), remark(tidied(text), tokenizer)]);
  },
  following({ beginnings }) {
    return beginnings.map((beginning) => [...following(beginning)].sort());
  },
  noise({ seeds }) {
    return seeds.map((seed) => packed(noiseOf(seed)));
  },
  questions() {
    return QUESTIONS;
  },
  /** All that the worker says to messages, pictures without their pixels. */
  async messages({ requests, most }) {
    for (const request of requests) scope.onmessage({ data: request.kind === "load" ? { ...request, data: PAINTERS } : request });
    for (let seen = -1; replies.length < most && seen < replies.length;) {
      seen = replies.length;
      for (let i = 0; i < 5; i++) await new Promise((done) => setTimeout(done));
    }
    return replies.slice(0, most).map(({ pixels, ...reply }) => ({ ...reply, size: pixels?.length }));
  },
};

const { task, ...question } = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(await tasks[task](question)), () => process.exit());
