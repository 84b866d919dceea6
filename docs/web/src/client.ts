/** The page's end of the worker. */

import type { Reply, Request, Scope } from "./protocol.ts";

/** The worker's bundle as a function of its scope; build.mjs puts it before the page's bundle. */
declare const leashEngine: (self: Scope) => void;

export interface Engine {
  send(request: Request): void;
  /** Where it computes: beside the page, or in it where the browser allows no worker. */
  place: "worker" | "page";
}

/** A worker made of the script itself, since a page from file:// may load no other file as one. */
export function startEngine(receive: (reply: Reply) => void, failed: (message: string) => void): Engine {
  try {
    const source = new Blob([`(${leashEngine.toString()})(self)`], { type: "text/javascript" });
    const worker = new Worker(URL.createObjectURL(source));
    worker.onmessage = (event: MessageEvent<Reply>) => receive(event.data);
    worker.onerror = (event) => failed(event.message);
    return { send: (request) => worker.postMessage(request), place: "worker" };
  } catch {
    const scope: Scope = { onmessage: null, postMessage: (reply) => setTimeout(() => receive(reply)) };
    leashEngine(scope);
    return { send: (request) => scope.onmessage!({ data: request }), place: "page" };
  }
}
