"""What each command takes on its command line: frozen dataclasses, of which `arguments` makes the parsers.

A field made with `flag` is the flag of that name, one made with `word` stands without --. Their annotations decide the type:
a tuple may be repeated. Standard library only, so that any room may name these types.
"""

import dataclasses


def flag(help: str, default=None, *, minimum: int | None = None, path: bool = False, pair: bool = False):
    """minimum: of an integer. path: `~` is the home folder. pair: of a tuple, two values follow the flag."""
    return dataclasses.field(default=default, metadata={"help": help, "minimum": minimum, "path": path, "pair": pair})


def word(help: str, *, path: bool = False):
    return dataclasses.field(default="", metadata={"help": help, "path": path, "word": True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes."""

    debug: bool = flag("show tracebacks and warnings of the libraries", False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GinOptions(Options):
    """Of a command that is configured by gin files."""

    gin_file: tuple[str, ...] = flag("gin file; may be repeated, later ones win", (), path=True)
    gin_bindings: tuple[str, ...] = flag('one more setting: "TrainConfig.seed = 1"; may be repeated', ())
    gin_text: str = ""  # files and bindings as given, includes written out; set by `gin_config.load`
    operative_text: str = ""  # every setting in force


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(GinOptions):
    workdir: str | None = flag("folder of the run: checkpoints, metrics, config; may be in a bucket", path=True)
    max_steps: int | None = flag("stop after this global step, with a checkpoint", minimum=1)
    dry_run: bool = flag("check everything, print the plan and stop; needs no --workdir", False)
    distributed: str | None = flag("several processes: auto, or ADDRESS:PORT,PROCESS,PROCESSES")
    devices: str | None = flag("exit unless JAX sees exactly these devices: PLATFORM:NUMBER, as in tpu:128")
    exit_codes: bool = flag("for scripts: 0 finished, 2 needs a person, 75 stopped by SIGTERM, 1 try again", False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions(Options):
    """Of a command that computes with a trained model."""

    checkpoint: str | None = flag("a training workdir, or what `dots convert from_hf` wrote", path=True)
    step: int | None = flag("take the checkpoint of this step; default: the newest", minimum=0)
    tokenizer: str | None = flag("a tokenizer.json; default: the run's own", path=True)
    dtype: str | None = flag("float32 or bfloat16; default: as the run computed, or bfloat16")
    output: str | None = flag("the .jsonl to write", path=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreOptions(CheckpointOptions):
    input: str | None = flag("the .jsonl of texts", path=True)
    batch_size: int = flag("rows that are scored at the same time", 16, minimum=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalOptions(GinOptions, CheckpointOptions):
    """Of two uses in one command: tasks of a gin file (workdir), or texts of a file (score and CheckpointOptions)."""

    workdir: str | None = flag("with --gin_file: folder of the run", path=True)
    distributed: str | None = flag("with --gin_file: auto, or ADDRESS:PORT,PROCESS,PROCESSES")
    score: str | None = flag("score this .jsonl of texts, as `dots score --input`", path=True)
    batch_size: int | None = flag("with --score: rows that are scored at the same time; default: 16", minimum=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    suite: str | None = flag("the rows of table2, table3, table5 or figure4, answered by a checkpoint")
    checkpoint: str | None = flag("a training workdir, or what `dots convert from_hf` wrote", path=True)
    step: int | None = flag("take the checkpoint of this step; default: the newest", minimum=0)
    steps: str | None = flag("one evaluation a checkpoint of the run: milestones, all, or 100,200")
    validation: str | None = flag("with --steps: a .jsonl of texts, or plain text, whose loss is measured", path=True)
    tokenizer: str | None = flag("a tokenizer.json; default: the run's own", path=True)
    dtype: str | None = flag("float32 or bfloat16; default: as the run computed, or bfloat16")
    data: str | None = flag("the folder of the published files: DATA/row/...", path=True)
    rows: str | None = flag("only these rows: gsm8k,mmlu")
    limit: int | None = flag("only the first items of each row; of table3: of each length", minimum=1)
    lengths: str | None = flag("of table3, in tokens; default: 4096,8192,16384,32768")
    seed: int = flag("of table3's prompts", 0, minimum=0)
    prompts: str | None = flag("write the prompts of the rows into this .jsonl and stop", path=True)
    batch_size: int = flag("rows of the model's batch", 16, minimum=1)
    judge: str | None = flag("of rows that a judge reads: an OpenAI-compatible URL, or a command")
    judge_model: str = flag("the judge's name at its URL", "")
    ranking: bool = flag("also rank the choices by log-likelihood, in a column of its own", False)
    row: str | None = flag("the benchmark of --verdicts, as --list names it")
    verdicts: str | None = flag("a .jsonl of predictions to judge, without a model", path=True)
    output: str | None = flag("the folder of a --suite, or the .jsonl of --verdicts", path=True)
    list: bool = flag("print all rows: metric, reference, licence; with --data which are there", False)
    unsafe_code: bool = flag("run programs without a sandbox where the machine has none", False)
    distributed: str | None = flag("several processes: auto, or ADDRESS:PORT,PROCESS,PROCESSES")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertLoadOptions(CheckpointOptions):
    domain: tuple[str, ...] = flag("name=file: a text to count, .jsonl or plain; may be repeated", ())
    output: str | None = flag("the folder of expert_load.json and expert_load.png", path=True)
    seq_len: int = flag("tokens of a row, at most the model's context", 2048, minimum=2)
    batch_size: int = flag("rows of a step", 8, minimum=1)
    distributed: str | None = flag("several processes: auto, or ADDRESS:PORT,PROCESS,PROCESSES")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateOptions(CheckpointOptions):
    prompt: str | None = flag("the text to continue")
    chat: bool = flag("prompts are a user's messages; alone: a conversation in the terminal", False)
    default_system: str | None = flag("system message of conversations without one; default: the run's own")
    input: str | None = flag("a .jsonl of prompts or conversations", path=True)
    samples: int | None = flag("with --input: rows for each prompt, which is fed once; default: 1", minimum=1)
    batch_size: int = flag("rows that run at the same time", 16, minimum=1)
    max_new_tokens: int = flag("tokens added to each row", 256, minimum=1)
    temperature: float = flag("0: always the likeliest token", 1.0)
    top_k: int = flag("draw among this many likeliest tokens; 0: all", 0, minimum=0)
    top_p: float = flag("draw among the likeliest tokens of this total probability", 1.0)
    seed: int = flag("the same seed, rows and flags give the same text", 0, minimum=0)
    stop: tuple[str, ...] = flag(r"end a row before this text; \n, \t, \\ are escapes; may be repeated", ())
    stop_ids: str | None = flag("ids that end a row: 1,2,3; default: <|endoftext|>, <|endofresponse|>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RftSampleOptions(CheckpointOptions):
    questions: str | None = flag("the .jsonl of questions: id, messages or prompt, answer or tests", path=True)
    samples: int = flag("answers to each question", 8, minimum=1)
    limit: int | None = flag("only the first questions of the file", minimum=1)
    batch_size: int = flag("rows that run at the same time", 64, minimum=1)
    max_new_tokens: int = flag("tokens of an answer at most", 512, minimum=1)
    temperature: float = flag("0: always the likeliest token", 1.0)
    top_k: int = flag("draw among this many likeliest tokens; 0: all", 0, minimum=0)
    top_p: float = flag("draw among the likeliest tokens of this total probability", 1.0)
    seed: int = flag("the same seed, questions and flags give the same samples", 0, minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RftVerifyOptions(Options):
    questions: str | None = flag("the .jsonl of questions that were sampled", path=True)
    samples: str | None = flag("the .jsonl of samples: id, sample, text, finish_reason", path=True)
    output: str | None = flag("the .jsonl to write: the samples, each with its verdict", path=True)
    seconds: float = flag("CPU time of one comparison in mathematics", 3.0)
    code_seconds: float = flag("CPU time of one program with its tests", 10.0)
    uneven: bool = flag("questions may have different numbers of samples", False)
    unsafe_code: bool = flag("run programs without a sandbox where the machine has none", False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RftKeepOptions(Options):
    questions: str | None = flag("the .jsonl of questions that were sampled", path=True)
    verified: str | None = flag("the .jsonl that `dots rft verify` wrote", path=True)
    output: str | None = flag("the .jsonl of conversations to write", path=True)
    cap: int = flag("answers of a question at most", 4, minimum=1)
    always_right: bool = flag("keep questions that every sample answers, too", False)
    decontaminate: tuple[str, ...] = flag("evaluation file, .jsonl or .txt; may be repeated", (), path=True)
    ngram: int = flag("words in a row that a question may not share with those files", 13, minimum=1)
    mix: tuple[str, ...] = flag("phase 1's conversations, to be added; a glob; may be repeated", (), path=True)
    mix_share: float | None = flag("share of the output that is from --mix, drawn by --seed; default: all of it")
    seed: int = flag("of the draw for --mix_share", 0, minimum=0)
    uneven: bool = flag("questions may have different numbers of samples", False)
    unverified: bool = flag("a control: keep samples whatever their verdict", False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    direction: str = word("from_hf or to_hf")
    src: str = word("the folder to read", path=True)
    dst: str = word("the folder to write", path=True)
    distributed: str | None = flag("several processes: auto, or ADDRESS:PORT,PROCESS,PROCESSES")
    step: int | None = flag("to_hf: the checkpoint of this step; default: the newest", minimum=0)
    dtype: str | None = flag("to_hf: bfloat16 or float32; default: as stored")
    tokenizer: str | None = flag("to_hf: folder with tokenizer.json; default: the weights' own", path=True)
    max_shard_size: str | None = flag("to_hf: size of a file, as 5GB; default: 50GB, as transformers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurriculumOptions(GinOptions):
    picture: str | None = flag("draw the curriculum into this file: .png, .svg, .pdf", path=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodOptions(GinOptions):
    topology: str | None = flag("the TPU pod: v5p:4x4x8, v6e:16x16, tpu7x:4x4x8, v5e:16x16, ...")
    slices: int = flag("slices of that topology, joined by the data-centre network", 1, minimum=1)
    stage: str | None = flag("plan this stage of the run; default: the first")
    picture: str | None = flag("draw memory and time into this file: .png, .svg, .pdf", path=True)
    json: str | None = flag("write the forecast into this file, for scripts", path=True)
    hlo: str | None = flag("write the optimised module into this file, to check the estimate", path=True)
    read: str | None = flag("the --hlo of an earlier plan, with its --json: read again, nothing compiled", path=True)
    top: int | None = flag("name this many of the operations that take longest", minimum=1)
    search: bool = flag("try meshes, remat, offload and microbatches; print the best as gin lines", False)
    max_trials: int = flag("with --search: configurations to compile at most", 6, minimum=1)
    calibrate: tuple[str, ...] = flag(
        "measurements that correct the estimate: metrics.jsonl, kernels.json", (), path=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions(PodOptions):
    """Of `dots plan` without a subcommand: --topology means pod, --inference serving, neither of them curriculum."""

    picture: str | None = flag("draw the curriculum, or memory and time, into this .png, .svg, .pdf", path=True)
    inference: bool = flag("what serving the model takes, as `dots plan serving`", False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BundleOptions(Options):
    chip: str | None = flag("the kind of TPU: v5e, v5p, v6e, tpu7x")
    json: str | None = flag("write the table into this file", path=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HloOptions(Options):
    file: str = word("text of an optimised module, as --hlo and compiled.as_text() write it", path=True)
    topology: str | None = flag("the TPU pod it was compiled for, as in v5p:4x4x8")
    mesh: str | None = flag("axes and sizes in order, as in data=1,fsdp=16,expert=8")
    slices: int = flag("slices of that topology", 1, minimum=1)
    rows: float = flag("expert rows of a device: tokens x choices; 0: the buffer is full", 0.0)
    buffer: float = flag("ComputeConfig.expert_capacity_factor: room over those rows", 1.25)
    flops: float = flag("model FLOPs of a device's step, for the MFU", 0.0)
    top: int = flag("number of the largest operations to name", 30, minimum=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheOptions(GinOptions):
    dry_run: bool = flag("check everything, print pieces, opens, core-hours and disk, and stop", False)
    sizes: str | None = flag("with --dry_run alone: plan a source by this file of lines `BYTES NAME`", path=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TakedownOptions(GinOptions):
    list: tuple[str, ...] = flag("FIELD=FILE: values of a field of the records, a line each; may be repeated", ())
    workdir: str | None = flag("the run whose checkpoints are named", path=True)
    output: str | None = flag("the .json to write; the list of texts stands next to it", path=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchOptions(Options):
    repo: str | None = flag("the data set on the hub, as HuggingFaceFW/fineweb-2")
    revision: str | None = flag("its commit, 40 hex digits; for a branch the command names it")
    include: tuple[str, ...] = flag("glob of files in it; may be repeated; default: all", ())
    output: str | None = flag("the folder, or gs:// bucket, to fill", path=True)
    workers: int = flag("files that are brought at the same time", 4, minimum=1)
    dry_run: bool = flag("print files and bytes, and stop", False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectOptions(Options):
    files: str | None = flag("a glob of record files, on this machine or in a bucket", path=True)
    field: str = flag("field of a record that holds its text", "text")
    tokenizer: str | None = flag("a tokenizer.json; default: bytes", path=True)
    filter: tuple[str, ...] = flag("predicate, as in Source.filters: 'score >= 3'; may be repeated", ())
    documents: int = flag("documents to read and tokenise", 1000, minimum=2)
    json: str | None = flag("also write the figures into this file", path=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurateOptions(GinOptions):
    input: tuple[str, ...] = flag(
        "file, folder or glob: WARC, ARC, WET, JSONL, Parquet, HTML; may be repeated", (), path=True
    )
    output: str | None = flag("folder of corpus, ledger and report; with --only also a .jsonl or .jsonl.zst", path=True)
    crawl: str = flag("name of the crawl, a field of every document", "")
    previous: str | None = flag(
        "--output of the crawl before: its state decides first, its text is not read", path=True
    )
    only: str | None = flag("run this step alone, after what turns pages into text")
    dry_run: bool = flag("check everything, print inputs and steps, and stop", False)
    takedown: str | None = flag(
        "file of addresses and hosts: removes their documents from a complete --output", path=True
    )
    ablate: str | None = flag("make the corpus with and without this step, and train a model on each")
    held_out: str | None = flag("with --ablate: a .jsonl or .txt of clean texts whose loss is measured", path=True)
    seeds: int = flag("with --ablate: models of each corpus", 3, minimum=1)
    steps: int = flag("with --ablate: steps of each model", 300, minimum=1)
    explain: str | None = flag("URL or id: print this page's way through all steps with every number")
    compare: tuple[str, ...] = flag(
        "two outputs: print which documents only one of them has, and why", (), path=True, pair=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierOptions(Options):
    labels: str | None = flag("the .jsonl of labelled texts", path=True)
    output: str | None = flag("the folder to write, which QualityConfig.model and the like name", path=True)
    kind: str = flag("document: a label a text; line: one for each of its lines", "document")
    folds: int = flag("parts of the labels: each is left out once, to measure", 5, minimum=2)
    length: int = flag("tokens of a text, or of a line with its neighbours", 256, minimum=1)
    steps: int = flag("steps of each head", 400, minimum=1)
    batch_size: int = flag("examples of a step", 32, minimum=1)
    learning_rate: float = flag("the highest, after a tenth of the steps", 1e-3)
    seed: int = flag("of weights, batches and folds", 0, minimum=0)
    hidden_size: int | None = flag("width of a model that begins at random; default: 64", minimum=32)
    num_layers: int | None = flag("its layers; default: 2", minimum=2)
    vocab_size: int | None = flag("ids of a tokenizer trained on the labels' texts; default: 2048", minimum=1)
    tokenizer: str | None = flag("a tokenizer.json in its place", path=True)
    checkpoint: str | None = flag("begin with this model: a training workdir", path=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerOptions(Options):
    output: str | None = flag("the tokenizer.json to write", path=True)
    vocab_size: int = flag("ids, the special tokens included", 2048, minimum=1)
    files: str | None = flag("UTF-8 text, or records as token caches read them: globs, separated by commas")
    field: str = flag("field of a record in --files that holds its text", "text")
    max_malformed: float = flag("share of records, 0 to 1, that may be left out", 0.01)
    task: str = flag("without --files: the train split of this seqio task", "python_stdlib")
    tasks_modules: str = flag("modules that register tasks, separated by commas", "dots_jax.data.tasks")
    cache_dir: str = flag("folder of data sets, as DataConfig.cache_dir", ".cache/dots_jax", path=True)
