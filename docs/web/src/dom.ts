/** Small helpers to make and find elements. */

export function byId<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found as T;
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K, properties: Partial<HTMLElementTagNameMap[K]> = {}, ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function choice(id: string, options: Readonly<Record<string, string>>, chosen: (value: string) => void): HTMLSelectElement {
  const select = make("select", { id });
  for (const [value, label] of Object.entries(options)) select.add(new Option(label, value));
  select.onchange = () => chosen(select.value);
  return select;
}

export interface Slider {
  row: HTMLElement;
  show(value: number): void;
}

/** A slider with its value as text; on a logarithmic scale if `log`. */
export function slider(
  input: HTMLInputElement, output: HTMLOutputElement, log: boolean, text: (value: number) => string, moved: (value: number) => void,
): Pick<Slider, "show"> {
  input.oninput = () => moved(log ? Number((10 ** Number(input.value)).toPrecision(3)) : Number(input.value));
  return {
    show(value) {
      // zero has no logarithm: it is at the slider's low end
      input.value = log && value <= 0 ? input.min : String(log ? Math.log10(value) : value);
      output.textContent = text(value);
      input.setAttribute("aria-valuetext", text(value));
    },
  };
}

/** The same, in a row of its own. */
export function sliderRow(
  id: string, label: string, [min, max, step]: readonly [number, number, number], log: boolean,
  text: (value: number) => string, moved: (value: number) => void,
): Slider {
  const input = make("input", { id, type: "range", min: String(min), max: String(max), step: String(step) });
  const output = make("output");
  const row = make("label", { className: "row", htmlFor: id }, label, input, output);
  return { row, ...slider(input, output, log, text, moved) };
}

export function choiceRow(
  id: string, label: string, options: Readonly<Record<string, string>>, chosen: (value: string) => void,
): { row: HTMLElement; select: HTMLSelectElement } {
  const select = choice(id, options, chosen);
  return { row: make("label", { className: "row", htmlFor: id }, label, select), select };
}

/** A sentence in the page's notice, which is hidden until there is one. */
export function notice(text: string): void {
  const place = byId("notice");
  place.hidden = false;
  place.textContent = text;
}

/** A question, by its number from 1, and its answers as buttons, made anew where it is another one; the answer given is pressed.
 * One that has been left stays in its place, and cannot be answered.
 */
export function showQuestion(
  number: number, story: { question: string; answers: readonly string[] } | undefined, given: number | null,
  answer: (choice: number) => void, left = false,
): void {
  const press = (button: Node, pressed: boolean) => (button as HTMLElement).setAttribute("aria-pressed", String(pressed));
  byId("stories").childNodes.forEach((button, i) => press(button, i + 1 === number && !left));
  byId("story").hidden = !story;
  if (!story) return;
  byId("question").textContent = story.question;
  const answers = byId("answers");
  if (answers.dataset.story !== String(number)) {
    answers.dataset.story = String(number);
    answers.replaceChildren(
      ...story.answers.map((textContent, i) => make("button", { type: "button", textContent, onclick: () => answer(i) })));
  }
  answers.childNodes.forEach((button, i) => {
    press(button, i === given && !left);
    (button as HTMLButtonElement).disabled = left;
  });
}
