"""What a scorer returns."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Score:
    """Of one prediction.

    `extracted` is what was compared, None if the prediction holds no answer: that is a wrong answer, and is counted.
    `value` is between 0 and 1, or None where a judge's reply cannot be read and has to be asked again. `details` are further
    figures of the metric, such as an F1.
    """

    extracted: Any
    value: float | None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def correct(self) -> bool | None:
        return None if self.value is None else self.value == 1
