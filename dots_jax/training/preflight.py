"""From a config to a run that can take its first step: `prepare` checks, `open_run` opens."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

from dots_jax.checkpoint.store import Checkpoints, check_disk, check_same_model, disk_errors
from dots_jax.cli.options import RunOptions
from dots_jax.config import TrainConfig, UserError
from dots_jax.curriculum.stages import Schedule
from dots_jax.data.corpus import resolve
from dots_jax.model.model_def import ModelDef
from dots_jax.parallel.agreement import one_run_at_a_time, require_agreement, software
from dots_jax.parallel.distributed import once_per_process
from dots_jax.parallel.mesh import make_mesh
from dots_jax.parallel.topology import peak_flops
from dots_jax.storage import folder
from dots_jax.training.initial import check_initial
from dots_jax.training.optimizer import make_optimizer
from dots_jax.training.report import say
from dots_jax.training.run import Run
from dots_jax.training.samples import Prompts
from dots_jax.training.state import abstract_state


def prepare(config: TrainConfig, options: RunOptions) -> Run:
    """Checks everything that can be checked before anything is written, opened or compiled.

    Raises UserError for processes that differ in settings, code or packages, for a mesh that these devices cannot form, for
    names that do not exist or do not fit the model, for an initial checkpoint of another model, and for a profile window
    behind the end of the run, and for prompts of SamplesConfig that are too long.
    """
    require_agreement({"the settings of the run": config, **software()})
    config = config.for_devices(jax.device_count())
    corpus = resolve(config)
    if any(data.needs_sizes for data in corpus.stages):
        corpus = once_per_process(corpus.with_lengths)
        config = dataclasses.replace(config, stages=tuple(data.stage for data in corpus.stages))
    if config.samples.prompts:
        Prompts(config, corpus)
    schedule = Schedule(config.stages)
    if config.profile.num_steps and config.profile.first_step > schedule.num_steps:
        raise UserError(
            f"ProfileConfig.first_step is {config.profile.first_step:,}, but the run has {schedule.num_steps:,} steps: "
            "choose an earlier one."
        )
    mesh = make_mesh(config.mesh)
    model_def = ModelDef(config.model, config.compute, mesh, config.optimizer.init_std)
    optimizer = make_optimizer(config.optimizer, model_def.weight_decays())
    abstract = abstract_state(model_def, optimizer)
    last_step = min(options.max_steps or schedule.num_steps, schedule.num_steps)
    check_initial(config, options.workdir)
    peak = peak_flops(mesh.devices.flat[0])
    return Run(config, options, schedule, corpus, model_def, optimizer, abstract, last_step, *peak)


def check_workdir(run: Run) -> None:
    """For a dry run: refuses a workdir that holds another model."""
    workdir = run.options.workdir
    if workdir and (folder(workdir) / "checkpoints").is_dir():
        with contextlib.closing(Checkpoints(workdir)) as checkpoints:
            if saved := checkpoints.newest_metadata():
                check_same_model(saved.model, run.config.model, f"The workdir {workdir}")


@contextlib.contextmanager
def open_run(run: Run) -> Iterator[tuple[Run, Checkpoints]]:
    """The run with the data of all its stages, and its checkpoints.

    Raises UserError for a workdir without room or in which another run is at work, for processes that read other data, for
    data that cannot be read, and for a disk that fails later on.
    """
    workdir = run.options.workdir
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.abstract))
    check_disk(workdir, state_bytes // jax.process_count())
    with disk_errors(workdir), one_run_at_a_time(workdir, "the run"):
        run = dataclasses.replace(run, corpus=once_per_process(run.corpus.open))
        read = {data.stage.name: sequences.identity for data, sequences in zip(run.corpus.stages, run.corpus.sequences)}
        require_agreement({f"the data of stage {name!r}": identity for name, identity in read.items()})
        say(*run.repeats())
        with contextlib.closing(Checkpoints(workdir, run.config.checkpoint, run.is_milestone)) as checkpoints:
            yield run, checkpoints
