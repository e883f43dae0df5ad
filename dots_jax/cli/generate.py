r"""Generate text for a prompt, a conversation, or every row of a file.

    dots generate --checkpoint=runs/tiny --prompt='def main(' --stop='\n\n'
    dots generate --checkpoint=DIR --chat
    dots generate --checkpoint=DIR --input=IN.jsonl --output=OUT.jsonl --samples=4

A prompt's text streams to the terminal. Rows are {"prompt": text}, {"messages": [...]} or
{"tokens": [ids]}, and are written again, once a sample, with "new_tokens" (a stop id is its last),
their "logprobs", "text", "finish_reason" (stop or length) and "stop_reason".
"""

import dataclasses
import re

from dots_jax.cli.options import GenerateOptions
from dots_jax.config import UserError

OPTIONS = GenerateOptions
ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


def main(options: GenerateOptions) -> None:
    options = dataclasses.replace(options, stop=tuple(map(unescape, options.stop)))
    from dots_jax.inference.session import generate
    from dots_jax.parallel.distributed import require_backend

    require_backend()
    generate(options)


def unescape(stop: str) -> str:
    r"""A stop string as it is meant: a shell hands on the two characters of \n as they are.

    Raises:
      UserError: it is empty, so that it would end every row at once, or has an escape that is not known.
    """
    if not stop:
        raise UserError("--stop is empty: say which text ends a row, or leave the flag out.")

    def character(found: re.Match) -> str:
        if found[1] not in ESCAPES:
            raise UserError(rf"--stop={stop} has the unknown escape {found[0]}: write \n, \t, or \\ for a backslash.")
        return ESCAPES[found[1]]

    return re.sub(r"\\(.?)", character, stop, flags=re.DOTALL)
