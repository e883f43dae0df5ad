"""The models of curation: the project's own transformer with a head, trained on the user's labels. Jax lives here, and the room
`curation` never imports it: it loads this room by name, and only where the config names a folder of a model.

labels.py folds.py     the user's labels, and folds that share neither a site nor a near-duplicate
examples.py            token ids of a document, or of a line with its neighbours
encoder.py training.py the transformer, its pooled hidden states, the head; batches that are a function of (seed, step)
auc.py                 areas under the curve with intervals
folder.py              what a trained model is on the disk: weights, tokenizer, settings, report, picture
handler.py beam_handler.py     models for the steps of `curation`, here and in Beam's RunInference
xlm_roberta.py torch_file.py   BGE-M3's encoder, and its published file without torch
semantic.py            k-means and cosines within clusters
ablation.py            what a step of curation is worth: two corpora, the same small model on each
report.py command.py   what `dots classifier` writes and prints
"""
