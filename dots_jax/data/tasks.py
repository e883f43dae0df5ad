"""The built-in seqio tasks and mixtures. Importing registers them and touches no data; importing again does nothing.

A data set of one's own is one `add_text_task` in a module named in DataConfig.tasks_modules.
"""

import seqio
import tensorflow as tf

from dots_jax.data.sources.python_stdlib import PythonStdlibSource
from dots_jax.data.sources.text_task import add_text_task

# Files of the library about networks and data formats: the part that tiny_anneal shows more often.
_NETWORK = r"(asyncio|concurrent|email|html|http|json|urllib|wsgiref|xml|xmlrpc)/.*|(socket|socketserver|ssl|ftplib|imaplib|poplib|smtplib|csv|configparser|plistlib|tomllib/.*)\.py"  # noqa: E501


def _about_networks(example) -> tf.Tensor:
    return tf.strings.regex_full_match(example["name"], _NETWORK)


_SOURCE = PythonStdlibSource()
add_text_task("python_stdlib", _SOURCE)
add_text_task("python_stdlib_network", _SOURCE, keep=_about_networks)


def _add_mixture(name: str, rates: list[tuple[str, float]]) -> None:
    if name not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(name, rates)


_add_mixture("tiny_stable", [("python_stdlib", 1.0)])
# The shape of the report's last annealing stage, which turns to chosen domains; the shares are ours.
_add_mixture("tiny_anneal", [("python_stdlib", 0.4), ("python_stdlib_network", 0.6)])
