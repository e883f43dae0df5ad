"""Bring a data set of the Hugging Face hub into a folder or a bucket. No other command downloads.

    dots fetch_source --repo=HuggingFaceFW/fineweb-2 --revision=main --include='data/cmn_Hani/*' \\
        --output=gs://my-bucket/corpora/fineweb-2    # names the commit, to be given as --revision

Started again, it goes on where it stopped. Needs huggingface_hub: pip install 'dots_jax[hub]'.
"""

from dots_jax.cli.options import FetchOptions

OPTIONS = FetchOptions


def main(options: FetchOptions) -> int:
    from dots_jax.data.sources.fetch import fetch

    return fetch(options)
