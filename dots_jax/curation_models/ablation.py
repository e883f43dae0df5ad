"""`dots curate --ablate=STEP`: what a step is worth, measured as the report measures it (figure 4).

Two corpora are made of one input, with the step and without. The same small model is trained on equal numbers of tokens of both,
with several seeds, and the loss on held-out clean texts, which are in neither, is drawn over the tokens.
"""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from dots_jax.cli.options import CurateOptions
from dots_jax.config import CurateConfig, UserError
from dots_jax.curation import identity
from dots_jax.curation.command import curate
from dots_jax.curation.corpus_files import read_documents
from dots_jax.curation.decontaminate import read_texts
from dots_jax.curation_models.encoder import COMPUTE, INIT_STD, even_out, small_model
from dots_jax.curation_models.examples import END_OF_TEXT, load_tokenizer
from dots_jax.curriculum.picture import file_pyplot
from dots_jax.model.model_def import ModelDef
from dots_jax.storage import write_text

SIDES = ("with", "without")
LENGTH, ROWS, VOCAB_SIZE, HIDDEN_SIZE, LAYERS = 128, 16, 2048, 64, 2
POINTS, LEARNING_RATE = 10, 2e-3  # points of a curve; the highest rate


class Texts(NamedTuple):
    """Token ids: a stream of each corpus, both of one length, and the rows of the held-out texts."""

    streams: dict[str, np.ndarray]
    held_out: np.ndarray
    vocab_size: int
    left_out: int  # held-out texts that are in a corpus


def ablate(config: CurateConfig, options: CurateOptions) -> int:
    """Returns the exit status. Raises UserError for what the user can fix, before anything is made as far as it is known then."""
    step = options.ablate
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"--ablate={step} draws a picture and needs matplotlib: pip install matplotlib.")
    if step not in config.steps:
        raise UserError(f"--ablate={step}: the steps of this run are {', '.join(config.steps)}.")
    if step in ("decoding", "extraction"):
        raise UserError(f"--ablate={step}: no page becomes a text without it; name another step.")
    for name, example in (("input", "crawl/*.warc.gz"), ("output", "runs/ablation"), ("held_out", "clean.jsonl")):
        if not getattr(options, name):
            raise UserError(f"--ablate={step} needs --{name}, as in --{name}={example}.")
    if options.only or options.dry_run or options.previous:
        raise UserError(f"--ablate={step} makes two complete corpora: leave out --only, --dry_run and --previous.")
    held_out = list(read_texts([options.held_out], "--held_out"))
    corpora = {}
    for side in SIDES:
        steps = config.steps if side == "with" else tuple(name for name in config.steps if name != step)
        output = str(Path(options.output) / side)
        print(f"{side} {step}")
        curate(dataclasses.replace(config, steps=steps), dataclasses.replace(options, output=output, ablate=None))
        corpora[side] = [document.text for document in read_documents(output)]
    texts = prepare(corpora, held_out, options.held_out)
    losses = {side: [] for side in SIDES}
    with tqdm.tqdm(desc="training", total=2 * options.seeds * options.steps, unit=" steps", mininterval=1) as bar:
        trainer = Trainer(texts, options.steps)
        for seed in range(options.seeds):
            for side in SIDES:
                losses[side].append(trainer.train(texts.streams[side], seed, bar.update))
    report = make_report(step, texts, losses, options.steps)
    write_text(Path(options.output) / "ablation.json", json.dumps(report, indent=1) + "\n")
    draw(report, str(Path(options.output) / "ablation.png"))
    print(summary(report))
    return 0


def prepare(corpora: dict[str, list[str]], held_out: list[str], where: str) -> Texts:
    """One tokenizer for all, trained on the larger corpus. Raises UserError for too few tokens."""
    from dots_jax.data.tokenizers.training import train_tokenizer

    known = {identity.fingerprint(text) for texts in corpora.values() for text in texts}
    clean = [text for text in held_out if identity.fingerprint(text) not in known]
    tokenizer = load_tokenizer(
        train_tokenizer(max(corpora.values(), key=lambda texts: sum(map(len, texts))), VOCAB_SIZE).to_str()
    )
    end = tokenizer.token_to_id(END_OF_TEXT)

    def stream(texts: list[str]) -> np.ndarray:
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return np.array([id for encoding in encoded for id in (*encoding.ids, end)], np.int32)

    streams = {side: stream(texts) for side, texts in corpora.items()}
    shortest = min(map(len, streams.values()))
    if shortest < 2 * LENGTH:
        raise UserError(f"A corpus has {shortest:,} tokens, too few to train on: give a larger --input.")
    evaluated = stream(clean)
    rows = len(evaluated) // (LENGTH + 1)
    if rows == 0:
        raise UserError(
            f"--held_out={where} has {len(evaluated):,} tokens in {len(clean)} texts that are in neither corpus, but "
            f"{LENGTH + 1} are needed: give more clean texts."
        )
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    # Equal tokens: of the longer one the documents of the smallest keys, which are random ones.
    equal = {side: ids[:shortest] for side, ids in streams.items()}
    return Texts(equal, evaluated[: rows * (LENGTH + 1)].reshape(rows, -1), size, len(held_out) - len(clean))


class Trainer:
    """Trains the same model on any stream: weights and places of a step's windows are a function of (seed, step)."""

    def __init__(self, texts: Texts, steps: int):
        self._model = ModelDef(
            small_model(texts.vocab_size, HIDDEN_SIZE, LAYERS, LENGTH), COMPUTE, None, init_std=INIT_STD
        )
        self._held_out, self._steps = texts.held_out, steps
        rate = optax.warmup_cosine_decay_schedule(
            0.0, LEARNING_RATE, max(steps // 10, 1), max(steps, 2), LEARNING_RATE / 10
        )
        self._optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1)
        )
        self._step, self._loss_of = jax.jit(self._one_step), jax.jit(lambda *arguments: self._loss(*arguments)[0])

    def _loss(self, params, bias_LE, ids_BT):
        """Nats per token."""
        module = self._model.bind(params, bias_LE)
        inputs, targets = ids_BT[:, :-1], ids_BT[:, 1:]
        positions = jnp.broadcast_to(jnp.arange(inputs.shape[1], dtype=jnp.int32), inputs.shape)
        x_BTD, stats = module(inputs, positions, jnp.ones_like(inputs))
        weights = jnp.ones(targets.shape, jnp.float32)
        return module.head.loss_sum(x_BTD, targets, weights, 0) / targets.size, stats.load_E

    def _one_step(self, params, bias_LE, moments, ids_BT):
        (_, load_LE), gradients = jax.value_and_grad(self._loss, has_aux=True)(params, bias_LE, ids_BT)
        updates, moments = self._optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), even_out(bias_LE, load_LE), moments

    def train(self, stream: np.ndarray, seed: int, tick=lambda: None) -> list[float]:
        """The held-out loss at POINTS places, evenly spread, the last one at the end."""
        params, bias_LE = self._model.init(seed)
        moments, found = self._optimizer.init(params), []
        for number in range(self._steps):
            starts = np.random.default_rng((seed, number)).random(ROWS) * (len(stream) - LENGTH)
            ids_BT = np.stack([stream[int(start) : int(start) + LENGTH + 1] for start in starts])
            params, bias_LE, moments = self._step(params, bias_LE, moments, ids_BT)
            tick()
            if number + 1 in steps_of_points(self._steps):
                found.append(self._held_out_loss(params, bias_LE))
        return found

    def _held_out_loss(self, params, bias_LE) -> float:
        """In batches of one shape; rows that are there twice to fill the last one count once."""
        rows, total = self._held_out, 0.0
        for row in range(0, len(rows), ROWS):
            some = rows[row : row + ROWS]
            if len(some) == ROWS:
                total += ROWS * float(self._loss_of(params, bias_LE, some))
            else:
                total += sum(float(self._loss_of(params, bias_LE, one[None])) for one in some)
        return total / len(rows)


def steps_of_points(steps: int) -> list[int]:
    return sorted({max(1, round(steps * point / POINTS)) for point in range(1, POINTS + 1)})


def make_report(step: str, texts: Texts, losses: dict[str, list[list[float]]], steps: int) -> dict:
    """losses: of each side and seed, nats per token. difference: with - without at the end, per seed."""
    last = {side: np.array(curves)[:, -1] for side, curves in losses.items()}
    difference_S = last["with"] - last["without"]
    spread = float(difference_S.std(ddof=1)) if len(difference_S) > 1 else None
    return {
        "step": step, "tokens": [ROWS * LENGTH * number for number in steps_of_points(steps)], "losses": losses,
        "corpus_tokens": len(texts.streams["with"]), "held_out_tokens": int(texts.held_out[:, 1:].size),
        "held_out_texts_left_out": texts.left_out, "difference": float(difference_S.mean()), "difference_spread": spread,
    }  # fmt: skip


def summary(report: dict) -> str:
    """What the command prints at its end."""
    spread = report["difference_spread"]
    shown = "one seed, so its spread is not known" if spread is None else f"spread over seeds {spread:.4f}"
    lines = [
        f"held-out loss at the end, with {report['step']} minus without: {report['difference']:+.4f} nats a token ({shown})"
    ]
    lines.append(f"each model saw {report['tokens'][-1]:,} tokens, of {report['corpus_tokens']:,} of either corpus")
    if report["held_out_texts_left_out"]:
        lines.append(f"held-out texts left out, since a corpus has them: {report['held_out_texts_left_out']:,}")
    return "\n".join(lines)


def draw(report: dict, path: str) -> None:
    """Both curves: their mean over seeds, and the range between the lowest and the highest seed."""
    pyplot = file_pyplot()
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
        for side, colour in zip(SIDES, ("#332288", "#CC6677")):
            curves = np.array(report["losses"][side])
            axes.fill_between(
                report["tokens"], curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0
            )
            axes.plot(report["tokens"], curves.mean(axis=0), color=colour, label=f"{side} {report['step']}")
        axes.set_xlabel("tokens seen")
        axes.set_ylabel("held-out loss, nats a token")
        axes.legend(frameon=False, title=f"{len(report['losses']['with'])} seeds each: mean and range")
        figure.savefig(path, dpi=140, metadata={"Software": None})
        pyplot.close(figure)
