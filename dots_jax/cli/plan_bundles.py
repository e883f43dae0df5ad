"""Compile each Pallas kernel alone and print what it costs on a chip, by the compiler's own schedule.

    dots plan bundles --chip=v5p --json=dots_jax/hlo/kernel_tables/v5p.json

Works on any Linux machine with libtpu, without a TPU; some minutes a chip. `dots plan pod` charges
kernels by the committed tables; a test fails when a kernel changed and its tables did not.
"""

from dots_jax.cli.options import BundleOptions

OPTIONS = BundleOptions


def main(options: BundleOptions) -> int:
    from dots_jax.config import UserError

    if not options.chip:
        raise UserError("Missing --chip: say which TPU, as in --chip=v5p.")
    from dots_jax.planning.bundles import bundle_table, table_text

    print(table_text(bundle_table(options.chip, options.json)))
    return 0
