"""The model as a ModelHandler of Apache Beam's RunInference. Only jobs load this module: importing Beam takes seconds."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler, PredictionResult


class Handler(ModelHandler):
    """An element is a block of documents with a field `texts`, and a batch is one block: batches of Beam's own choice would be
    of other shapes, and the model cuts its batches itself."""

    def __init__(self, loader: Callable[[], Callable]):
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._loader = loader

    def load_model(self) -> Callable:
        """Once in each worker process."""
        return self._loader()

    def run_inference(
        self, batch: Sequence[Any], model: Callable, inference_args: dict[str, Any] | None = None
    ) -> Iterator[PredictionResult]:
        """What the model says of each block's texts."""
        for block in batch:
            yield PredictionResult(block, model(block.texts))
