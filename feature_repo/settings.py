"""The one Settings object: where everything is written, and the few choices a user makes.

Order of precedence: arguments (the CLI's `--home`), `PITWALL_*` environment variables, `pitwall.yaml` in the working directory,
defaults. Nothing is read or created on import; entry points build one `Settings()` and pass it on.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from feature_repo.errors import BadUsageError


class _YamlWithoutSecrets(YamlConfigSettingsSource):
    def __call__(self) -> dict[str, Any]:
        """What the file says.

        Raises:
            BadUsageError: it holds a secret.
        """
        found = super().__call__()
        if "api_token" in found:
            raise BadUsageError("pitwall.yaml: holds api_token; secrets come from the environment only (PITWALL_API_TOKEN)")
        return found


class Settings(BaseSettings):
    """Where a Pitwall home lives, and how it is computed. Two homes never share a file."""

    # An empty PITWALL_HOME is an unset one, not the working directory.
    model_config = SettingsConfigDict(
        env_prefix="PITWALL_", env_ignore_empty=True, yaml_file="pitwall.yaml", frozen=True, extra="forbid"
    )

    home: Path = Field(default=Path("data"), description="Folder that holds everything Pitwall writes.")
    encoder: str = Field(
        default="auto",
        description="Picture encoder: auto (ImageNet if it can be had, else trace), imagenet, trace, random, or a weights file.",
    )
    moment: str = Field(
        default="fraction:0.5",
        description="Default moment of prediction: pre_race, lap:<L> or fraction:<of the scheduled distance>.",
    )
    seed: int = Field(default=7, ge=0, description="Seed of every random choice.")
    threads: int = Field(default=2, ge=1, description="CPU threads for torch and LightGBM.")
    log_features: bool = Field(default=False, description="Log every served vector, so that `pitwall skew` can check it.")
    log_max_mib: int = Field(default=1024, ge=1, description="Size of each log (features, predictions), MiB; oldest go first.")
    skew_limit: float = Field(
        default=0.001, ge=0, le=1, description="Share of served values that may differ from history before no model is promoted."
    )
    api_token: SecretStr | None = Field(
        default=None, description="Bearer token of `pitwall serve` for promote and rollback; without one both are refused."
    )
    serve_slots: int = Field(default=2, ge=1, le=64, description="Answers computed at once by a serving process.")
    model_poll_s: float = Field(
        default=5.0, gt=0, le=3600, description="How often a serving process looks for a new champion, s."
    )
    challenger_share: float = Field(
        default=0.0, ge=0, le=1, description="Share of races that the challenger answers about, always the same ones."
    )
    challenger_shadow: bool = Field(
        default=False, description="The challenger is asked too, but only logged: the champion answers about every race."
    )
    body_limit_kib: int = Field(default=1024, ge=1, description="Largest body of a request, KiB.")
    jolpica_url: str = Field(default="https://api.jolpi.ca/ergast/f1", description="Jolpica (Ergast-compatible) API.")
    openf1_url: str = Field(default="https://api.openf1.org/v1", description="OpenF1 API.")
    livetiming_url: str = Field(
        default="https://livetiming.formula1.com", description="F1 live timing archive that FastF1 reads."
    )
    schedule_url: str = Field(
        default="https://raw.githubusercontent.com/theOehrly/f1schedule/master", description="Event schedules that FastF1 reads."
    )
    mlflow_tracking_uri: str | None = Field(default=None, description="MLflow server; default: SQLite inside the home.")
    registry_url: str | None = Field(default=None, description="Feast SQL registry URL; default: SQLite in the home.")
    online_url: str | None = Field(
        default=None,
        repr=False,  # may hold a password
        description="Online store: redis://host:port/db or postgresql://user@host:port/database; default: SQLite in the home.",
    )
    online_namespace: str | None = Field(
        default=None,
        pattern="^[A-Za-z0-9_-]{1,40}$",
        description="Whose rows, on a server that several homes use; default: the home's own, made by `pitwall apply`.",
    )
    engine: Literal["embedded", "spark"] = Field(
        default="embedded",
        description="What computes features, joins, materialization, pictures and embeddings: embedded or spark.",
    )
    spark_master: str = Field(
        default="local[2]", min_length=1, description="Spark master of engine spark, such as local[2] or yarn."
    )
    spark_conf: dict[str, str] = Field(default_factory=dict, description="Further Spark settings of engine spark, as JSON.")

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().resolve()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then `pitwall.yaml`; `.env` and secret files are not read."""
        return init_settings, env_settings, _YamlWithoutSecrets(settings_cls)

    @property
    def lake_dir(self) -> Path:
        """Canonical tables: `lake/<table>/season=<YYYY>/part.parquet`."""
        return self.home / "lake"

    @property
    def sources_dir(self) -> Path:
        """What each source said: `sources/<name>/<table>/season=<YYYY>/part.parquet`; the lake is their merge."""
        return self.home / "sources"

    @property
    def cache_dir(self) -> Path:
        """Responses of services on the network: `cache/<source>/`. Deleting it costs downloads, never data."""
        return self.home / "cache"

    @property
    def features_dir(self) -> Path:
        """Feature tables, `features/<view>.parquet`, plus `entrants.parquet` and `moments.parquet`."""
        return self.home / "features"

    @property
    def multimodal_dir(self) -> Path:
        """Image-artifact store: `speed_traces/`, manifest, error log, `dataset_cache.json`."""
        return self.home / "multimodal"

    @property
    def embeddings_dir(self) -> Path:
        """Cached embeddings, one file per encoder identity."""
        return self.home / "embeddings"

    @property
    def weights_dir(self) -> Path:
        """Encoder weights taught or fetched here, named by hash."""
        return self.home / "weights"

    @property
    def models_dir(self) -> Path:
        """Trained models as they are served: `models/<name>/`."""
        return self.home / "models"

    @property
    def checkpoints_dir(self) -> Path:
        """Training checkpoints: `checkpoints/<model>/`."""
        return self.home / "checkpoints"

    @property
    def reports_dir(self) -> Path:
        """Evaluation reports and gate records."""
        return self.home / "reports"

    @property
    def state_dir(self) -> Path:
        """What each step last read and wrote, so that a re-run skips what is up to date."""
        return self.home / "state"

    @property
    def registry_path(self) -> str:
        """SQLAlchemy URL of the Feast registry."""
        return self.registry_url or f"sqlite:///{self.home / 'registry.db'}"

    @property
    def mlflow_uri(self) -> str:
        """MLflow tracking and registry URI."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        """Where MLflow keeps artifacts when no server is set."""
        return self.home / "mlartifacts"
