from __future__ import annotations

import re

import pytest

from coremesh.settings import legacy
from tests.unit.docs.references import text

# The first validator's constants, methods, steps, settings and faults, each as parity.md has it in a row.
ORIGINAL = {
    "Constants": ("default question prompt", "default base prompt", "follow-up prompt"),
    "Methods": (
        *("`check_config`", "`add_args`, `config`", "`record_event`", "`forward`", "`inference`", "`train`"),
        *("`compute_weights`", "`save` / `load`", "`check_weights`", "`filter_message`"),
        *(
            f"`__init__`: {part}"
            for part in (
                *(
                    "device",
                    "subtensor, metagraph",
                    "wallet",
                    "registration check",
                    "tokenizer, reward model",
                ),
                *("gating model", "dendrite pools", "history queue", "nominators", "moving scores restored"),
                *("safety filter model", "axon served on chain unless off"),
            )
        ),
    ),
    "forward": (
        *("1 flatten messages", "2 available uids", "3 choose", "4 query concurrently", "5 success"),
        *("6 rewards", "7 `train_gating_model`", "8 `train_network`", "9 the event", "10 scores"),
    ),
    "inference": (
        *("filter the user's message", "top `inference_topk`, `inference_timeout`"),
        *("drop empty and unsafe completions", "first good one in gating order, or highest reward"),
        *("`return_all`", "reached over the neuron's axon", "own hotkey never served by itself"),
        "callers prioritised by the stake they delegate",
    ),
    "train": (
        *("endless question, then answer", "question prompt, random uids"),
        "later version: a dataset passage every 3rd step, else last answer plus follow-up prompt",
        "keep the question when its difference reward is positive, it is safe and longer than 10 characters",
        "the question with the base prompt, random uids, training gating",
        "every ~100 blocks: sync, save, nominators, `check_weights`",
        "every epoch: compute and set weights",
    ),
    "compute_weights": (
        *("no history: equal weights", "moving scores in event order, resets in their place"),
        *("NaN to 0, divided by their sum", "minimum number of weights, maximum weight", "(uids, weights)"),
    ),
    "Settings": (
        *("netuid 1", "base prompt", "question prompt", "follow-up prompt"),
        *("reset of the bootstrap prompt every 3 steps", "reward model name", "reward model path"),
        *("length timeout multiplier 0.01", "inference_topk 10", "training_topk 50", "training_timeout 4 s"),
        *("inference_timeout 10 s", "question timeout 12 s", "inference_only off", "axon_off off"),
        *("axon ip and port", "max_history 100,000", "device", "epoch_length_override -1"),
        *("dont_save_events off", "events_retention_size 2 GB", "no_reward_model off"),
        *(
            "question_random_sample_uids off",
            "reward_shift 3",
            "no_nsfw_filter off",
            "vpermit_tao_limit 1024",
        ),
        *("gating model name (a 125M decoder)", "gating learning rate 0.01", "gating momentum 0.9"),
        *("gating num_uids from the metagraph", "wallet name, hotkey, path", "subtensor network"),
        *("logging directory", "logging level"),
    ),
    "Known faults, not repeated": (
        *("gradients never zeroed", "gating model thrown away when the metagraph grows"),
        *("reward model run four times on padded text", "`inference` with the reward model crashes"),
        *("equal weights of the wrong shape", "a miner's failure ends the training loop"),
        *("scores lost between saves", "blocking chain calls in the event loop"),
        "one process, so the GPU idles",
    ),
}


def rows(section: str) -> dict[str, str]:
    """First cell to second of a section's table."""
    part = text("parity.md").split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\| (.+?) \| (.+) \|$", part, re.MULTILINE)
    return dict(cells[1:])


@pytest.mark.parametrize("section", ORIGINAL)
def test_every_row_of_the_original_has_its_place(section: str) -> None:
    found = rows(section)
    assert sorted(found) == sorted(ORIGINAL[section])
    assert [name for name, where in found.items() if len(where) < 3] == []


def test_what_is_missing_is_said_in_the_end() -> None:
    page = text("parity.md")
    said = page.split("\n## Missing\n", 1)[1]
    missing = [
        name for section in ORIGINAL for name, where in rows(section).items() if "**missing**" in where
    ]
    assert missing == []
    assert said.strip() == "Nothing that is known."


# Rows of the original's settings, and the options that they were on its command line.
OPTIONS = {
    "netuid 1": ("netuid",),
    "base prompt": ("neuron.base_prompt",),
    "question prompt": ("neuron.question_prompt",),
    "follow-up prompt": ("neuron.follow_up_prompt",),
    "reset of the bootstrap prompt every 3 steps": ("neuron.reset_bootstrap_prompt_frequency",),
    "reward model name": ("neuron.reward_model_name",),
    "reward model path": ("neuron.reward_path",),
    "length timeout multiplier 0.01": ("neuron.length_timeout_multiplier",),
    "inference_topk 10": ("neuron.inference_topk",),
    "training_topk 50": ("neuron.training_topk",),
    "training_timeout 4 s": ("neuron.training_timeout",),
    "inference_timeout 10 s": ("neuron.inference_timeout",),
    "question timeout 12 s": (),  # a constant in its code
    "inference_only off": ("neuron.inference_only",),
    "axon_off off": ("neuron.axon_off",),
    "axon ip and port": ("axon.ip", "axon.port", "axon.external_ip", "axon.external_port"),
    "max_history 100,000": ("neuron.max_history",),
    "device": ("neuron.device",),
    "epoch_length_override -1": ("neuron.epoch_length_override",),
    "dont_save_events off": ("neuron.dont_save_events",),
    "events_retention_size 2 GB": ("neuron.events_retention_size",),
    "no_reward_model off": ("neuron.no_reward_model",),
    "question_random_sample_uids off": ("neuron.question_random_sample_uids",),
    "reward_shift 3": ("neuron.reward_shift",),
    "no_nsfw_filter off": ("neuron.no_nsfw_filter",),
    "vpermit_tao_limit 1024": ("neuron.vpermit_tao_limit",),
    "gating model name (a 125M decoder)": ("gating.model_name",),
    "gating learning rate 0.01": ("gating.learning_rate",),
    "gating momentum 0.9": ("gating.momentum",),
    "gating num_uids from the metagraph": ("gating.num_uids",),
    "wallet name, hotkey, path": ("wallet.name", "wallet.hotkey", "wallet.path"),
    "subtensor network": ("subtensor.network", "subtensor.chain_endpoint"),
    "logging directory": ("logging.logging_dir", "logging.record_log"),
    "logging level": ("logging.debug", "logging.trace"),
}


def test_every_setting_of_the_original_is_an_option_here_taken_or_refused() -> None:
    assert sorted(OPTIONS) == sorted(ORIGINAL["Settings"])
    named = [name for names in OPTIONS.values() for name in names]
    assert [name for name in named if name not in legacy.BY_NAME] == []
    page = text("options.md")
    assert [name for name in legacy.BY_NAME if page.count(f"| `--{name}` |") != 1] == []
    # What an option became is what its row of this page names.
    settings = rows("Settings")
    for row, names in OPTIONS.items():
        for name in names:
            targets = [setting for setting, _ in legacy.BY_NAME[name].to]
            assert [target for target in targets if target not in settings[row]] == [], row
