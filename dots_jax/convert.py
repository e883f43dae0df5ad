"""Weights from Hugging Face and back: python -m dots_jax.convert from_hf SRC DST, python -m dots_jax.convert to_hf SRC DST

from_hf: SRC is a folder with config.json and safetensors (dots.llm1.base, .inst); DST becomes what eval, generate and
TrainConfig.initial_checkpoint read. to_hf: SRC is such a folder or a training workdir; DST becomes a Hugging Face folder.
Started again, a conversion that was stopped goes on. Folders may be in buckets (gs://).
"""

from dots_jax import gin_cli
from dots_jax.config import UserError

FLAGS = (gin_cli.DISTRIBUTED,)
ARGUMENTS = ("DIRECTION", "SRC", "DST")


def main(options) -> None:
    if options.direction not in ("from_hf", "to_hf"):
        raise UserError(f"The direction must be from_hf or to_hf, but is {options.direction!r} (--help shows more).")
    import jax

    jax.config.update(
        "jax_platforms", "cpu"
    )  # copies bytes: the chips of this machine may be at work on something else
    from dots_jax.parallel.distributed import initialize

    initialize(options.distributed)
    from dots_jax.interop.from_hf import from_hf

    said = from_hf(options.src, options.dst)
    if jax.process_index() == 0:
        print(said, flush=True)


if __name__ == "__main__":
    gin_cli.run(None, main, *FLAGS, arguments=ARGUMENTS, only_reads_config=True)
