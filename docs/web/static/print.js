// Paper is white: the dark mode steps aside while a page is printed.
(() => {
  const root = document.documentElement;
  let kept;
  addEventListener("beforeprint", () => {
    kept = root.dataset.theme;
    root.dataset.theme = "light";
  });
  addEventListener("afterprint", () => {
    root.dataset.theme = kept;
  });
})();
