// Calls to this querier. A key stays in this tab: sessionStorage, and a header of our own requests only.
const KEY = "coremesh.key";
let key = read();

function read() {
  try { return sessionStorage.getItem(KEY) ?? ""; } catch { return ""; }
}

export const hasKey = () => key !== "";

export function setKey(given) {
  key = given.trim();
  try {
    if (key) sessionStorage.setItem(KEY, key);
    else sessionStorage.removeItem(KEY);
  } catch { /* storage is refused: the key lives as long as the page */ }
}

/** What went wrong, for people: `message`, `remedy`, `status` (0: nobody answered), `code`. */
export class Problem extends Error {
  constructor(status, code, message, remedy) {
    super(message);
    Object.assign(this, { status, code, remedy });
  }
}

export const get = (path, options = {}) => call("GET", `dashboard/api/${path}`, options);
export const post = (path, body, options = {}) => call("POST", path, { ...options, body });

async function call(method, path, { body = null, timeout = 8000, signal = null } = {}) {
  const headers = {};
  if (key) headers.authorization = `Bearer ${asHeader(key)}`;
  if (body) headers["content-type"] = "application/json";
  const signals = [AbortSignal.timeout(timeout), ...(signal ? [signal] : [])];
  let response;
  let answer;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal: AbortSignal.any(signals), cache: "no-store" });
    answer = await response.json();
  } catch (error) {
    if (signal?.aborted) throw new Problem(0, "cancelled", "Cancelled.", "");
    if (error.name === "TimeoutError") throw new Problem(0, "timeout", "The querier did not answer in time.", "Try again.");
    if (response && !response.ok) throw new Problem(response.status, "http", `The querier answered ${response.status}.`, "");
    throw new Problem(0, "away", "The querier does not answer.", "It may be restarting; this page keeps trying.");
  }
  if (!response.ok) {
    throw new Problem(response.status, String(answer?.code ?? "error"), String(answer?.message ?? response.status), String(answer?.remedy ?? ""));
  }
  return answer;
}

// A header takes Latin letters only; anything else is no key of ours.
const asHeader = (text) => text.replace(/[^\x21-\x7e]/g, "?");
