"""Web curation: pages in, a corpus and a ledger of everything removed out; never jax.

record.py     what travels: Page, Document, Removal
inputs.py     the files that --input names, as numbered pieces; feed.py, warc.py, http.py, rows.py read them
url.py decode.py extract.py language.py identity.py lines.py rules/ near_duplicates.py decontaminate.py pii.py     the steps:
              pure functions, each usable alone
words.py hashing.py minhash.py families.py     words of a text; signatures and bands; who belongs together, also between sources
models.py model_steps.py scoring.py     the steps of models: their folders, their verdicts, the stage in which a model is asked
embedding_step.py embedding.py balance.py     semantic duplicates, and shares of classes
state.py      what a crawl leaves to the next one
sandbox.py    the process in which a page is extracted: time, memory and death become a reason
steps.py      the protocol of a step, and the table of all
streams.py exchange.py books.py     sorted files between the phases of a run, and the counts of both sides
unit.py       one numbered unit of a phase: the part that workers share, repeat and resume
run.py        all phases in order;  job.py: the same units on Apache Beam, and the only file that imports it
command.py report.py     what `dots curate` prints and writes
"""
