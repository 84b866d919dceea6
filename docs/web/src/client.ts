/** The page's end of a worker that computes. */

/** A worker's global scope, or what stands in for it. */
export interface Scope<Request, Reply> {
  onmessage: ((event: { data: Request }) => void) | null;
  postMessage(reply: Reply): void;
  /** For the tests, which ask the very bytes that the page runs. */
  library?: unknown;
}

/** A worker made of the script itself, since a page from file:// may load no other file as one; in the page where the browser
 * allows none.
 *
 * @param engine the worker's bundle as a function of its scope; build.mjs puts it before the page's bundle.
 * @returns sends a request.
 */
export function startEngine<Request, Reply>(
  engine: (self: Scope<Request, Reply>) => void, receive: (reply: Reply) => void, failed: (message: string) => void,
): (request: Request) => void {
  try {
    const source = new Blob([`(${engine.toString()})(self)`], { type: "text/javascript" });
    const worker = new Worker(URL.createObjectURL(source));
    worker.onmessage = (event: MessageEvent<Reply>) => receive(event.data);
    worker.onerror = (event) => failed(event.message);
    return (request) => worker.postMessage(request);
  } catch {
    const scope: Scope<Request, Reply> = { onmessage: null, postMessage: (reply) => setTimeout(() => receive(reply)) };
    engine(scope);
    return (request) => scope.onmessage!({ data: request });
  }
}
