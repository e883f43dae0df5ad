"""What the model learns from: seqio tasks and mixtures, token caches, order, packing, batches.

The path of a token, one module a step:

    mixtures.py                 the sources and mixtures of a config -> seqio Tasks and Mixtures
    registry.py                 names -> Tasks and exact mixture rates
    tasks.py                    the built-in tasks
    sources/text_task.py        a seqio Task whose documents are text          (python_stdlib.py, tfds_source.py)
    sources/chat_task.py        one whose documents are conversations
    sources/conversations/      records in the shapes of public data sets -> messages    (standard library only)
    sources/file_source.py      the user's files as a seqio source             (record_files.py: JSON lines, Parquet, ...)
    sources/documents.py        a piece of a Task -> tokenised documents
    tokenizers/                 what a token stands for; tokenizer.json; its training; the chat form
    cache/build.py              documents -> ArrayRecord chunks of tokens, in steps that resume   (plan.py, token_format.py)
    cache/token_cache.py        opens a cache, and makes it in this process if it is not there
    cache/job.py                makes caches on Apache Beam                    (python -m dots_jax.cache)
    cache/token_stream.py       any slice of that stream, without loading the rest
    sequences/packing.py        a slice -> one training sequence               (numpy only)
    sequences/conversation_layout.py  which conversations stand in which sequence; best_fit.py    (numpy only)
    sequences/order.py          (seed, index) -> (task, epoch, window)         (numpy only)
    sequences/untie.py          documents of a long sequence cut, shuffled, tied by ids  (numpy only)
    sequences/mixture_sequences.py  a mixture as an indexable list of sequences
    sequences/token_source.py   the same windows as a seqio.DataSource
    evaluation.py               seqio.Evaluator over those windows             (metrics.py: loss, perplexity, bits per byte)

seqio is the registry and the interface; order, packing and state are ours. The complete position of a run in its data is
one integer, so nothing in here has state worth saving. Importing this package imports nothing heavy.
"""
