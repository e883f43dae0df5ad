"""The units of a run on Apache Beam: it hands out their numbers, waits and retries. The only file here that imports it.

What is shared goes through the output folder, which must be one folder for all workers (a disk, NFS, or a mounted bucket).
"""

import contextlib
import io
import re
import sys
import threading
from collections.abc import Iterator, Sequence

import apache_beam as beam
import tqdm
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner

from dots_jax.config import UserError
from dots_jax.curation.plan import Run, Stage
from dots_jax.curation.run import LABELS, ForEach
from dots_jax.curation.unit import run_unit

RUNNER = "--runner=FnApiRunner"  # Beam's own default would download a binary first
# Around a sentence for the user, since a runner hands on the text of a worker's error, and not the error.
_SENTENCE = "\N{LEFT-POINTING DOUBLE ANGLE QUOTATION MARK}curate: %s\N{RIGHT-POINTING DOUBLE ANGLE QUOTATION MARK}"


def on_beam(flags: Sequence[str]) -> ForEach:
    """Raises UserError for flags that Beam does not know."""
    if not any(flag.startswith("--runner") for flag in flags):
        flags = (RUNNER, *flags)
    options = _options(flags)

    def for_each(run: Run, stage: Stage, units: Sequence[int]) -> None:
        with _progress(run, stage), _sentences(), beam.Pipeline(options=options) as pipeline:
            (
                pipeline
                | beam.Create(list(units))
                | beam.Reshuffle()  # else a runner may fuse all into one worker
                | beam.ParDo(_Unit(run, stage))
            )

    return for_each


class _Unit(beam.DoFn):
    def __init__(self, run: Run, stage: Stage):
        self._run, self._stage = run, stage

    def process(self, unit: int):
        try:
            run_unit(self._run, self._stage, unit)
        except UserError as error:
            raise RuntimeError(_SENTENCE % error) from error


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


def _options(flags: Sequence[str]) -> PipelineOptions:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):  # argparse prints before it exits
            options = PipelineOptions(list(flags))
            runner = options.get_all_options()["runner"]
    except SystemExit:
        reason = said.getvalue().strip().split("error: ")[-1]
        raise UserError(f"CurateConfig.beam holds a flag that Beam does not take: {reason}.") from None
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(
            f"CurateConfig.beam: there is no runner {runner!r} here ({' '.join(str(error).split())[:200]})."
        ) from None
    return options


@contextlib.contextmanager
def _progress(run: Run, stage: Stage) -> Iterator[None]:
    """A bar of finished units, from the files themselves: the same for every runner."""
    pause = 0.1 if sys.stderr.isatty() else 30  # seconds between lines of a log
    stop = threading.Event()

    def watch(bar: tqdm.tqdm) -> None:
        while True:
            stopped = stop.wait(1)
            bar.update(stage.units - len(run.unfinished(stage)) - bar.n)
            if stopped:
                return

    with tqdm.tqdm(desc=LABELS[stage.kind], total=stage.units, unit=" units", mininterval=pause) as bar:
        thread = threading.Thread(target=watch, args=[bar])
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
