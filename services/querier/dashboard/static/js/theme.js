// Runs before the first paint, so that a chosen theme does not flash. Blocking on purpose.
(() => {
  const root = document.documentElement;
  let kept = null;
  try { kept = localStorage.getItem("coremesh.theme"); } catch { /* storage is refused: follow the system */ }
  if (kept === "light" || kept === "dark") root.dataset.theme = kept;
})();
