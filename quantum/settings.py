# intent_ref: ground.settings
"""What can be set, by environment variables with the prefix `QUANTUM_`. All of it is optional."""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from domain.tenant_limits import COUNT_MAX

PREFIX = "QUANTUM_"
ROLES = ("all", "write-api", "read-api", "worker", "projector", "relay", "saga", "webhooks")
StepCommand = Literal["start-execution", "cancel-execution", "signal-execution", "create-intent", "deprecate-intent"]
_TEST_PREFIX = PREFIX + "TEST_"
_SECRET_PREFIX = PREFIX + "SECRET_"  # tenants' secrets, see docs/secrets.md
_TENANT_PATTERN = re.compile(r"[a-z0-9*-]{1,63}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,200}")
_URL_SCHEMES = {
    "database_url": ("postgresql", "postgres"),
    "database_platform_url": ("postgresql", "postgres"),
    "database_owner_url": ("postgresql", "postgres"),
    "database_direct_url": ("postgresql", "postgres"),
    "redis_url": ("redis", "rediss", "unix"),
    "auth_jwks_url": ("https", "http"),
    "key_vault_url": ("https",),
    "public_url": ("https", "http"),
}


class SettingsError(Exception):
    """Settings that cannot be right. The message has one sentence for each, naming the environment variable."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class Settings(BaseSettings):
    """The platform's settings. `load_settings` reads them; a field's description is its row in the README."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    database_url: SecretStr | None = Field(
        None, description="PostgreSQL for the APIs, logging in as `quantum_app`. Unset: embedded PostgreSQL in the data directory"
    )
    database_platform_url: SecretStr | None = Field(
        None, description="The same database for what runs behind the APIs, logging in as `quantum_platform`"
    )
    database_owner_url: SecretStr | None = Field(
        None, description="The same database for `quantum migrate`, with a login that may create roles"
    )
    database_direct_url: SecretStr | None = Field(
        None, description="The same database past a pooler, as `quantum_platform`, for LISTEN and session locks"
    )
    database_statement_cache: bool = Field(True, description="Prepared statements; `false` behind pgbouncer in transaction mode")
    database_pool_size: int = Field(8, ge=2, le=1_000, description="Connections of each of a process's two pools, at most")
    data_dir: Path = Field(
        default_factory=lambda: user_data_path("quantum"),
        description="Directory of the embedded database and the local issuer's keys. Unset: the user's data directory",
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address the APIs listen on")
    port: int = Field(8000, ge=0, le=65_535, description="Port the APIs listen on; 0 takes a free one")
    role: Literal["all", "write-api", "read-api", "worker", "projector", "relay", "saga", "webhooks"] = Field(
        "all", description="Which part of the platform this process is: " + ", ".join(f"`{role}`" for role in ROLES)
    )

    stream: Literal["embedded", "event-hubs", "kafka"] = Field("embedded", description="`embedded`, `event-hubs` or `kafka`")
    stream_classes: Annotated[tuple[tuple[str, str], ...], NoDecode] = Field(
        (), description="Tenants with a topic or hub of their own: `pattern=topic`, commas between, the first that matches"
    )
    event_hubs_connection: SecretStr | None = Field(None, description="Connection string of the event hub")
    event_hubs_namespace: str | None = Field(
        None, pattern=r"^[A-Za-z0-9.-]+$",
        description="Instead: host of the namespace, `….servicebus.windows.net`, where this process has an identity of Entra ID",
    )  # fmt: skip
    event_hubs_name: str | None = Field(
        None, min_length=1, description="Name of the event hub, where no connection string says it"
    )
    event_hubs_checkpoints: Literal["postgres", "blob"] = Field(
        "postgres", description="Where consumers of the event hub note how far they are: `postgres` or `blob`"
    )
    event_hubs_blob_connection: SecretStr | None = Field(
        None, description="Azure Blob Storage for those notes: a connection string, or an `https://` address"
    )
    event_hubs_blob_container: str = Field(
        "quantum-checkpoints", min_length=3, max_length=63, description="Container of those notes, made where it is missing"
    )
    event_hubs_message_bytes_max: int = Field(
        900_000, ge=1_024, le=20_971_520, description="Larger events are sent as a reference to the log"
    )
    kafka_bootstrap: str | None = Field(None, description="Kafka's bootstrap servers, `host:port` with commas between")
    kafka_topic: str = Field(
        "quantum.events", pattern=r"^[A-Za-z0-9._-]{1,200}$", description="The topic that the log is published to"
    )
    kafka_topic_partitions: int = Field(
        12, ge=0, le=10_000, description="Partitions of the topic where it has to be made; 0: never"
    )
    kafka_record_bytes_max: int = Field(
        900_000, ge=1_024, le=104_857_600, description="Larger events are sent as a reference to the log"
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="`PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="`PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`"
    )
    kafka_sasl_username: str | None = Field(None, description="User; `$ConnectionString` at the Kafka endpoint of Event Hubs")
    kafka_sasl_password: SecretStr | None = Field(None, description="Password; the connection string at that endpoint")
    kafka_ca_file: Path | None = Field(None, description="Authority of the brokers' certificates, as PEM. Unset: the system's")
    event_source: str = Field(
        "/quantum", min_length=1, max_length=200, pattern=r"^[!-~]+$",
        description="Where events say they come from, such as `quantum://production`: the `source` of its CloudEvents",
    )  # fmt: skip
    redis_url: SecretStr | None = Field(None, description="Redis for what processes share: rate limits, caches")

    auth_issuer: str | None = Field(None, description="Issuer of the tokens to trust. Unset: the local issuer")
    auth_audience: str = Field("quantum", min_length=1, description="Audience that tokens must name")
    auth_jwks_url: str | None = Field(None, description="Where the issuer publishes its keys")
    auth_token_hours: float = Field(12, gt=0, le=8_760, description="How long the local issuer's tokens are valid")
    auth_leeway_seconds: float = Field(30, ge=0, le=600, description="Clock difference allowed when a token's times are checked")

    request_bytes_max: int = Field(1_048_576, ge=1_024, le=134_217_728, description="Largest request body")
    steps_max: int = Field(500, ge=1, le=10_000, description="Most steps of an intent")
    depth_max: int = Field(64, ge=4, le=200, description="Deepest nesting of a request's JSON")
    forbidden_targets: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Targets no intent may name, with commas between"
    )

    tenant_concurrent_steps: int | None = Field(
        None, ge=1, le=COUNT_MAX, description="Steps a tenant may have under way. Unset, here and below: no limit"
    )
    tenant_concurrent_executions: int | None = Field(
        None, ge=1, le=COUNT_MAX, description="Executions a tenant may have under way"
    )
    tenant_on_exceeded: Literal["queue", "reject"] = Field(
        "queue", description="What happens to executions beyond that: they wait (`queue`), or are refused (`reject`)"
    )
    tenant_executions_a_minute: int | None = Field(
        None, ge=1, le=COUNT_MAX, description="Executions a tenant may start in a minute; counted in Redis, where there is one"
    )
    tenant_queue_length: int | None = Field(
        None, ge=1, le=COUNT_MAX, description="Calls and executions a tenant may have waiting before starts are refused"
    )

    execution_descendants_max: int = Field(
        10_000, ge=1, le=COUNT_MAX, description="Executions that one execution may start, with all that these start in turn"
    )
    dead_letter_days: float = Field(30, gt=0, le=36_500, description="Days that a redriven dead letter is kept")
    step_commands: Annotated[tuple[StepCommand, ...], NoDecode] = Field(
        ("start-execution", "cancel-execution", "signal-execution"),
        description="Commands that steps may give, with commas between; also `create-intent`, `deprecate-intent`; `none`",
    )
    sandbox: bool | None = Field(
        None, description="The sandbox module, whose actions change nothing. Unset: on with embedded PostgreSQL, else off"
    )
    private_addresses: bool | None = Field(
        None,
        description="Modules at private and loopback addresses may be reached. Unset: on with embedded PostgreSQL, else off",
    )
    public_url: str | None = Field(
        None, description="How modules reach this platform, to answer later. Unset: `http://` with host and port"
    )
    callback_key: SecretStr | None = Field(
        None, description="Key of the addresses for callbacks: 32 bytes in base64, commas between several. Unset: a file"
    )
    artifact_connection: SecretStr | None = Field(
        None, description="Azure Blob Storage for artifacts: a connection string, or an `https://` address. Unset: files"
    )
    artifact_container: str = Field("quantum-artifacts", min_length=3, max_length=63, description="Container of the artifacts")
    artifact_bytes_max: int = Field(16_777_216, ge=262_144, le=1_073_741_824, description="Largest result of a step")
    artifact_tenant_bytes_max: int = Field(10_737_418_240, ge=262_144, description="Bytes of a tenant's artifacts together")
    artifact_days: float = Field(30, gt=0, le=36_500, description="Days that an artifact is kept after it was last stored")
    secrets_key: SecretStr | None = Field(
        None, description="Key of the stored secrets: 32 bytes in base64, commas between several. Unset: a file beside them"
    )
    key_vault_url: str | None = Field(None, description="Azure Key Vault to ask for secrets, `https://….vault.azure.net`")
    worker_concurrency: int = Field(32, ge=1, le=10_000, description="Steps one process carries out at a time")
    projector_batch_events: int = Field(1_000, ge=1, le=10_000, description="Events a projection takes into one transaction")
    webhook_concurrency: int = Field(256, ge=2, le=10_000, description="Webhooks one process has under way at a time")
    webhook_timeout_seconds: float = Field(15, gt=0, le=120, description="What a receiver of a webhook gets to answer")
    webhook_log_days: float = Field(7, gt=0, le=365, description="How long the log of webhook deliveries is kept")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="`debug`, `info`, `warning` or `error`")
    log_format: Literal["json", "console"] = Field("json", description="`json` or `console`")

    @property
    def embedded_database(self) -> bool:
        """Whether the database is the embedded one."""
        return self.database_url is None

    @property
    def sandbox_on(self) -> bool:
        """Whether the sandbox module serves."""
        return self.embedded_database if self.sandbox is None else self.sandbox

    @property
    def private_addresses_on(self) -> bool:
        """Whether modules may be reached at private and loopback addresses."""
        return self.embedded_database if self.private_addresses is None else self.private_addresses

    @field_validator("forbidden_targets", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("stream_classes", mode="before")
    @classmethod
    def _stream_classes(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",") if part.strip()]
        classes = tuple((pattern.strip(), topic.strip()) for pattern, _, topic in (part.partition("=") for part in parts))
        for pattern, topic in classes:
            if not _TENANT_PATTERN.fullmatch(pattern) or not _TOPIC.fullmatch(topic):
                raise ValueError("of the form pattern=topic with commas between, such as gold-*=quantum.gold")
        return classes

    @field_validator("step_commands", mode="before")
    @classmethod
    def _step_commands(cls, value: Any) -> Any:
        return () if value == "none" else cls._split(value)

    @field_validator("log_level", "log_format", "stream", "role", "event_hubs_checkpoints", "tenant_on_exceeded", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator("kafka_security_protocol", "kafka_sasl_mechanism", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        faults = [*self._wrong_urls(), *self._lonely_settings(), *self._kafka_faults(), *self._event_hubs_faults()]
        if faults:
            raise _Contradictions(faults)
        return self

    def _wrong_urls(self) -> list[str]:
        faults = []
        for name, schemes in _URL_SCHEMES.items():
            value = getattr(self, name)
            text = value.get_secret_value() if isinstance(value, SecretStr) else value
            if text is not None and not text.startswith(tuple(f"{scheme}://" for scheme in schemes)):
                # Never the value: a mistyped URL may still hold a password.
                faults.append(f"{variable(name)} should be a URL that begins with {' or '.join(f'{one}://' for one in schemes)}.")
        return faults

    def _lonely_settings(self) -> list[str]:
        faults = []
        if self.database_url is not None and self.database_platform_url is None:
            faults.append(
                "QUANTUM_DATABASE_PLATFORM_URL is missing: beside QUANTUM_DATABASE_URL it names the same database with the login "
                "quantum_platform."
            )
        for name in ("database_platform_url", "database_owner_url", "database_direct_url"):
            if self.database_url is None and getattr(self, name) is not None:
                faults.append(f"{variable(name)} is set but QUANTUM_DATABASE_URL is not: set both, or neither.")
        if self.stream == "kafka" and self.kafka_bootstrap is None:
            faults.append("QUANTUM_KAFKA_BOOTSTRAP is missing: QUANTUM_STREAM=kafka needs the bootstrap servers.")
        if (self.auth_issuer is None) != (self.auth_jwks_url is None):
            missing, present = ("auth_issuer", "auth_jwks_url") if self.auth_issuer is None else ("auth_jwks_url", "auth_issuer")
            faults.append(f"{variable(missing)} is missing: {variable(present)} is of use only together with it.")
        return faults

    def _kafka_faults(self) -> list[str]:
        faults = []
        protocol = self.kafka_security_protocol
        for name in ("kafka_sasl_username", "kafka_sasl_password"):
            is_set = getattr(self, name) is not None
            if protocol.startswith("SASL") and not is_set:
                faults.append(f"{variable(name)} is missing: QUANTUM_KAFKA_SECURITY_PROTOCOL={protocol} needs it.")
            if is_set and not protocol.startswith("SASL"):
                faults.append(f"{variable(name)} is of use only with QUANTUM_KAFKA_SECURITY_PROTOCOL=SASL_SSL or SASL_PLAINTEXT.")
        if self.kafka_ca_file is not None and not self.kafka_ca_file.is_file():
            faults.append(f"QUANTUM_KAFKA_CA_FILE should be a file, and {str(self.kafka_ca_file)!r} is none.")
        return faults

    def _event_hubs_faults(self) -> list[str]:
        faults = []
        connection = self.event_hubs_connection
        if self.stream == "event-hubs" and connection is None and self.event_hubs_namespace is None:
            faults.append(
                "QUANTUM_EVENT_HUBS_CONNECTION is missing: QUANTUM_STREAM=event-hubs needs the connection string, or "
                "QUANTUM_EVENT_HUBS_NAMESPACE."
            )
        if connection is not None and self.event_hubs_namespace is not None:
            faults.append("QUANTUM_EVENT_HUBS_NAMESPACE and QUANTUM_EVENT_HUBS_CONNECTION say the same: set one of them.")
        is_named = connection is not None and "EntityPath=" in connection.get_secret_value()
        is_there = connection is not None or self.event_hubs_namespace is not None
        if self.stream == "event-hubs" and is_there and self.event_hubs_name is None and not is_named:
            faults.append("QUANTUM_EVENT_HUBS_NAME is missing: nothing else says the event hub's name.")
        if self.event_hubs_checkpoints == "blob" and self.event_hubs_blob_connection is None:
            faults.append("QUANTUM_EVENT_HUBS_BLOB_CONNECTION is missing: QUANTUM_EVENT_HUBS_CHECKPOINTS=blob needs it.")
        return faults


class _Contradictions(ValueError):
    """Settings that are each right but not together."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def variable(name: str) -> str:
    """The environment variable of a field."""
    return PREFIX + name.upper()


def load_settings(**overrides: Any) -> Settings:
    """The settings of the environment; an override that is not None (a command-line option) comes before it.

    Raises `SettingsError`, also for a `QUANTUM_` variable that does not exist.
    """
    faults = _unknown_variables()
    settings = None
    try:
        settings = settings_of(Settings, {name: value for name, value in overrides.items() if value is not None})
    except SettingsError as wrong:
        faults.extend(wrong.faults)
    if faults or settings is None:
        raise SettingsError(faults)
    return settings


def settings_of(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """Settings of a kind from values, and from whatever else the kind reads; raises `SettingsError`."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise SettingsError([sentence for detail in error.errors() for sentence in _sentences(detail, values)]) from error


def said_in_environment(prefixes: tuple[str, ...]) -> dict[str, str]:
    """What the environment says of the fields that begin so, by field; what it leaves empty it does not say."""
    said = {name.upper(): value for name, value in os.environ.items() if value}
    fields = (name for name in Settings.model_fields if name.startswith(prefixes))
    return {name: said[variable(name)] for name in fields if variable(name) in said}


def _unknown_variables() -> list[str]:
    known = [variable(name) for name in Settings.model_fields]
    faults = []
    for name in sorted(os.environ):
        is_secret = name.upper().startswith(_SECRET_PREFIX) and "__" in name
        if name.upper().startswith(PREFIX) and not (name.upper() in known or is_secret or name.upper().startswith(_TEST_PREFIX)):
            close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.7)
            faults.append(f"{name} is not a setting{f': did you mean {close[0]}?' if close else '; the README lists them all.'}")
    return faults


def _sentences(detail: ErrorDetails, overrides: dict[str, Any]) -> list[str]:
    fault = detail.get("ctx", {}).get("error")
    if isinstance(fault, _Contradictions):
        return fault.faults
    name = str(detail["loc"][0])
    said = detail["msg"].removeprefix("Input should be").removeprefix("Value error, ").split(", unable to")[0].strip()
    value = overrides.get(name)
    value = os.environ.get(variable(name), "") if value is None else value
    is_secret = "SecretStr" in str(Settings.model_fields[name].annotation)
    return [f"{variable(name)} should be {said}{'' if is_secret else f', not {str(value)!r}'}."]
