"""What the model learns from: seqio tasks and mixtures, token caches, order, packing, batches.

The path of a token, one module a step:

    text_task.py      a seqio Task whose documents are text        (tasks.py, python_stdlib.py: the built-in ones)
    mixtures.py       the sources and mixtures of a config -> Tasks and Mixtures  (tfds_source.py)
    chat_task.py      one whose documents are conversations        (chat.py: the template)
    registry.py       names -> Tasks and exact mixture rates
    file_source.py    the user's files as a seqio source           (record_files.py: JSON lines, Parquet, ...)
    documents.py      a piece of a Task -> tokenised documents     (vocabulary.py: what a token stands for;
                                                                    tokenizer.py: tokenizer.json, tokenizer_training.py)
    cache_build.py    documents -> ArrayRecord chunks of tokens, in steps that resume   (cache_plan.py, token_format.py)
    token_cache.py    opens a cache, and makes it in this process if it is not there
    cache_job.py      makes caches on Apache Beam                  (python -m dots_jax.cache)
    token_stream.py   any slice of that stream, without loading the rest
    packing.py        a slice -> one training sequence             (numpy only)
    order.py          (seed, index) -> (task, epoch, window)       (numpy only)
    untie.py          documents of a long sequence cut, shuffled, tied by ids  (numpy only)
    sequences.py      a mixture as an indexable list of sequences
    token_source.py   the same windows as a seqio.DataSource
    evaluation.py     seqio.Evaluator over those windows           (metrics.py: loss, perplexity, bits per byte)
    loader.py         batches computed one ahead of the training step

seqio is the registry and the interface; order, packing and state are ours. The whole position of a run in its data is
one integer, so nothing in here has state worth saving. Importing this package imports nothing heavy.
"""
