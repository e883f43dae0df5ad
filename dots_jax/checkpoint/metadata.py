"""What a checkpoint says about itself: the JSON file `record/metadata` next to its arrays, as one typed value."""

import dataclasses
import hashlib
import json

from etils import epath

from dots_jax.config import CheckpointConfig, ModelConfig, Stage, Untie, UserError, model_from_dict, to_dict
from dots_jax.human import first_line

# Of the JSON. Files without a version are read as version 1, which only added the number. A version that older code
# cannot read gets a higher number; `format_version` and `checksum` keep their meaning in every version.
FORMAT_VERSION = 1
CONVERTED = "converted"
_ALWAYS = ("step", "position", "tokens", "data", "model", "checksums")  # in the JSON also where they are empty


class DamagedCheckpoint(UserError):
    """A checkpoint that cannot be read. reason: why, without the path."""

    def __init__(self, path: epath.Path, reason: str):
        super().__init__(f"The checkpoint {path} cannot be read: {reason}. Use the checkpoint of another step.")
        self.reason = reason


class NewerFormat(UserError):
    """A checkpoint of a later version of this project."""

    def __init__(self, path: epath.Path, version: int):
        super().__init__(
            f"The checkpoint {path} has the record format {version}, but this version of dots_jax reads formats up to "
            f"{FORMAT_VERSION}: update dots_jax."
        )


@dataclasses.dataclass(frozen=True)
class StageData:
    """All that the order of one stage's text depends on."""

    name: str
    mixture: str
    rates: dict[str, str]  # task -> share of the mixture, as a fraction: "3/10"
    seq_len: int  # tokens
    seed: int
    content: str  # names the content of the token caches
    untie: dict | None = None

    def first_difference(self, other: "StageData") -> str | None:
        """The name of the first field that differs."""
        names = [field.name for field in dataclasses.fields(self)]
        return next((name for name in names if getattr(self, name) != getattr(other, name)), None)


@dataclasses.dataclass(frozen=True)
class CheckpointMetadata:
    """The record of one checkpoint. Of a converted one only the model, the arrays and the source are known."""

    step: int  # steps taken
    model: ModelConfig
    position: int = 0  # sequences consumed: the complete state of the data pipeline
    tokens: int = 0  # consumed
    data: tuple[StageData, ...] = ()  # of the stages that have begun
    exposure: dict[str, dict[str, dict[str, float]]] = dataclasses.field(
        default_factory=dict
    )  # curriculum/token_ledger.py
    config: dict = dataclasses.field(
        default_factory=dict
    )  # TrainConfig as it was then: its settings may have other names
    gin: str = ""  # the settings as text
    kind: str = ""  # CONVERTED; empty: a training run
    dtypes: dict[str, str] = dataclasses.field(default_factory=dict)  # of a converted checkpoint's arrays
    checksums: dict[str, int] = dataclasses.field(default_factory=dict)  # array -> sum of its bit patterns mod 2**32
    source: dict = dataclasses.field(default_factory=dict)  # of a conversion: fingerprint, config.json, files
    tokenizer_files: tuple[str, ...] = ()  # that a conversion copied
    format_version: int = FORMAT_VERSION
    checksum: str = ""  # SHA-256 of the rest of the JSON; made by `to_json`

    @property
    def is_training_run(self) -> bool:
        return not self.kind

    @property
    def run_tokenizer(self) -> str | None:
        """The tokenizer.json that the run named; empty: bytes. None: unknown, as of a converted model."""
        return self.config.get("data", {}).get("tokenizer")

    @property
    def default_system(self) -> str:
        """The system message that the run gave to conversations without one; empty: none."""
        return self.config.get("data", {}).get("default_system", "")

    @property
    def compute_dtype(self) -> str | None:
        """`float32` or `bfloat16`, in which the run computed."""
        return self.config.get("compute", {}).get("dtype")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Of the run; none of a converted model."""
        untie = lambda fields: Untie(**fields) if fields else None
        return tuple(Stage(**{**s, "untie": untie(s.get("untie"))}) for s in self.config.get("stages", ()))

    @property
    def schedule_of_saves(self) -> CheckpointConfig | None:
        """Which checkpoints the run kept."""
        fields = self.config.get("checkpoint")
        return CheckpointConfig(**fields) if fields else None

    @property
    def hf_config(self) -> dict:
        """The config.json that a converted model came with."""
        return self.source.get("config", {})

    @property
    def source_fingerprint(self) -> str:
        """Names what was converted."""
        return self.source.get("fingerprint", "")

    def to_json(self) -> dict:
        """The JSON object, with the checksum of itself."""
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "checksum"
        }
        fields |= {"model": to_dict(self.model), "data": [_stage_json(stage) for stage in self.data]}
        fields["tokenizer"] = list(fields.pop("tokenizer_files"))
        record = {name: value for name, value in fields.items() if value or name in _ALWAYS}
        return record | {"checksum": _checksum(record)}


def read_metadata(checkpoint: epath.Path) -> CheckpointMetadata:
    """The metadata of the checkpoint in a folder.

    Raises:
      DamagedCheckpoint: the file is not there, or is not the one that was saved.
      NewerFormat: a later version of this project wrote it.
    """
    try:
        record = json.loads((checkpoint / "record" / "metadata").read_text())
    except ValueError:
        raise DamagedCheckpoint(checkpoint, "its record is not JSON") from None
    except Exception as error:  # noqa: BLE001  every kind of bucket has errors of its own
        raise DamagedCheckpoint(checkpoint, f"its record cannot be read: {first_line(error)}") from error
    if not isinstance(record, dict) or record.get("checksum") != _checksum(record):
        raise DamagedCheckpoint(checkpoint, "its record is not the one that was saved")
    try:
        if record.get("format_version", 1) > FORMAT_VERSION:
            raise NewerFormat(checkpoint, record["format_version"])
        return _parse(record)
    except NewerFormat:
        raise
    except Exception as error:  # noqa: BLE001  whatever a field is instead of what it should be
        raise DamagedCheckpoint(checkpoint, f"its record has unknown contents: {first_line(error)}") from error


def _parse(record: dict) -> CheckpointMetadata:
    """Of version 1, or of before there were versions."""
    fields = {**record, "model": model_from_dict(record["model"])}
    fields["data"] = tuple(StageData(**stage) for stage in record.get("data", ()))
    fields["tokenizer_files"] = tuple(fields.pop("tokenizer", ()))
    return CheckpointMetadata(**fields)


def _stage_json(stage: StageData) -> dict:
    return {name: value for name, value in dataclasses.asdict(stage).items() if name != "untie" or value}


def _checksum(record: dict) -> str:
    text = json.dumps({name: value for name, value in record.items() if name != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
