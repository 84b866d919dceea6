// Light or dark: as was chosen on the site, which these pages may be a part of, else as the system has it. In the head, so that nothing
// is painted before.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem("mode");
  } catch {
    // some browsers give a file no storage
  }
  const show = () => {
    document.documentElement.dataset.theme = ["light", "dark"].includes(chosen) ? chosen : system.matches ? "dark" : "light";
  };
  show();
  system.addEventListener("change", show);
})();
