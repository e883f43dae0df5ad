"""Numbered pieces of work on Apache Beam: it hands out their numbers, waits and retries. Only jobs of rooms import this module,
since importing Beam takes seconds.

What the pieces share goes through a folder, which must be one folder for all workers (a disk, NFS, or a mounted bucket), so
that an interrupted job goes on from the files it left, on any runner.
"""

import contextlib
import dataclasses
import io
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import apache_beam as beam
import tqdm
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from dots_jax.config import UserError

RUNNER = "--runner=FnApiRunner"  # Beam's own default would download a binary first
LOCAL_RUNNERS = ("FnApiRunner", "DirectRunner", "BundleBasedDirectRunner", "PrismRunner")
_POLL_SECONDS = 0.5
# Around a sentence for the user, since a runner hands on the text of a worker's error, and not the error.
_SENTENCE = "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}dots_jax: %s\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}"


def pipeline_options(flags: Sequence[str], setting: str) -> PipelineOptions:
    """Beam's flags, checked. setting: where they stand, for the sentence. Raises UserError for flags that Beam does not take."""
    if not any(flag.startswith("--runner") for flag in flags):
        flags = (RUNNER, *flags)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):  # argparse prints before it exits
            options = PipelineOptions(list(flags))
            known, given = options.get_all_options(), options.get_all_options(retain_unknown_options=True)
    except SystemExit:
        reason = said.getvalue().strip().split("error: ")[-1]
        raise UserError(f"{setting} holds a flag that Beam does not take: {reason}.") from None
    unknown = sorted(given.keys() - known.keys())
    if unknown and known["runner"] in LOCAL_RUNNERS:  # others have flags that only their servers know
        raise UserError(f"{setting} holds --{unknown[0]}, which is no flag of Beam's {known['runner']}.")
    try:
        create_runner(known["runner"])
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(
            f"{setting}: there is no runner {known['runner']!r} here ({' '.join(str(error).split())[:200]})."
        ) from None
    return options


@dataclasses.dataclass(frozen=True)
class Bar:
    """What a job shows while it runs: from the files themselves, and so the same for every runner."""

    label: str
    unit: str
    total: int
    done: Callable[[], int]  # pieces that are finished


def run(
    options: PipelineOptions, numbers: Sequence[int], work: Callable[[int], None], bar: Bar,
    prepare: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Calls `work` with each number on some worker, and `prepare` once in each process. Both are pickled.

    Raises UserError here for one that a worker raises.
    """
    with _shown(bar), _sentences(), beam.Pipeline(options=options) as pipeline:
        (
            pipeline
            | beam.Create(list(numbers))
            | beam.Reshuffle()  # else a runner may fuse all into one worker
            | beam.ParDo(_Piece(work, prepare))
        )


class Inference(Protocol):
    """Work whose pieces are scored by a model. read: the elements of a piece. condense: from an element and its prediction to
    (piece, value), where values are small and have an order. finish: with all values of a piece. It is pickled."""

    def read(self, number: int, /) -> Iterator[Any]: ...
    def condense(self, element: Any, prediction: Any, /) -> tuple[int, Any]: ...
    def finish(self, number: int, values: Sequence[Any], /) -> None: ...


def infer(options: PipelineOptions, numbers: Sequence[int], work: Inference, handler: Any, bar: Bar) -> None:
    """Reads pieces, scores their elements by RunInference and finishes each piece with what its elements gave.

    handler: a ModelHandler whose predictions are PredictionResult. Raises UserError here for one that a worker raises.
    """
    from apache_beam.ml.inference.base import RunInference

    with _shown(bar), _sentences(), beam.Pipeline(options=options) as pipeline:
        (
            pipeline
            | beam.Create(list(numbers))
            | beam.Reshuffle()
            | "read" >> beam.FlatMap(_with_sentence(work.read))
            | RunInference(handler)
            | "condense" >> beam.Map(lambda found: work.condense(found.example, found.inference))
            | beam.GroupByKey()
            | "finish" >> beam.Map(lambda row: work.finish(row[0], list(row[1])))
        )


def _with_sentence(function: Callable) -> Callable:
    """What a worker calls, with its UserError in a form that a runner hands on."""

    def called(*arguments):
        try:
            return function(*arguments)
        except UserError as error:
            raise RuntimeError(_SENTENCE % error) from error

    return called


class _Piece(beam.DoFn):
    def __init__(self, work: Callable[[int], None], prepare: Callable[[], None] | None):
        self._work, self._prepare = _with_sentence(work), prepare

    def setup(self):
        if self._prepare:
            self._prepare()

    def process(self, number: int):
        self._work(number)


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Makes a UserError in a worker one here."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from None
        found = re.search(_SENTENCE % "(.*?)", str(error), re.DOTALL)
        if found:
            raise UserError(found[1]) from error
        raise


@contextlib.contextmanager
def _shown(about: Bar) -> Iterator[None]:
    pause = 0.1 if sys.stderr.isatty() else 30  # seconds between lines of a log
    stop = threading.Event()

    def watch(bar: tqdm.tqdm) -> None:
        while True:
            stopped = stop.wait(_POLL_SECONDS)
            bar.update(about.done() - bar.n)
            if stopped:
                return

    with tqdm.tqdm(desc=about.label, total=about.total, unit=f" {about.unit}", mininterval=pause) as bar:
        thread = threading.Thread(target=watch, args=[bar])
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
