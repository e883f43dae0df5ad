"""`dots classifier`: from labels to a folder that the steps of curation load, or to a sentence that says why not."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import tokenizers
import tqdm

from dots_jax.cli.options import ClassifierOptions
from dots_jax.config import ModelConfig, UserError
from dots_jax.curation_models import folder, report
from dots_jax.curation_models.encoder import COMPUTE, Encoder, Predictor, small_model
from dots_jax.curation_models.examples import END_OF_TEXT, Example, load_tokenizer, of_kind
from dots_jax.curation_models.folds import assign, groups_of
from dots_jax.curation_models.labels import KINDS, Row, classes_of, read_labels
from dots_jax.curation_models.training import Recipe, Trainer

HIDDEN_SIZE, NUM_LAYERS, VOCAB_SIZE = 64, 2, 2048
MIN_LENGTH = 16


class Data(NamedTuple):
    """Examples in the order of rows, and of lines in them."""

    examples: list[Example]
    target_N: np.ndarray
    row_N: np.ndarray
    size_N: np.ndarray


def train_classifier(options: ClassifierOptions) -> int:
    """Returns the exit status. Raises UserError for what the user can fix, and for a head at chance; nothing is written then."""
    if options.kind not in KINDS:
        raise UserError(f"--kind must be one of {', '.join(KINDS)}, but is {options.kind!r}.")
    if options.length < MIN_LENGTH:
        raise UserError(f"--length must be at least {MIN_LENGTH} tokens, but is {options.length}.")
    if options.folds < 2:
        raise UserError(f"--folds must be at least 2, but is {options.folds}.")
    if not 0 < options.learning_rate < 1:
        raise UserError(f"--learning_rate must be between 0 and 1, but is {options.learning_rate}.")
    folder.check_new(options.output)
    rows = read_labels(options.labels, options.kind)
    groups = groups_of(rows)
    fold_of_row = assign(rows, groups, options.folds, options.seed)
    pretrained = Pretrained(options.checkpoint) if options.checkpoint else None
    tokenizer = _tokenizer(options, pretrained, rows)
    classes = classes_of(rows)
    data = make_data(rows, classes, options.kind, tokenizer, options.length)
    encoder = Encoder(_model(options, pretrained, tokenizer), len(classes))
    start = pretrained.start(encoder, options.seed) if pretrained else encoder.init(options.seed)
    recipe = Recipe(options.length, options.steps, options.batch_size, options.learning_rate, options.seed)
    fold_N, group_N = fold_of_row[data.row_N], groups[data.row_N]
    score_NC, params, bias_LE = _train(encoder, start, recipe, data, fold_N)
    languages = np.array([row.language for row in rows])[data.row_N]
    measured = report.Measured(classes, score_NC, data.target_N, fold_N, group_N, languages, data.size_N, options.seed)
    found = report.make_report(measured, _about(options, rows, groups))
    if measured.area().at_chance:
        raise UserError(
            f"The head is at chance: AUC {measured.area()} over {options.folds} folds of {options.labels} holds 0.5, so nothing "
            "was written; label more texts of more sites, or train for more --steps."
        )
    trained = folder.Classifier(options.kind, classes, options.length, encoder.model, tokenizer, params, bias_LE)
    folder.save(options.output, trained, found, lambda path: report.draw(found, measured, path))
    print(report.table(found))
    print(
        f"\nwrote {options.output}: {len(classes)} classes, {found['examples']:,} examples, {len(np.unique(groups)):,} groups"
    )
    return 0


def make_data(
    rows: Sequence[Row], classes: Sequence[str], kind: str, tokenizer: tokenizers.Tokenizer, length: int
) -> Data:
    """Of all rows, an example each or one for each line."""
    number_of = {label: number for number, label in enumerate(classes)}
    found = of_kind(kind, tokenizer, [row.text for row in rows], length)
    texts = [row.text.split("\n") if kind == "line" else [row.text] for row in rows]
    return Data(
        [example for examples in found for example in examples],
        np.array([number_of[label] for row in rows for label in row.labels], np.int32),
        np.repeat(np.arange(len(rows)), [len(examples) for examples in found]),
        np.array([len(text) for part in texts for text in part]),
    )


def _train(encoder: Encoder, start: tuple, recipe: Recipe, data: Data, fold_N: np.ndarray) -> tuple:
    """(scores of every example by the head of the other folds, parameters and bias of the head of all)."""
    trainer, predictor = Trainer(encoder, recipe), Predictor(encoder, recipe.length)
    folds = np.unique(fold_N).tolist()
    score_NC = np.empty((len(data.examples), encoder.classes), np.float32)
    steps = recipe.steps * (len(folds) + 1)
    with tqdm.tqdm(desc="training", total=steps, unit=" steps", mininterval=0.1 if sys.stderr.isatty() else 30) as bar:
        for fold in folds:
            others, here = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
            seen = [data.examples[place] for place in others]
            params, bias_LE, _ = trainer.train(start, seen, data.target_N[others], bar.update)
            score_NC[here] = predictor(params, bias_LE, [data.examples[place] for place in here])
        params, bias_LE, _ = trainer.train(start, data.examples, data.target_N, bar.update)
    return score_NC, params, bias_LE


class Pretrained:
    """A checkpoint of the project's own training."""

    def __init__(self, path: str):
        from dots_jax.checkpoint.open import open_checkpoint

        self._opened, self.path = open_checkpoint(path), path
        self.model = self._opened.model
        if not self._opened.tokenizer:
            raise UserError(
                f"--checkpoint={path} has no tokenizer.json (its tokens are bytes): train one with a tokenizer."
            )
        self.tokenizer = self._opened.tokenizer

    def start(self, encoder: Encoder, seed: int) -> tuple[dict, jax.Array]:
        """Its parameters with a new head."""
        from dots_jax.config import MeshConfig
        from dots_jax.model.model_def import ModelDef
        from dots_jax.parallel.mesh import make_mesh

        mesh = make_mesh(MeshConfig(data=1, fsdp=1).resolve(1), jax.devices()[:1])
        definition = ModelDef(self.model, COMPUTE, mesh)
        params, bias_LE = self._opened.restore(definition.abstract(), definition.shardings())
        params, bias_LE = jax.tree.map(np.asarray, (params, bias_LE))  # on no mesh
        return jax.tree.map(jax.numpy.asarray, (encoder.with_head(params, seed), bias_LE))


def _tokenizer(options: ClassifierOptions, pretrained: Pretrained | None, rows: list[Row]) -> tokenizers.Tokenizer:
    path = options.tokenizer or (pretrained.tokenizer if pretrained else None)
    if path:
        from dots_jax.data.tokenizers.tokenizer import TokenizerVocabulary

        vocabulary = TokenizerVocabulary(path)  # which refuses files of another kind
        vocabulary.special_id(END_OF_TEXT)
        with open(vocabulary.path, encoding="utf-8") as file:
            return load_tokenizer(file.read())
    from dots_jax.data.tokenizers.training import train_tokenizer

    trained = train_tokenizer((row.text for row in rows), options.vocab_size or VOCAB_SIZE)
    return load_tokenizer(trained.to_str())


def _model(options: ClassifierOptions, pretrained: Pretrained | None, tokenizer: tokenizers.Tokenizer) -> ModelConfig:
    ids = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    sizes = {name: getattr(options, name) for name in ("hidden_size", "num_layers", "vocab_size")}
    given = [name for name, value in sizes.items() if value is not None]
    if pretrained is None:
        if options.tokenizer and options.vocab_size:
            raise UserError(
                "--vocab_size is of a tokenizer that is trained on the labels: leave it out with --tokenizer."
            )
        hidden, layers = options.hidden_size or HIDDEN_SIZE, options.num_layers or NUM_LAYERS
        if hidden % 32:
            raise UserError(f"--hidden_size must be a multiple of 32, but is {hidden}.")
        return small_model(ids, hidden, layers, options.length)
    if given:
        raise UserError(f"--{given[0]} is decided by --checkpoint: leave it out.")
    if ids > pretrained.model.vocab_size or options.length > pretrained.model.max_seq_len:
        raise UserError(
            f"--checkpoint={pretrained.path} has {pretrained.model.vocab_size:,} ids and a context of "
            f"{pretrained.model.max_seq_len:,}, but the tokenizer has {ids:,} ids and --length is {options.length:,}."
        )
    return pretrained.model


def _about(options: ClassifierOptions, rows: list[Row], groups: np.ndarray) -> dict:
    told = dataclasses.asdict(options)
    kept = ("kind", "seed", "length", "steps", "batch_size", "learning_rate")
    return {name: told[name] for name in kept} | {
        "texts": len(rows), "sites": len({row.site for row in rows}), "groups": len(np.unique(groups)),
        "texts_by_language": report.language_counts(row.language for row in rows),
    }  # fmt: skip
