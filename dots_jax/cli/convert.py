"""Weights from Hugging Face and back.

    dots convert from_hf path/to/dots.llm1.inst weights/inst
    dots convert to_hf runs/mine path/to/export

from_hf: SRC has config.json and safetensors; DST becomes what eval, generate and
TrainConfig.initial_checkpoint read. to_hf: SRC is such a folder or a training workdir; DST becomes
a Hugging Face folder. Folders may be in buckets (gs://). A conversion that was stopped continues
when it is started again.
"""

from dots_jax.cli.options import ConvertOptions
from dots_jax.config import UserError

OPTIONS = ConvertOptions
TO_HF = ("step", "dtype", "tokenizer", "max_shard_size")


def main(options: ConvertOptions) -> None:
    direction = options.direction.replace("-", "_")
    if direction not in ("from_hf", "to_hf"):
        raise UserError(f"The direction must be from_hf or to_hf, but is {options.direction!r} (--help shows more).")
    given = {name: getattr(options, name) for name in TO_HF if getattr(options, name) is not None}
    if direction == "from_hf" and given:
        raise UserError(f"--{next(iter(given))} belongs to to_hf: from_hf keeps everything as it is.")
    import jax

    jax.config.update("jax_platforms", "cpu")  # it copies bytes, and the chips of this machine may be in use
    from dots_jax.data.tokenizers import chat
    from dots_jax.huggingface.from_hf import from_hf
    from dots_jax.huggingface.to_hf import ChatTemplate, to_hf
    from dots_jax.parallel.distributed import initialize

    initialize(options.distributed)
    if direction == "from_hf":
        said = from_hf(options.src, options.dst)
    else:
        said = to_hf(options.src, options.dst, template=ChatTemplate(chat.jinja, _template_warning), **given)
    if jax.process_index() == 0:
        print(said, flush=True)


def _template_warning(tokenizer: str, default_system: str) -> str | None:
    from dots_jax.data.tokenizers.chat_template import warning

    return warning(tokenizer, default_system, "a run with DataConfig.default_system = ")
