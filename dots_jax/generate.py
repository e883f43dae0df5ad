"""Generate text: python -m dots_jax.generate --checkpoint=runs/tiny --prompt='def main('

--checkpoint is a training workdir or what `python -m dots_jax.convert from_hf` wrote. Without --input the text streams to
the terminal. With --input=IN.jsonl --output=OUT.jsonl each row, {"prompt": text} or {"tokens": [ids]}, is written again with
"new_tokens" (a stop id is its last) and "text". --chat holds a conversation, or takes each prompt as a user's message.
"""

from dots_jax import gin_cli

CHECKPOINT = (
    gin_cli.Flag("checkpoint", str, "a training workdir, or what `convert from_hf` wrote"),
    gin_cli.Flag("step", int, "the checkpoint of this step; default: the newest", minimum=0),
    gin_cli.Flag("tokenizer", str, "a tokenizer.json; default: the run's own"),
    gin_cli.Flag("dtype", str, "float32 or bfloat16; default: as the run computed, or bfloat16"),
    gin_cli.Flag("batch_size", int, "rows that run at the same time", 16),
    gin_cli.Flag("output", str, "the .jsonl to write"),
)
FLAGS = (
    *CHECKPOINT,
    gin_cli.Flag("prompt", str, "the text to go on from"),
    gin_cli.Flag("chat", bool, "prompts are a user's messages; alone: a conversation in the terminal", False),
    gin_cli.Flag("input", str, "a .jsonl of prompts"),
    gin_cli.Flag("max_new_tokens", int, "of each row", 256),
    gin_cli.Flag("temperature", float, "0: always the likeliest token", 1.0),
    gin_cli.Flag("top_k", int, "draw among so many likeliest tokens; 0: all", 0, minimum=0),
    gin_cli.Flag("top_p", float, "draw among the likeliest tokens that have this probability together", 1.0),
    gin_cli.Flag("seed", int, "of all draws; the same seed, rows and flags give the same text", 0, minimum=0),
    gin_cli.Flag("stop", list, "text before which a row ends; may be repeated"),
    gin_cli.Flag("stop_ids", str, "ids that end a row, separated by commas; default: <|endoftext|>, <|endofresponse|>"),
)


def main(options) -> None:
    from dots_jax.inference.session import generate

    generate(options)


if __name__ == "__main__":
    gin_cli.run(None, main, *FLAGS)
