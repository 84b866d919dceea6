// Asks the built docs/web/leash.js and theorem.js: a question as JSON on standard input, its answer as JSON on standard output.
import { readFileSync } from "node:fs";
import { runInThisContext } from "node:vm";

const scope = { onmessage: null, postMessage(reply) { scope.reply = reply; } };
for (const script of ["leash.js", "theorem.js"]) runInThisContext(readFileSync(`${process.argv[2]}/${script}`, "utf8"));
leashEngine(scope);
const leash = scope.library;

function generatorOf({ shifts, scales, weights }) {
  const generator = new leash.Generator(weights.length);
  generator.shifts.set(shifts.flat());
  generator.scales.set(scales.flat(2));
  generator.law.logWeights.set(weights.map(Math.log));
  generator.refresh();
  return generator;
}

const rewardOf = (name) => (typeof name === "string" ? leash.REWARDS[name] : name);
const methodOf = ({ name, ...changes }) => ({ ...leash.METHODS[name], ...changes });

const tasks = {
  /** Pulls and gradients for given samples, by case. */
  pulls({ generator, which, z, noise, level, cases }) {
    return cases.map(({ method, reward }) => {
      const task = { method: methodOf(method), reward: rewardOf(reward), weightsLearn: true };
      const run = new leash.Run(generatorOf(generator), leash.ring(), task, new leash.Random(0));
      const pulls = { regularizer: [], reward: [] };
      which.forEach((k, i) => {
        run.accumulate(k, ...z[i], level[i], ...noise[i], 1 / which.length);
        for (const term of Object.keys(pulls)) pulls[term].push([...run.pulls[term]]);
      });
      return {
        ...pulls,
        shifts: [...run.shiftGradient], scales: [...run.scaleGradient], weights: [...run.weightGradient],
        known: leash.weightGradientKnown(task.method),
      };
    });
  },
  /** Log-density, score and Hessian of a generator's law at points and a level. */
  fields({ generator, points, sigma }) {
    const law = new leash.NoisedMixture(generatorOf(generator).law, sigma);
    return points.map((point) => {
      const out = new Float64Array(5);
      return [law.at(...point, out), ...out, law.logDensity(...point)];
    });
  },
  /** Parameters after steps of Adam along given gradients. */
  adam({ start, gradients, rate }) {
    const parameters = Float64Array.from(start);
    const adam = new leash.Adam(start.length);
    for (const gradient of gradients) adam.update(parameters, Float64Array.from(gradient), rate);
    return [...parameters];
  },
  weights({ generator, gradient, rate }) {
    const moved = generatorOf(generator);
    moved.moveWeights(Float64Array.from(gradient), rate);
    return [...moved.law.logWeights].map(Math.exp);
  },
  summary({ points, reward }) {
    return leash.summariseSamples(Float64Array.from(points.flat()), leash.ring(), leash.REWARDS[reward]);
  },
  kl({ generator }) {
    return leash.klBetween(generatorOf(generator).law, leash.ring(), 161);
  },
  /** Outlines of a sum of round Gaussians, line by line. */
  outlines({ centres, sigma, half, shares }) {
    const bump = (x, y) => centres.reduce((sum, [a, b]) => sum + Math.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * sigma ** 2)), 0);
    const lines = [[]];
    const found = leash.outlines(leash.fill(bump, half), shares);
    for (let i = 0; i < found.length; i += 2)
      if (Number.isNaN(found[i])) lines.push([]);
      else lines.at(-1).push([half * (2 * found[i] - 1), half * (1 - 2 * found[i + 1])]);
    return lines.slice(0, -1);
  },
  decay({ shares }) {
    return shares.map(leash.decay);
  },
  /** Summaries where runs end whose rate falls to zero. */
  rest({ runs }) {
    return runs.map(({ method, reward, steps, rate, seed, weightsLearn = true }) => {
      const generator = leash.Generator.startingAs(leash.ring(), 32, new leash.Random(seed));
      const task = { method: methodOf(method), reward: leash.REWARDS[reward], weightsLearn };
      const run = new leash.Run(generator, leash.ring(), task, new leash.Random(seed + 1));
      for (let i = 0; i < steps; i++) run.step(rate * leash.decay(i / steps));
      return leash.summarise(generator, leash.ring(), task.reward, new leash.Random(9), 20000, 121);
    });
  },
  /** How the stories of the page end. */
  stories({ numbers }) {
    return numbers.map((number) => {
      const { settings, title, answers, right } = leash.STORIES[number - 1];
      const session = new leash.Session({ start: settings, changes: [], at: 0 });
      while (!session.over) session.advance();
      const { sides } = session.frame(leash.DEFAULT_LOOK, null, false);
      const way = sides.map(({ trace }) => ({
        fewestModes: Math.min(...trace.map((summary) => summary.modes)),
        mostOffData: Math.max(...trace.map((summary) => summary.offData)),
      }));
      return { title, answer: answers[right], sides: sides.map((side, i) => ({ ...side.summary, ...way[i] })) };
    });
  },
  constants() {
    return { levels: [...leash.LEVELS], methods: Object.keys(leash.METHODS), stories: leash.STORIES.length };
  },
  lines({ methods }) {
    return methods.map((method) => leash.knownLine(methodOf(method)));
  },
  /** What addresses say, written anew; or why they cannot be read. */
  addresses({ hashes }) {
    return hashes.map((hash) => {
      try {
        return { again: leash.writeAddress(leash.readAddress(hash)) };
      } catch (error) {
        return { error: error.message };
      }
    });
  },
  /** The address of each question of the page, before its run. */
  questions() {
    return leash.STORIES.map(({ settings, axis }, i) =>
      leash.writeAddress({ plan: { start: settings, changes: [], at: 0 }, look: { ...leash.DEFAULT_LOOK, axis }, story: i + 1 }));
  },
  /** A run with changes on the way, and the run of the link to it: samples at the end of both. */
  link({ first, second, at, most }) {
    const settings = (hash) => leash.readAddress(hash).plan.start;
    const look = leash.DEFAULT_LOOK;
    const sender = new leash.Session({ start: settings(first), changes: [], at: 0 });
    for (let i = 0; i < at; i++) sender.advance();
    sender.change(settings(second), false);
    for (let i = at; i < most; i++) sender.advance();
    const sent = sender.frame(look, null, false);
    const hash = leash.writeAddress({ plan: sent.plan, look, story: 0 });
    const receiver = new leash.Session(leash.readAddress(hash).plan);
    while (receiver.behind) receiver.advance();
    const seen = receiver.frame(look, null, false);
    const { plan } = leash.readAddress(hash);
    const unchanged = new leash.Session({ ...plan, changes: [] });
    while (unchanged.behind) unchanged.advance();
    const points = (frame) => frame.sides.map((side) => [...side.points]);
    return {
      hash, sent: points(sent), seen: points(seen), unchanged: points(unchanged.frame(look, null, false)),
      trace: seen.sides.map((side) => side.trace.length),
    };
  },
  /** On the line: the true gradient, and for each form the gradient at weighted nodes. */
  line({ problems }) {
    return problems.map(({ setting, huberC, law, nodes }) => {
      const problem = new theorem.LineProblem(theorem.SETTINGS[setting], huberC, law);
      const sums = [];
      nodes.component.forEach((k, i) => {
        const z = nodes.normal[i][0];
        problem.pulls(k, z, nodes.noise[i][0]).forEach((pull, f) => {
          sums[f] ??= Array(2 * problem.maps).fill(0);
          sums[f][k] += nodes.weight[i] * pull;
          sums[f][k + problem.maps] += nodes.weight[i] * pull * z;
        });
      });
      return { truth: [...problem.truth()], forms: sums };
    });
  },
  /** Relative errors of the estimates after so many samples, and the right one's standard errors. */
  estimates({ setting, huberC, count }) {
    const estimates = new theorem.Estimates(
      new theorem.LineProblem(theorem.SETTINGS[setting], huberC, "frozen"), new theorem.Random(1));
    while (estimates.count < count) estimates.draw();
    return {
      errors: estimates.errors.map((_, f) => theorem.relativeError(estimates.estimate(f), estimates.truth)),
      away: [...estimates.estimate(0)].map((value, i) => value - estimates.truth[i]),
      standard: [...estimates.standardErrors()],
    };
  },
  /** What the worker answers to the page's messages. */
  messages({ requests }) {
    return requests.map((request) => {
      scope.reply = null;
      scope.onmessage({ data: request.kind === "start" ? { ...request, plan: leash.readAddress(request.hash).plan } : request });
      return scope.reply && { step: scope.reply.step, over: scope.reply.over, behind: scope.reply.behind };
    });
  },
};

const { task, ...question } = JSON.parse(readFileSync(0, "utf8"));
// numbers that JSON does not know travel as words
const words = (_, value) => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value);
process.stdout.write(JSON.stringify(tasks[task](question), words));
