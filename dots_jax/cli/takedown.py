"""Say where a run holds listed documents, and which of its checkpoints learned them.

    dots takedown --gin_file=RUN.gin --list=url=takedown.txt --workdir=RUN --output=takedown.json

takedown.txt: a value a line. Copies of these documents are found in all caches of the run. Next to
--output stands a list with the SHA-256 of the texts: with it in Source.exclude, `dots cache` makes
caches without them. Reads every source once, and changes nothing.
"""

from dots_jax.cli.execute import load_tensorflow
from dots_jax.cli.gin_config import load
from dots_jax.cli.options import TakedownOptions
from dots_jax.config import TrainConfig, UserError

OPTIONS = TakedownOptions


def main(options: TakedownOptions) -> None:
    if not options.list or not options.output:
        raise UserError("Missing --list or --output: as in --list=url=takedown.txt --output=takedown.json.")
    config, options = load(TrainConfig, options)
    load_tensorflow(options.debug)
    from dots_jax.analysis.takedown_report import takedown

    takedown(config, options)
