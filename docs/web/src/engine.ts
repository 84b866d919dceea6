/** The worker: it computes what the page draws. build.mjs wraps this bundle into a function of its scope `self`. */

import type { Scope } from "./client.ts";
import { fill, outlines } from "./contour.ts";
import { Adam, Generator } from "./generator.ts";
import { METHODS, knownLine, weightGradientKnown } from "./method.ts";
import { LEVELS, NoisedMixture, ring } from "./mixture.ts";
import type { Reply, Request } from "./protocol.ts";
import { Random } from "./random.ts";
import { REWARDS, rewardAt } from "./reward.ts";
import { decay, Run } from "./run.ts";
import { Session } from "./session.ts";
import { DEFAULT_LOOK, DEFAULT_SETTINGS, HORIZON, readAddress, writeAddress } from "./state.ts";
import { klBetween, summarise, summariseSamples } from "./summary.ts";
import { STORIES } from "./stories.ts";

declare const self: Scope<Request, Reply>;

let session: Session;

self.onmessage = ({ data }: { data: Request }) => {
  switch (data.kind) {
    case "start":
      session = new Session(data.plan, data.session);
      return;
    case "change":
      session.change(data.settings, data.paused);
      return;
    case "frame":
      session.run(data.steps, data.budget, () => performance.now());
      self.postMessage(session.frame(data.look, data.probe, data.eased));
  }
};

// for the tests, which ask the very bytes that the page runs
self.library = {
  Adam, DEFAULT_LOOK, DEFAULT_SETTINGS, Generator, HORIZON, LEVELS, METHODS, NoisedMixture, REWARDS, Random, Run, STORIES,
  Session, decay, fill, klBetween, knownLine, outlines, readAddress, rewardAt, ring, summarise, summariseSamples, weightGradientKnown,
  writeAddress,
};
