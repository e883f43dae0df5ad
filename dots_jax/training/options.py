"""What the command line says about a training run, in addition to its config. Standard library only."""

import dataclasses
from types import SimpleNamespace


@dataclasses.dataclass(frozen=True)
class RunOptions:
    workdir: str | None  # folder or bucket of the run; None only in a dry run
    gin_text: str = ""  # all gin files and bindings as given: kept in config.gin and in every checkpoint
    operative_text: str = ""  # every setting in force: kept in operative_config.gin
    dry_run: bool = False  # check everything, print the plan and stop
    max_steps: int | None = None  # stop after this global step; None: at the end of the last stage
    exit_codes: bool = False  # return STOPPED after SIGTERM, for a script that starts the run again

    @classmethod
    def from_flags(cls, flags: SimpleNamespace) -> "RunOptions":
        """The fields of this class among the flags of a command."""
        given = dict(vars(flags))
        given.setdefault("exit_codes", given.get("supervised", False))  # the flag's name before
        return cls(**{field.name: given[field.name] for field in dataclasses.fields(cls) if field.name in given})
