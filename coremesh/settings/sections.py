"""Every setting of coremesh, by concern, with its default and its meaning."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from coremesh.settings.loader import Section
from coremesh.settings.redisurl import complete, parse_address


class RedisSettings(Section):
    """Where the event history is."""

    section: ClassVar[str] = "redis"

    url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="redis://, rediss:// (TLS), unix://, redis[s]+sentinel:// or redis[s]+cluster:// address of "
        "Redis 6.2+",
    )
    username: str = Field("", description="ACL user; wins over the address's")
    password: SecretStr = Field(SecretStr(""), description="password; wins over the address's")
    tls_ca: Path | None = Field(
        None, description="file of the CAs that sign Redis's certificate; none: the system's"
    )
    timeout_s: float = Field(5.0, gt=0, le=60, description="seconds that one command may take")

    @field_validator("url")
    @classmethod
    def _scheme(cls, url: str) -> str:
        parse_address(url)
        return url

    @field_validator("tls_ca")
    @classmethod
    def _with_tls(cls, tls_ca: Path | None, info: ValidationInfo) -> Path | None:
        if tls_ca and "url" in info.data and not parse_address(info.data["url"]).tls:
            raise ValueError("redis.url is not of the kind rediss://")
        return tls_ca

    @property
    def address(self) -> str:
        """The URL to connect to: with user, password and CA in it. Not for logs."""
        return complete(
            self.url,
            username=self.username,
            password=self.password.get_secret_value(),
            tls_ca=str(self.tls_ca or ""),
        )


class ChainSettings(Section):
    """Which chain and subnet."""

    section: ClassVar[str] = "chain"

    network: str = Field("ws://127.0.0.1:9944", description="finney, test, or a ws:// address of a node")
    netuid: int = Field(1, ge=0, le=65535, description="the subnet")
    fallbacks: tuple[str, ...] = Field(
        (), description="JSON list of ws:// addresses to try next; empty: the network's public ones"
    )
    timeout_s: float = Field(20.0, gt=0, le=600, description="seconds that one chain call may take")
    submit_timeout_s: float = Field(
        90.0, gt=0, le=600, description="seconds that weights may take to be included"
    )
    sync_blocks: int = Field(100, ge=1, description="blocks between metagraph syncs")
    sync_s: float = Field(
        300.0, gt=0, description="seconds between metagraph syncs, where they come before sync_blocks"
    )
    vpermit_tao_limit: float = Field(
        1024.0, ge=0, description="stake (TAO) above which a permit makes a validator"
    )


class WalletSettings(Section):
    """The validator's hotkey. The coldkey is never read."""

    section: ClassVar[str] = "wallet"

    path: Path = Field(Path("~/.bittensor/wallets"), description="directory of wallets")
    name: str = Field("default", min_length=1, description="wallet (coldkey) name")
    hotkey: str = Field("default", min_length=1, description="hotkey name")


class LogSettings(Section):
    """How a service logs."""

    section: ClassVar[str] = "log"

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info",
        description="least severe level written; at debug an unexpected error is shown whole and may quote a text",
    )
    format: Literal["json", "console"] = Field("json", description="json for machines, console for people")


class TraceSettings(Section):
    """OpenTelemetry traces; off without an endpoint."""

    section: ClassVar[str] = "traces"

    endpoint: str = Field(
        "",
        description="http:// or https:// address of an OTLP/HTTP collector (port 4318, mostly); empty: no traces",
    )
    sample: float = Field(1.0, ge=0, le=1, description="share of requests that a trace is taken of")
    service: str = Field(
        "", description="name of the service in its traces; empty: coremesh- and its own name"
    )

    @field_validator("endpoint")
    @classmethod
    def _address(cls, endpoint: str) -> str:
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return endpoint


class HttpSettings(Section):
    """Where a service listens."""

    section: ClassVar[str] = "http"

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(0, ge=0, le=65535, description="port; 0 takes the service's own default")
    drain_s: float = Field(10.0, ge=0, le=300, description="seconds that open requests get after SIGTERM")
    receive_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="seconds that a request may take to arrive, or a client not to read its answer",
    )


class MeshSettings(Section):
    """How services find and trust each other."""

    section: ClassVar[str] = "mesh"

    token: SecretStr = Field(
        SecretStr(""), description="bearer token shared by the services; empty: loopback only"
    )
    gating_url: str = Field("http://127.0.0.1:8081", description="address of the gating service")
    reward_url: str = Field("http://127.0.0.1:8082", description="address of the reward service")
    weights_url: str = Field("http://127.0.0.1:8083", description="address of the weights service")
    querier_url: str = Field(
        "http://127.0.0.1:8080", description="address of the querier, for the command line"
    )
    trainer_url: str = Field(
        "http://127.0.0.1:8084", description="address of the training loop, for the command line"
    )

    @field_validator("gating_url", "reward_url", "weights_url", "querier_url", "trainer_url")
    @classmethod
    def _address(cls, url: str) -> str:
        # Not quoted: it may hold a password.
        try:
            parts = urlsplit(url)
            whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            whole = False
        if not whole:
            raise ValueError("must be an address like http://reward:8082, with http:// or https:// before it")
        return url


class GatingSettings(Section):
    """Learning whom to ask."""

    section: ClassVar[str] = "gating"

    rule: Literal["bayes", "rls", "original", "original_zeroed"] = Field(
        "bayes", description="how the head learns; original keeps the first validator's rule"
    )
    encoder: str = Field(
        "sentence-transformers/all-MiniLM-L6-v2", description="path or hub name of the text encoder"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    learning_rate: float = Field(0.01, gt=0, le=10, description="step size of the original rule")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of the original rule")
    explore: float = Field(0.05, ge=0, le=1, description="share of a choice that is drawn at random")
    k_max: int = Field(64, ge=1, le=4096, description="most miners that an automatic choice asks")
    cache_entries: int = Field(4096, ge=0, le=1_000_000, description="prompt embeddings kept")
    queue: int = Field(1024, ge=1, le=100_000, description="prompts that may wait for the encoder")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the encoder")
    follow_s: float = Field(0.5, gt=0, le=60, description="seconds between looks for a newer head")
    save_s: float = Field(1.0, ge=0, le=600, description="least seconds between checkpoints of the head")


class RewardSettings(Section):
    """Scoring completions."""

    section: ClassVar[str] = "reward"

    stack: Path | None = Field(None, description="TOML file of the reward stack; none: relevance and masks")
    shadow: Path | None = Field(None, description="TOML file of a second stack, scored and never counted")
    shadow_share: float = Field(
        0.1, ge=0, le=1, description="share of training events that the shadow stack scores"
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="precision of the models' weights"
    )
    fused: bool = Field(
        True, description="use kernels of our own where they prove right and faster (on a GPU: Triton)"
    )
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the models")
    step_tokens: int = Field(
        0, ge=0, le=1_000_000, description="tokens in one step of the engine; 0: what the device likes"
    )
    queue: int = Field(256, ge=1, le=100_000, description="requests that may wait for the engine")
    queue_bytes: int = Field(
        64 * 1024 * 1024, ge=1024, description="bytes of text in waiting requests; beyond: 429"
    )
    stuck_s: float = Field(
        300.0, gt=0, le=3600, description="seconds that one step may take before the process ends"
    )
    max_completions: int = Field(512, ge=1, le=4096, description="completions in one request")
    max_text_bytes: int = Field(
        256 * 1024,
        ge=1024,
        description="bytes of one message; of a longer completion the beginning is scored",
    )
    max_request_bytes: int = Field(16 * 1024 * 1024, ge=1024, description="bytes of one request")
    nsfw_filter: bool = Field(
        True, description="judge prompts and completions for safety where a filter is configured"
    )


class QuerierSettings(Section):
    """Asking miners and answering users."""

    section: ClassVar[str] = "querier"

    role: Literal["api", "trainer"] = Field("api", description="serve users, or run the training loop")
    protocol: Literal["btauth", "synapse", "epistula"] = Field(
        "btauth", description="how miners are spoken to"
    )
    synapse_class: str = Field(
        "Prompting",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="class of the subnet's synapse, thus its path (protocol synapse)",
    )
    synapse_backward_class: str = Field(
        "",
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        description="class of the synapse that tells rewards; empty: miners are not told (protocol synapse)",
    )
    synapse_roles: str = Field(
        "roles", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="its field of the messages' roles"
    )
    synapse_messages: str = Field(
        "messages", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="its field of the messages' texts"
    )
    synapse_completion: str = Field(
        "completion", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="its field of the answer"
    )
    synapse_required: tuple[str, ...] = Field(
        (),
        description="JSON list of its fields without a default, as name:type with a type of list, str, dict, int, "
        "float or bool; empty: roles and messages, which are lists",
    )
    synapse_hash_fields: tuple[str, ...] = Field(
        (), description="JSON list of the synapse's required_hash_fields, in its order"
    )
    epistula_model: str = Field(
        "", max_length=200, description="model asked of OpenAI-compatible miners; empty: none is named"
    )
    allow_loopback: bool = Field(False, description="ask miners on 127.0.0.0/8: for the devnet only")
    allow_networks: tuple[str, ...] = Field(
        (),
        description="JSON list of networks whose miners are asked though not public: for a devnet in containers",
    )
    inference_topk: int = Field(10, ge=1, le=4096, description="miners asked for a user's prompt")
    inference_timeout_s: float = Field(
        10.0, gt=0, le=120, description="seconds that miners get for a user's prompt"
    )
    timeout_per_char_s: float = Field(
        0.0,
        ge=0,
        le=10,
        description="seconds more for each character of a user's prompt, system messages apart, up to "
        "querier.max_timeout_s; a caller's own timeout stays as it is",
    )
    max_timeout_s: float = Field(60.0, gt=0, le=600, description="longest timeout that a caller may ask for")
    max_messages: int = Field(64, ge=1, le=1024, description="messages in one prompt")
    max_prompt_chars: int = Field(32_000, ge=100, le=1_000_000, description="characters in one prompt")
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="bytes of one miner's answer")
    max_concurrent: int = Field(
        64, ge=1, le=4096, description="user requests served at once; beyond: they queue by priority"
    )
    queue_length: int = Field(64, ge=0, le=4096, description="user requests that may queue; beyond: 429")
    queue_wait_s: float = Field(
        2.0, gt=0, le=60, description="seconds that a user request may queue; beyond: 429"
    )
    use_reward_model: bool = Field(True, description="choose the completion with the highest reward")
    no_nsfw_filter: bool = Field(False, description="do not judge prompts and completions for safety")
    filter_when_away: Literal["pass", "refuse"] = Field(
        "pass",
        description="users' texts while the reward service, which judges their safety, is away: pass them, saying so "
        "in degraded, or refuse with 503 and Retry-After",
    )
    min_completion_chars: int = Field(
        11, ge=1, le=1000, description="shortest completion that counts as success"
    )
    score_organic: bool = Field(True, description="record and score users' requests")
    spool: Path = Field(Path("spool"), description="directory where events wait while Redis is away")
    spool_max_events: int = Field(10_000, ge=1, description="events that may wait")
    api_keys: tuple[SecretStr, ...] = Field(
        (), description="JSON list of keys that callers must send; empty: open, see require_key"
    )
    require_key: bool = Field(
        False,
        description="refuse callers without a key or a signature though api_keys is empty: `coremesh keys` makes keys",
    )
    key_cache_s: float = Field(
        60.0,
        ge=0,
        le=3600,
        description="seconds that a key seen before still counts while Redis is away, its limits kept by each replica",
    )
    hotkey_callers: Literal["off", "registered", "any"] = Field(
        "registered", description="whose btauth signatures are taken instead of a key"
    )
    hotkey_blacklist: tuple[str, ...] = Field((), description="JSON list of hotkeys that are never served")
    hotkey_per_minute: int = Field(
        60, ge=0, le=60_000, description="requests a minute of one hotkey; 0: no limit"
    )
    hotkey_concurrent: int = Field(
        4, ge=0, le=4096, description="requests at once of one hotkey; 0: no limit"
    )
    axon_off: bool = Field(False, description="do not publish this querier on the chain")
    axon_ip: str = Field(
        "",
        description="address published on the chain; empty: the one listened on, where others can reach it",
    )
    axon_port: int = Field(
        0, ge=0, le=65535, description="port published on the chain; 0: the one listened on"
    )
    operator_token: SecretStr = Field(
        SecretStr(""), description="token for /forward; empty: loopback callers only"
    )
    allow_open: bool = Field(
        False, description="serve others without keys: only where something in front keeps strangers out"
    )
    gating_timeout_s: float = Field(1.0, gt=0, le=60, description="seconds that choosing miners may take")
    reward_timeout_s: float = Field(
        4.0, gt=0, le=600, description="seconds that scoring may take while a user waits"
    )
    dashboard: bool = Field(True, description="serve the dashboard at /")
    grace_s: float = Field(
        0.15, ge=0, le=60, description="seconds given to further miners once wait_for have answered"
    )
    max_metagraph_age_s: float = Field(
        3600.0, gt=0, description="age of the metagraph beyond which the service is not ready"
    )

    @field_validator("synapse_completion")
    @classmethod
    def _distinct(cls, completion: str, info: ValidationInfo) -> str:
        names = [completion, *(info.data.get(f"synapse_{name}") for name in ("roles", "messages"))]
        if len(set(names)) < len(names):
            raise ValueError("roles, messages and completion: several fields of one name")
        return completion

    @field_validator("synapse_required")
    @classmethod
    def _required(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        for field in fields:
            name, _, kind = field.partition(":")
            if not name.isidentifier() or kind not in ("list", "str", "dict", "int", "float", "bool"):
                raise ValueError(f"{field!r} is no name:type such as messages:list")
        return fields

    @field_validator("synapse_hash_fields")
    @classmethod
    def _hashed(cls, fields: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        given = info.data
        sent = {given.get(f"synapse_{name}", name) for name in ("roles", "messages", "completion")} | {
            "timeout"
        }
        if unknown := sorted(set(fields) - sent):
            raise ValueError(f"{', '.join(unknown)}: not among what is sent: {', '.join(sorted(sent))}")
        return fields

    @field_validator("allow_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ip_network(network)  # raises ValueError, which says what is wrong with it
        return networks

    @field_validator("axon_ip")
    @classmethod
    def _axon_ip(cls, address: str) -> str:
        if address and (ip_address(address).is_unspecified or ip_address(address).is_multicast):
            raise ValueError("nobody can be reached there")
        return address


class TrainerSettings(Section):
    """The training loop."""

    section: ClassVar[str] = "trainer"

    loop: Literal["original", "follow_up", "context"] = Field(
        "follow_up",
        description="question and answer; the same, following up on the last best answer; or a context, its "
        "summary and four questions on it, each asked of other miners",
    )
    source: Literal["network", "bundled", "folder", "hub", "mixed"] = Field(
        "mixed",
        description="what a line of questions starts from: a question of the network's own, a bundled one, a "
        "text of trainer.folder or of trainer.dataset, or all that are set up in turn",
    )
    folder: Path | None = Field(
        None, description="folder of .txt, .md, .jsonl and .parquet files (the last need pyarrow)"
    )
    dataset: str = Field("", description="data set on the hub (needs the library datasets)")
    dataset_config: str = Field("", description="configuration of the data set; empty: its default")
    dataset_split: str = Field("train", description="split of the data set")
    text_field: str = Field(
        "text", min_length=1, description="column of the data set, or of a row of .jsonl and .parquet files"
    )
    topk: int = Field(50, ge=-1, le=4096, description="miners asked in a training step; -1: all")
    timeout_s: float = Field(4.0, gt=0, le=120, description="seconds that miners get for an answer")
    question_timeout_s: float = Field(
        12.0, gt=0, le=120, description="seconds that miners get for a question"
    )
    timeout_per_char_s: float = Field(
        0.0,
        ge=0,
        le=10,
        description="seconds more for each character of what is asked, system messages apart, up to 120 in all",
    )
    random_sample: bool = Field(True, description="draw the miners of a training step at random")
    question_random_sample: bool = Field(False, description="draw the miners of a question step at random")
    reset_steps: int = Field(
        3, ge=1, le=1000, description="every so many steps start from the source again (loop follow_up)"
    )
    pause_s: float = Field(0.0, ge=0, le=3600, description="seconds between steps")
    events_per_minute: float = Field(
        0.0, ge=0, le=100_000, description="events wanted, at most; 0: as many as can be had"
    )
    in_flight: int = Field(2, ge=1, le=64, description="forwards running at once")
    train_network: bool = Field(False, description="send rewards back to the miners")
    reward_timeout_s: float = Field(60.0, gt=0, le=600, description="seconds that scoring a step may take")
    lease_s: float = Field(6.0, ge=1, le=300, description="seconds until another instance takes over")
    max_question_chars: int = Field(
        1000, ge=20, le=100_000, description="characters kept of a question that a miner made up"
    )
    base_prompt: str = Field(
        "", description="system message before a training question; empty: the bundled one"
    )
    question_prompt: str = Field("", description="asks the network for a question; empty: the bundled one")
    follow_up_prompt: str = Field("", description="asks for a follow-up question; empty: the bundled one")
    summary_prompt: str = Field("", description="asks for a summary of a text; empty: the bundled one")


class WeightsSettings(Section):
    """Moving averages and weights."""

    section: ClassVar[str] = "weights"

    rule: Literal["softmax_ema", "softmax_ema_corrected", "shrunk_z"] = Field(
        "softmax_ema", description="how rewards become scores"
    )
    alpha: float = Field(0.99, ge=0, lt=1, description="share of the old score kept by an event")
    temperature: float = Field(1.0, ge=0.001, le=100, description="divides rewards before the softmax")
    no_history: Literal["uniform", "skip"] = Field("uniform", description="weights while nothing was scored")
    epoch_length_override: int = Field(
        -1, ge=-1, description="blocks between submissions; -1: the subnet's tempo"
    )
    dry_run: bool = Field(False, description="compute and record, never submit")
    min_events: int = Field(1, ge=0, description="events since the last submission, else it is held")
    min_miners: int = Field(
        1, ge=0, description="distinct miners scored since the last submission, else it is held"
    )
    max_move: float = Field(
        2.0, gt=0, le=2, description="largest L1 distance between two vectors, else it is held"
    )
    max_metagraph_age_blocks: int = Field(1000, ge=1, description="oldest metagraph to submit with")
    max_event_age_s: float = Field(
        0.0, ge=0, description="oldest newest scored event to submit with; 0: any age"
    )
    version_key: int = Field(
        -1, ge=-1, description="version key sent with weights; -1: the one that the subnet asks for"
    )
    keep_events: int = Field(100_000, ge=1, description="events kept in Redis")
    trim_folds: tuple[str, ...] = Field(
        ("scores", "gating:head"),
        min_length=1,
        description="JSON list of folds that events are kept for, whatever their number",
    )
    trim_s: float = Field(30.0, gt=0, le=3600, description="seconds between trims of the history")
    interval_s: float = Field(1.0, gt=0, le=60, description="seconds between looks at the chain's block")
    lease_s: float = Field(
        6.0, ge=0.5, le=60, description="seconds that a leader lives on in its lease: how late the standby is"
    )

    @property
    def look_every(self) -> timedelta:
        """The time between looks at the chain's block."""
        return timedelta(seconds=self.interval_s)


class ArchiveSettings(Section):
    """The history outside of Redis: Parquet for replays and research, and the first validator's event log."""

    section: ClassVar[str] = "archive"

    to: str = Field(
        "", description="folder or s3://bucket/prefix of the Parquet archive; empty: none is kept"
    )
    texts: bool = Field(False, description="archive prompts and completions too")
    part_rows: int = Field(10_000, ge=1, le=1_000_000, description="events in one part")
    part_s: float = Field(
        900.0, gt=0, le=86_400, description="seconds after which a part is written with what there is"
    )
    timeout_s: float = Field(120.0, gt=0, le=3600, description="seconds that writing one part may take")
    s3_endpoint: str = Field(
        "", description="http:// or https:// address of an S3-compatible storage; empty: AWS"
    )
    s3_region: str = Field("us-east-1", min_length=1, description="region of the bucket")
    event_log: Path | None = Field(
        None, description="folder of the rotating event log, JSON lines in events.log; none: it is not kept"
    )
    event_log_bytes: int = Field(
        2_000_000_000, ge=10_000, description="size at which the event log is rotated"
    )
    event_log_files: int = Field(
        1, ge=1, le=1000, description="rotated event logs kept beside the current one"
    )
    dont_save_events: bool = Field(False, description="keep no event log, whatever event_log says")

    @field_validator("to")
    @classmethod
    def _to(cls, to: str) -> str:
        if "://" in to and not to.startswith("s3://"):
            raise ValueError("must be a folder or start with s3://")
        if to.startswith("s3://") and not to[5:].strip("/"):
            raise ValueError("names no bucket")
        return to

    @field_validator("s3_endpoint")
    @classmethod
    def _endpoint(cls, endpoint: str) -> str:
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return endpoint


class WandbSettings(Section):
    """Weights & Biases as a sink of events, by the leader of the weights service."""

    section: ClassVar[str] = "wandb"

    mode: Literal["off", "online", "offline"] = Field(
        "off", description="off; online: sent as it happens; offline: kept in files for `wandb sync`"
    )
    project: str = Field("coremesh", min_length=1, max_length=128, description="project of the runs")
    entity: str = Field("", description="user or team of the project; empty: the key's own")
    key: SecretStr = Field(SecretStr(""), description="API key; empty: WANDB_API_KEY or wandb's own login")
    directory: Path = Field(Path("wandb"), description="folder of wandb's files")
    run_events: int = Field(360, ge=1, le=1_000_000, description="forwards in one run; then another begins")
    notes: str = Field("", max_length=1000, description="notes of each run")
    tags: tuple[str, ...] = Field((), max_length=20, description="JSON list of more tags of each run")
    texts: bool = Field(False, description="show prompts and completions too")
    timeout_s: float = Field(
        120.0,
        gt=0,
        le=3600,
        description="seconds that wandb may take for a page before its process is killed",
    )


ALL_SECTIONS: tuple[type[Section], ...] = (
    RedisSettings,
    ChainSettings,
    WalletSettings,
    LogSettings,
    TraceSettings,
    HttpSettings,
    MeshSettings,
    GatingSettings,
    RewardSettings,
    QuerierSettings,
    TrainerSettings,
    WeightsSettings,
    ArchiveSettings,
    WandbSettings,
)
