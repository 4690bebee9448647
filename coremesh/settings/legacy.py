"""The options of the first, one-process validator and of its successor openvalidators, and what each is now.

One table, as data: the loader reads flags by it, docs/parity.md is generated from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

FIRST = "first"
"""The core validator, text-prompting, 2023: its own options and those of the SDK's add_args."""
LATER = "later"
"""openvalidators, which followed it."""

Convert = Literal["same", "complement", "bytes"]
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the original. ``to`` are pairs of a setting and its value; ``{}`` is the value that was given.

    Nothing in ``to``: the option is refused, and ``why`` says what to do instead.
    """

    name: str
    to: tuple[tuple[str, str], ...] = ()
    why: str = ""
    takes: bool = True
    """Whether it takes a value, or is a switch."""
    convert: Convert = "same"
    """``complement``: 1 minus the value. ``bytes``: a size as loguru takes it, "2 GB", in bytes."""
    origin: str = FIRST

    @property
    def takes_what(self) -> str:
        """What a value that is to be converted has to be."""
        return "size like 2 GB" if self.convert == "bytes" else "number"

    def values(self, given: str) -> list[tuple[str, str]]:
        """Settings and their values for what was given. Raises ValueError where it cannot be converted."""
        if self.convert == "complement":
            given = f"{1.0 - float(given):.12g}"
        if self.convert == "bytes":
            given = str(_bytes(given))
        return [(setting, value.replace("{}", given)) for setting, value in self.to]


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([\d.]+) ?([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in UNITS:
        raise ValueError(text)
    return int(float(found[1]) * UNITS[found[2].upper()])


def _is(name: str, *settings: str, origin: str = FIRST, why: str = "") -> Option:
    return Option(name, tuple((setting, "{}") for setting in settings), why=why, origin=origin)


def _switch(name: str, setting: str, value: str, *, origin: str = FIRST, why: str = "") -> Option:
    return Option(name, ((setting, value),), why=why, takes=False, origin=origin)


def _gone(name: str, why: str, *, takes: bool = True, origin: str = FIRST) -> Option:
    return Option(name, why=why, takes=takes, origin=origin)


_STACK = "name it in a reward stack (reward.stack): docs/reward.md"
_DEVNET = "`coremesh up` runs a whole network on this machine, with real models"

OPTIONS: tuple[Option, ...] = (
    _is("netuid", "chain.netuid"),
    _gone("neuron.name", "state is in Redis, by netuid; give validators a Redis database each (redis.url)"),
    _is("neuron.base_prompt", "trainer.base_prompt"),
    _is("neuron.follow_up_prompt", "trainer.follow_up_prompt"),
    _is("neuron.reset_bootstrap_prompt_frequency", "trainer.reset_steps"),
    _is("neuron.question_prompt", "trainer.question_prompt"),
    _gone("neuron.reward_model_name", f"model of a function: {_STACK}"),
    _gone("neuron.reward_path", f"models are found by path or hub name: {_STACK}"),
    _gone("neuron.reward_shift", f"shift of a function: {_STACK}"),
    _is(
        "neuron.length_timeout_multiplier",
        *("querier.timeout_per_char_s", "trainer.timeout_per_char_s"),
        why="0 is the default here: the original declared 0.01, and had ceased to use it",
    ),
    _is("neuron.inference_topk", "querier.inference_topk"),
    _is("neuron.training_topk", "trainer.topk"),
    _is("neuron.training_timeout", "trainer.timeout_s"),
    _is("neuron.inference_timeout", "querier.inference_timeout_s"),
    _gone("neuron.inference_only", "do not start the trainer; it is a service of its own", takes=False),
    _switch("neuron.axon_off", "querier.axon_off", "true"),
    _is("neuron.max_history", "weights.keep_events"),
    _is("neuron.device", "gating.device", "reward.device"),
    _is("neuron.epoch_length_override", "weights.epoch_length_override"),
    _switch("neuron.dont_save_events", "archive.dont_save_events", "true"),
    Option(
        "neuron.events_retention_size",
        (("archive.event_log_bytes", "{}"),),
        why="in bytes: 2 GB is 2000000000",
        convert="bytes",
    ),
    _switch("neuron.no_reward_model", "querier.use_reward_model", "false"),
    _switch("neuron.question_random_sample_uids", "trainer.question_random_sample", "true"),
    _switch("neuron.no_nsfw_filter", "querier.no_nsfw_filter", "true"),
    _is("neuron.vpermit_tao_limit", "chain.vpermit_tao_limit"),
    _is("gating.model_name", "gating.encoder"),
    _gone("gating.num_uids", "nothing to say: the head is keyed by hotkey and grows with the metagraph"),
    _is("gating.learning_rate", "gating.learning_rate"),
    _is("gating.momentum", "gating.momentum"),
    _is("wallet.name", "wallet.name"),
    _is("wallet.hotkey", "wallet.hotkey"),
    _is("wallet.path", "wallet.path"),
    _gone("wallet._mock", _DEVNET, takes=False),
    _is("subtensor.network", "chain.network"),
    _is("subtensor.chain_endpoint", "chain.network"),
    _gone("subtensor._mock", _DEVNET, takes=False),
    _switch("logging.debug", "log.level", "debug"),
    _switch("logging.trace", "log.level", "debug", why="there is no level below debug"),
    _gone("logging.record_log", "services log to standard error, for whoever runs them", takes=False),
    _gone(
        "logging.logging_dir",
        "services log to standard error, for whoever runs them; the event log: archive.event_log",
    ),
    _is("axon.ip", "http.host"),
    _is("axon.port", "http.port"),
    _is("axon.external_ip", "querier.axon_ip"),
    _is("axon.external_port", "querier.axon_port"),
    _is("axon.max_workers", "querier.max_concurrent", why="requests served at once; the rest queue"),
    _is("axon.maximum_concurrent_rpcs", "querier.max_concurrent"),
    # openvalidators
    _is("neuron.num_concurrent_forwards", "trainer.in_flight", origin=LATER),
    _switch("neuron.disable_set_weights", "weights.dry_run", "true", origin=LATER),
    Option(
        "neuron.moving_average_alpha",
        (("weights.alpha", "{}"),),
        why="1 minus its value: it was the share of the new, weights.alpha is the share of the old",
        convert="complement",
        origin=LATER,
    ),
    _is("neuron.followup_timeout", "trainer.question_timeout_s", origin=LATER),
    _gone("neuron.followup_sample_size", "questions and answers ask trainer.topk miners", origin=LATER),
    _is("neuron.answer_timeout", "trainer.timeout_s", origin=LATER),
    _is("neuron.answer_sample_size", "trainer.topk", origin=LATER),
    _gone("neuron.scoring_timeout", f"a judge's timeout_s: {_STACK}", origin=LATER),
    _gone(
        "neuron.scoring_sample_size",
        "miners do not score each other; a judge may: docs/reward.md",
        origin=LATER,
    ),
    _gone("neuron.outsource_scoring", f"a judge does it: {_STACK}", takes=False, origin=LATER),
    _gone(
        "neuron.checkpoint_block_length", "nothing to say: saved after every batch of events", origin=LATER
    ),
    _gone(
        "neuron.use_custom_gating_model",
        "gating.encoder names any encoder, gating.rule the way it learns",
        takes=False,
        origin=LATER,
    ),
    _switch("neuron.nsfw_filter", "reward.nsfw_filter", "true", origin=LATER),
    _switch("wandb.off", "wandb.mode", "off", origin=LATER, why="off is the default here"),
    _is("wandb.project_name", "wandb.project", origin=LATER),
    _is("wandb.entity", "wandb.entity", origin=LATER),
    _switch("wandb.offline", "wandb.mode", "offline", origin=LATER),
    _gone("wandb.weights_step_length", "nothing to say: weights are told as they are set", origin=LATER),
    _is("wandb.run_step_length", "wandb.run_events", origin=LATER),
    _is("wandb.notes", "wandb.notes", origin=LATER),
    _gone("mock", _DEVNET, takes=False, origin=LATER),
    _gone("neuron.mock_reward_model", _DEVNET, takes=False, origin=LATER),
    _gone("neuron.mock_dendrite_pool", _DEVNET, takes=False, origin=LATER),
    _gone("neuron.mock_gating_model", _DEVNET, takes=False, origin=LATER),
    _gone("neuron.mock_dataset", _DEVNET, takes=False, origin=LATER),
    *(
        _gone(f"reward.{name}_weight", f"weight of a function: {_STACK}", origin=LATER)
        for name in ("rlhf", "dpo", "reciprocate", "dahoas", "prompt_based")
    ),
)

BY_NAME = {option.name: option for option in OPTIONS}
SECTIONS = frozenset(option.name.partition(".")[0] for option in OPTIONS if "." in option.name)


def find(name: str) -> Option | None:
    """The original's option of a flag's name, without ``--``; None for one that is a setting of ours as it is."""
    option = BY_NAME.get(name.replace("-", "_"))
    return None if option is None or option.to == ((option.name, "{}"),) else option


def spelt(option: Option) -> str:
    """What an option is now, in a few words."""
    if option.convert == "complement":
        return " and ".join(f"--{setting} (1 minus the value)" for setting, _ in option.to)
    return " and ".join(
        f"--{setting}" if value == "{}" else f"--{setting} {value}" for setting, value in option.to
    )


def table(options: Iterable[Option] = OPTIONS) -> list[tuple[str, str, str]]:
    """Rows for people: the option, what it is now (``refused`` where it is no more), and why or what to do."""
    rows: list[tuple[str, str, str]] = []
    for option in options:
        same = option.to == ((option.name, "{}"),)
        now = "the same" if same else f"`{spelt(option)}`" if option.to else "refused"
        rows.append((f"`--{option.name}`", now, option.why))
    return rows
