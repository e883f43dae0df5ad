"""What a chip reaches of its data sheet, as others have measured it, and how far that is to be believed.

The `calibrated` estimate charges Pallas kernels by their schedule (`kernel_table`), and dense products, HBM and links at these
shares. Two published runs were compiled and read this way (docs/calibration.md): both took 0.99 of what it says, and the ends of
its range held both. Every value has its kind: measured elsewhere, compiled, or assumed.
"""

import dataclasses

from dots_jax.parallel.topology import Chip

MEASURED, COMPILED, ASSUMED, HERE = "measured elsewhere", "compiled", "assumed", "measured on this chip"
# The range, in shares of the centre. Measured runs took 0.94 to 1.15 of either corrected estimate; none was much faster than the
# centre, so the slow side is the longer one.
FAST, SLOW = 0.95, 1.12
# The best that anyone has measured, in hardware FLOPs of a step over the peak: dense 405B on v5p, and Mixtral 8x7B.
BEST_DENSE_HFU, BEST_MOE_HFU = 0.86, 0.70


@dataclasses.dataclass(frozen=True)
class Shares:
    """hbm, links: of the data sheet's (links: of `Chip.ici`). dense: times that a dense product takes its compiler cycles.
    peak: of the data sheet that a dense product reaches at most. cycles: the weight of the compiler's cycles, against bytes,
    for work without a product. latency: seconds of a collective before its first byte. ratio: measured over predicted, of a run."""

    hbm: float = 0.83
    hbm_kind: str = ASSUMED
    dense: float = 1.0
    dense_kind: str = ASSUMED
    peak: float = 1.0
    cycles: float = 0.5
    links: float = 86.3 / 90
    links_kind: str = MEASURED
    latency: float = 4.6e-6
    ratio: float = 1.0
    ratio_note: str = ""

    def dense_seconds(self, cycles_seconds: float, flops: float, chip: Chip) -> float:
        return max(self.dense * cycles_seconds, flops * chip.devices / (self.peak * chip.flops))

    def assumptions(self, chip: Chip, kernels: str, unknown: list[str]) -> list[tuple[str, str]]:
        """(what, kind) of all that the estimate rests on."""
        if self.peak < 1:
            dense = f"dense products: the compiler's cycles, at most {self.peak:.0%} of the peak"
        else:
            dense = f"dense products: {self.dense:.2f} of the compiler's cycles"
        lines = [
            (f"Pallas kernels: bundles of the compiler's schedule ({kernels})", COMPILED)
            if kernels
            else ("Pallas kernels: at 60% of the peak, no table of this chip", ASSUMED),
            (dense, self.dense_kind),
            (f"HBM: {self.hbm:.0%} of {chip.hbm / 1e12:.2f} TB/s", self.hbm_kind),
            (
                f"links: {self.links * chip.ici / 1e9:.1f} GB/s, {1e6 * self.latency:.1f} us a collective",
                self.links_kind,
            ),
            (f"element-wise work: {self.cycles:.0%} cycles, {1 - self.cycles:.0%} bytes", MEASURED),
            ("experts at balanced load; hosts, input and checkpoints cost nothing", ASSUMED),
        ]
        if kernels and unknown:
            lines.append((f"without a row in the table, at 60% of the peak: {', '.join(unknown)}", ASSUMED))
        if self.ratio_note:
            lines.append((f"all of it times {self.ratio:.3f}: {self.ratio_note}", HERE))
        return lines

    def range(self, centre: float) -> tuple[float, float, float]:
        """Seconds: fast end, centre, slow end. Calibrated by a run on this chip it is narrower."""
        fast, slow = (0.97, 1.03) if self.ratio_note else (FAST, SLOW)
        return fast * centre, centre, slow * centre


SHARES: dict[str, Shares] = {
    "v5p": Shares(cycles=1.0),
    "v6e": Shares(hbm_kind=MEASURED, dense=0.90, dense_kind=MEASURED, links=86.8 / 90, latency=2.3e-6),
    "tpu7x": Shares(hbm=0.87, hbm_kind=MEASURED, peak=0.83, dense_kind=MEASURED),
    "v5e": Shares(),
}
