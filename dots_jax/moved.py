"""Old module names, for one release: `import dots_jax.training.checkpoint` warns and gives `dots_jax.checkpoint.store`."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings

PACKAGE = "dots_jax."
MOVED = {
    "gin_check": "cli.gin_check",
    "gin_cli": "cli.gin_config",
    "interop": "huggingface",
    "inspection": "analysis",
    "data.cache_build": "data.cache.build",
    "data.cache_job": "data.cache.job",
    "data.cache_plan": "data.cache.plan",
    "data.chat": "data.tokenizers.chat",
    "data.chat_task": "data.sources.chat_task",
    "data.documents": "data.sources.documents",
    "data.file_source": "data.sources.file_source",
    "data.loader": "parallel.prefetch",
    "data.order": "data.sequences.order",
    "data.packing": "data.sequences.packing",
    "data.python_stdlib": "data.sources.python_stdlib",
    "data.record_files": "data.sources.record_files",
    "data.text_task": "data.sources.text_task",
    "data.tfds_source": "data.sources.tfds_source",
    "data.token_cache": "data.cache.token_cache",
    "data.token_format": "data.cache.token_format",
    "data.token_source": "data.sequences.token_source",
    "data.token_stream": "data.cache.token_stream",
    "data.tokenizer": "data.tokenizers.tokenizer",
    "data.tokenizer_training": "data.tokenizers.training",
    "data.untie": "data.sequences.untie",
    "data.vocabulary": "data.tokenizers.vocabulary",
    "evaluation.attention_map": "analysis.attention_map",
    "evaluation.expert_load": "analysis.expert_load",
    "evaluation.learning_dynamics": "analysis.learning_dynamics",
    "evaluation.pictures": "analysis.figures",
    "evaluation.text_ids": "analysis.text_ids",
    "inference.serving": "inference.weights",
    "inspection.checkpoint": "analysis.opened",
    "inspection.restored_model": "analysis.restored_model",
    "inspection.stored_arrays": "checkpoint.arrays",
    "interop.from_hf": "huggingface.from_hf",
    "interop.huggingface": "huggingface.names",
    "interop.huggingface_config": "huggingface.config",
    "interop.layout": "huggingface.units",
    "interop.progress": "huggingface.progress",
    "interop.safetensors_files": "huggingface.safetensors_read",
    "interop.safetensors_layout": "huggingface.safetensors_plan",
    "interop.stored_model": "huggingface.stored_model",
    "interop.to_hf": "huggingface.to_hf",
    "interop.tokenizer_files": "huggingface.tokenizer_files",
    "model.accounting": "model.flops",
    "model.gpu_kernels": "kernels.gpu.grouped_matmul",
    "model.grouped_matmul": "kernels.cpu.grouped_matmul",
    "model.kernels": "kernels.select",
    "model.tpu_attention": "kernels.tpu.attention",
    "model.tpu_grouped_matmul": "kernels.tpu.grouped_matmul",
    "model.tpu_rope": "kernels.tpu.norm_rope",
    "parallel.compiler": "parallel.compiler_options",
    "planning.collectives": "hlo.collectives",
    "planning.hlo": "hlo.parser",
    "planning.inference": "planning.serving_bounds",
    "planning.kernels": "hlo.kernel_cost",
    "planning.live": "hlo.liveness",
    "planning.network": "hlo.interconnect",
    "planning.picture": "curriculum.picture",
    "planning.reading": "hlo.tables",
    "planning.refusal": "hlo.oom_report",
    "planning.rough": "planning.analytic",
    "planning.schedule": "curriculum.table",
    "planning.timeline": "hlo.timeline",
    "planning.work": "hlo.op_cost",
    "training.batches": "parallel.batches",
    "training.checkpoint": "checkpoint.store",
    "training.exposure": "curriculum.token_ledger",
    "training.folders": "storage",
    "training.schedules": "curriculum.learning_rate",
    "training.stages": "curriculum.stages",
}


class _Loader(importlib.abc.Loader):
    def exec_module(self, module):
        old = module.__name__
        new = PACKAGE + MOVED[old.removeprefix(PACKAGE)]
        warnings.warn(f"{old} is now {new}; the old name goes with the next release", FutureWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(PACKAGE) and name.removeprefix(PACKAGE) in MOVED:
            return importlib.machinery.ModuleSpec(name, _Loader(), is_package="." not in name.removeprefix(PACKAGE))
        return None


def install() -> None:
    """Appends the finder, after all others: a module that exists is never looked for here."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
