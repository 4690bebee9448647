// The words of the mesh, told to people who do not know them.

/** What a status of a request to a miner means. */
export const STATUSES = {
  ok: "a completion, long enough to count",
  timeout: "no full answer in time",
  refused: "no connection, or closed before the answer was complete",
  bad_status: "an HTTP status other than 200",
  too_big: "more bytes, headers or characters than allowed",
  malformed: "not what the protocol asks for: bad HTTP, bad JSON or the wrong shape",
  blocked_address: "its address may not be asked; nothing was sent",
  empty: "no text",
  short: "too few characters to count as an answer",
  unsafe: "dropped by the safety filter",
  breaker_open: "not asked: it failed too often of late",
  not_sent: "not asked, for a reason of ours",
  pending: "had not answered yet",
};

/** What an event of a kind is. */
export const KINDS = {
  question: "the trainer has miners think of a question",
  answer: "the trainer has miners answer a question",
  inference: "a user asks",
  forward: "an operator asks",
  metagraph: "the chain changed who holds which uid",
};

/** What became of an attempt to set weights. */
export const RESULTS = {
  landed: "the chain holds the weights that were sent",
  committed: "the chain holds them locked until their reveal",
  revealed: "unlocked, and in force on the chain",
  superseded: "later weights took their place",
  held: "due, but not sent: see the reason",
  failed: "the chain does not hold them: see the reason",
  sent: "sent, not yet read back from the chain",
  dry_run: "worked out, not sent: a dry run",
};
