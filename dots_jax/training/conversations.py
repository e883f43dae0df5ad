"""What a run says of its conversations before it starts: their figures, and whether the weights' chat template is ours."""

from dots_jax.checkpoint.open import open_checkpoint
from dots_jax.config import UserError
from dots_jax.data.cache.token_cache import open_stream
from dots_jax.data.registry import get_task
from dots_jax.data.sequences.conversation_layout import LayoutRule
from dots_jax.data.sources import chat_task
from dots_jax.data.tokenizers import chat_template
from dots_jax.human import human, human_bytes
from dots_jax.training.run import Run


def conversation_tasks(run: Run) -> list[tuple[str, str]]:
    """(stage, task) of conversations."""
    return [
        (data.stage.name, task)
        for data in run.corpus.stages
        for task in data.rates
        if chat_task.messages_field(get_task(task)) is not None
    ]


def conversation_lines(run: Run) -> list[str]:
    """For each task of conversations: how many, text, tokens, the longest, the share that is learned, what is left out.

    Makes their token caches if they are not there, and reads them.
    """
    stages, lines = {data.stage.name: data.stage for data in run.corpus.stages}, []
    for name, task in conversation_tasks(run):
        stage, stream = stages[name], open_stream(task, "train", run.config.data.cache_dir)
        layout = stream.layout(stage.seq_len, LayoutRule(stage.too_long, stage.sessions))
        records = {**stream.manifest.malformed, **stream.manifest.left_out}
        said = [f"{count:,} {what}" for what, count in [*layout.left_out.items(), *records.items()]]
        size = "?" if stream.num_bytes is None else human_bytes(stream.num_bytes)
        lines.append(
            f"            {f'{name}: {task}':<28}{stream.num_documents:>13,}{size:>11}{human(stream.num_tokens):>10}"
            f"{stream.longest_document():>10,}{stream.num_learned() / stream.num_tokens:>9.1%}  {'; '.join(said) or 'none'}"
        )
    if lines:
        columns = f"{'':<28}{'conversations':>13}{'text':>11}{'tokens':>10}{'longest':>10}{'learned':>9}  left out"
        lines.insert(0, f"learned     {columns}")
    return lines


def template_warning(run: Run) -> list[str]:
    """How the chat template that came with the weights, or with the tokenizer, differs from what this run learns."""
    if not conversation_tasks(run):
        return []
    path = _tokenizer_of_weights(run) or run.config.data.tokenizer
    said = chat_template.warning(path, run.config.data.default_system, "DataConfig.default_system = ")
    return [f"warning     {said}"] if said else []


def _tokenizer_of_weights(run: Run) -> str | None:
    if not run.config.initial_checkpoint:
        return None
    try:
        return open_checkpoint(run.config.initial_checkpoint).tokenizer
    except UserError:  # a run that has begun needs them no more
        return None
