"""Weights from Hugging Face and back: python -m dots_jax.convert from_hf SRC DST, python -m dots_jax.convert to_hf SRC DST

from_hf: SRC is a folder with config.json and safetensors (dots.llm1.base, .inst); DST becomes what eval, generate and
TrainConfig.initial_checkpoint read. to_hf: SRC is such a folder or a training workdir; DST becomes a Hugging Face folder.
Started again, a conversion that was stopped goes on. Folders may be in buckets (gs://).
"""

from dots_jax import gin_cli
from dots_jax.config import UserError

TO_HF = (
    gin_cli.Flag("step", int, "to_hf: the checkpoint of this step; default: the newest", minimum=0),
    gin_cli.Flag("dtype", str, "to_hf: bfloat16 or float32; default: as stored"),
    gin_cli.Flag("tokenizer", str, "to_hf: folder with tokenizer.json; default: what came with the weights"),
    gin_cli.Flag("max_shard_size", str, "to_hf: of a file, as 5GB; default: 50GB, as transformers"),
)
FLAGS = (gin_cli.DISTRIBUTED, *TO_HF)
ARGUMENTS = ("DIRECTION", "SRC", "DST")


def main(options) -> None:
    if options.direction not in ("from_hf", "to_hf"):
        raise UserError(f"The direction must be from_hf or to_hf, but is {options.direction!r} (--help shows more).")
    given = {flag.name: getattr(options, flag.name) for flag in TO_HF if getattr(options, flag.name) is not None}
    if options.direction == "from_hf" and given:
        raise UserError(f"--{next(iter(given))} belongs to to_hf: from_hf keeps everything as it is.")
    import jax

    jax.config.update(
        "jax_platforms", "cpu"
    )  # copies bytes: the chips of this machine may be at work on something else
    from dots_jax.data.tokenizers.chat import JINJA
    from dots_jax.huggingface.from_hf import from_hf
    from dots_jax.huggingface.to_hf import to_hf
    from dots_jax.parallel.distributed import initialize

    initialize(options.distributed)
    if options.direction == "from_hf":
        said = from_hf(options.src, options.dst)
    else:
        said = to_hf(options.src, options.dst, chat_template=JINJA, **given)
    if jax.process_index() == 0:
        print(said, flush=True)


if __name__ == "__main__":
    gin_cli.run(None, main, *FLAGS, arguments=ARGUMENTS, only_reads_config=True)
