// Runs before the first paint: mark that scripts are available and restore the chosen theme.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const chosen = localStorage.getItem("robust-eval-theme");
    if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  } catch {
    // Pages opened from a file may have no storage.
  }
})();
