// Before the first paint: scripts run here, and the theme that was chosen on an earlier visit.
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const chosen = localStorage.getItem("robust-eval-theme");
    if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  } catch {
    // Pages opened from a file may not have storage.
  }
})();
