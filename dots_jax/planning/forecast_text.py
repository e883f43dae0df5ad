"""A forecast as a person reads it."""

from dots_jax.hlo.tables import collectives_table, largest, parts_table, totals
from dots_jax.human import human
from dots_jax.planning.compile import GIB
from dots_jax.planning.forecast import REPORT_HOURS_PER_TRILLION, Forecast, verdict

METHOD = """\
How: the step that `train` runs, compiled ahead of time by the TPU compiler; nothing was run, and no chip was asked.
  calibrated   Pallas kernels by the schedule that the compiler writes for them, all else at measured shares of the data sheet; with
               the range that published runs support. The figure to plan with; the others are for those who read modules
  compiler     the compiler's own cycles of every operation x loop trips at {clock:.2f} GHz; the cautious figure
  floor        the same, but operations without a matrix product by the bytes that they must move at {hbm:.2f} TB/s
  overlapped   the floor, if every collective were hidden: the best that scheduling can reach
  In the last three Pallas kernels take FLOPs at the peak ({peak:.0f} TFLOP/s a chip) or bytes, whichever is longer, and those
  without a matrix product their bytes, three times over in the cautious figure; causal attention half.
  Rows of experts at balanced load. Collectives: bytes x (g-1)/g over {ici:.0f} GB/s a link and direction, twice on a ring, summed
  over the axes of the torus that a group spans{dcn}. Asynchronous ones hide only what runs between their start and their done, on
  links that they share one after the other; those in steps only what carries them. Copies to and from a host, at {pcie:.0f} GB/s a
  chip and direction, hide in the same way. MFU: model FLOPs, no recomputation."""


def forecast_text(forecast: Forecast, top: int = 0) -> str:
    lines = [*_what(forecast), "", *memory_lines(forecast), "", verdict(forecast)]
    if not forecast.refused:
        lines += ["", *_time(forecast), "", *_run(forecast), "", *parts_table(forecast.timeline), ""]
        lines += collectives_table(forecast.timeline)
        if top:
            lines += ["", *largest(forecast.timeline, forecast.job.chip, top)]
        lines += ["", _method(forecast)]
    return "\n".join(lines)


def _what(forecast: Forecast) -> list[str]:
    job, count = forecast.job, forecast.count
    slices = f", {job.slices} slices" if job.slices > 1 else ""
    mesh = " x ".join(f"{name} {size}" for name, size in forecast.compiled.network.axes)
    compute = job.config.compute
    return [
        f"pod         {job.topology}{slices}: {forecast.chips} chips, {job.devices} devices; mesh {mesh}",
        f"model       {count.total:,} parameters, {count.active:,} active per token; remat {compute.remat}"
        + (f", on the host {compute.offload_activations}" if compute.offload_activations else ""),
        f"stage       {job.stage.name}: {forecast.step_tokens:,} tokens a step in {job.microbatches} microbatch(es), "
        f"{job.device_tokens:,.0f} tokens a device in each, sequences of {job.stage.seq_len:,}",
    ]


def memory_lines(forecast: Forecast) -> list[str]:
    """GiB of a chip by kind, and the largest temporaries."""
    memory = forecast.memory
    lines = [
        f"{'GiB a chip':<12}{'parameters':>12}{'optimizer':>12}{'batch':>8}{'temporaries':>13}{'total':>8}{'limit':>8}"
    ]
    lines.append(
        f"{'':<12}{memory.parameters:>12.2f}{memory.optimizer:>12.2f}{memory.batch:>8.2f}{memory.temporaries:>13.2f}"
        f"{memory.total:>8.2f}{memory.limit:>8.1f}"
    )
    if forecast.refused:
        lines.append("            The compiler refused: it finds no way to keep within the chip's memory.")
    if memory.peak:
        lines.append(
            f"            {memory.peak:.2f} at the fullest moment (the compiler's peak); the rest are gaps between buffers"
        )
    if memory.host > 0.005:
        lines.append(f"            {memory.host:.2f} in the host's memory, of {memory.host_limit:.0f} for a chip")
    by = "the compiler names them" if forecast.refused else "the schedule has them"
    lines.append(f"largest     temporaries at the fullest moment, as {by}:")
    scale = forecast.job.chip.devices / GIB
    for buffer in forecast.peak.buffers[:8]:
        lines.append(f"            {buffer.bytes * scale:>8.2f}  {buffer.part:<10} {buffer.shape:<28} {buffer.origin}")
    rest = sum(b.bytes for b in forecast.peak.buffers[8:]) * scale
    return [*lines, f"            {rest:>8.2f}  the other {len(forecast.peak.buffers[8:])}"]


def _time(forecast: Forecast) -> list[str]:
    chip, timeline = forecast.job.chip, forecast.timeline
    return [
        f"step        {human(forecast.step_flops)}FLOP of the model, "
        f"{human(forecast.step_flops / forecast.step_tokens)}FLOP a token",
        *totals(timeline, chip, forecast.step_flops / forecast.job.devices),
        *forecast.warnings,
        "rests on    " + "\n            ".join(f"{what}: {kind}" for what, kind in forecast.assumptions),
    ]


def _run(forecast: Forecast) -> list[str]:
    kinds = ("calibrated", "compiler", "floor", "overlapped")
    rows = [
        ("tokens/s/chip", forecast.tokens_per_second_per_chip, ",.0f"),
        ("chip-hours/1T", forecast.chip_hours_per_trillion, ",.0f"),
        *((f"days {name}", days, ",.1f") for name, days in forecast.stage_days().items()),
    ]
    lines = [f"{'run':<16}" + "".join(f"{kind:>12}" for kind in kinds)]
    lines += [f"{name:<16}" + "".join(f"{figures[kind]:>12{shape}}" for kind in kinds) for name, figures, shape in rows]
    return [
        *lines,
        f"                all stages at the MFU of {forecast.job.stage.name}",
        f"                the report: {REPORT_HOURS_PER_TRILLION:,} H800 hours for 1T tokens",
        f"checkpoint      {forecast.checkpoint_gib:,.0f} GiB: parameters and both moments in float32",
    ]


def _method(forecast: Forecast) -> str:
    chip = forecast.job.chip
    dcn = f"; {chip.dcn / 1e9:.0f} GB/s a host between slices (assumed)" if forecast.job.slices > 1 else ""
    return METHOD.format(
        clock=chip.clock / 1e9,
        hbm=chip.hbm / 1e12,
        peak=chip.flops / 1e12,
        ici=chip.ici / 1e9,
        dcn=dcn,
        pcie=chip.pcie / 1e9,
    )
