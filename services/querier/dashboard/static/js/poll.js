// Asking again and again: never twice at once, slower after failures, not at all while nobody looks.
const LONGEST = 15000;

/** Calls `work` every `every` ms until stopped; `failed` hears what it throws. Gives {stop, soon}. */
export function poll(every, work, failed = () => {}) {
  let timer = 0;
  let stopped = false;
  let busy = false;
  let failures = 0;

  async function turn() {
    clearTimeout(timer);
    if (stopped || busy) return;
    if (document.hidden) return;
    busy = true;
    try {
      await work();
      failures = 0;
    } catch (error) {
      failures += 1;
      if (!stopped) failed(error);
    } finally {
      busy = false;
    }
    // Spread out, so that a hundred pages do not ask in step.
    const pause = Math.min(every * 2 ** Math.min(failures, 4), Math.max(every, LONGEST));
    if (!stopped) timer = setTimeout(turn, pause * (0.9 + 0.2 * Math.random()));
  }

  const woken = () => { if (!document.hidden) turn(); };
  document.addEventListener("visibilitychange", woken);
  turn();
  return {
    stop() {
      stopped = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", woken);
    },
    soon: turn,
  };
}
