"""Copies between a device and its host, in lines as the TPU compiler writes them."""

import pytest

from dots_jax.hlo.interconnect import Interconnect
from dots_jax.hlo.parser import parse
from dots_jax.hlo.timeline import ScheduleSimulator
from dots_jax.parallel.topology import CHIPS

V5P = CHIPS["v5p"]


def test_of_a_stack_on_the_host_a_slice_moves():
    """Kept for the backward pass, it lies there as one array for all layers; a layer moves its own."""
    stack, slice_ = "f32[61,1024,1024]{2,1,0:T(8,128)S(5)}", "f32[1,1024,1024]{2,1,0:T(8,128)}"
    text = f"""HloModule m, is_scheduled=true, num_partitions=4

ENTRY %main (p: {stack}, x: {slice_}, i: s32[]) -> {slice_} {{
  %p = {stack} parameter(0)
  %x = {slice_} parameter(1)
  %i = s32[] parameter(2)
  %out = (({stack}, {slice_}, s32[], s32[], s32[]), {stack}, u32[]) dynamic-update-slice-start(%p, %x, %i, %i, %i)
  %there = {stack} dynamic-update-slice-done(%out)
  %back = (({stack}, s32[], s32[], s32[]), {slice_}, u32[]) dynamic-slice-start(%there, %i, %i, %i)
  ROOT %here = {slice_} dynamic-slice-done(%back)
}}
"""
    network = Interconnect(V5P, (("fsdp", 4),), tuple((0, x, y, 0, 0) for x in (0, 1) for y in (0, 1)))
    for step in ScheduleSimulator(parse(text), network).walk().steps:
        assert (step.transfer.kind, step.transfer.bytes, step.transfer.links) == ("host copy", 2**22, ("host",))
        assert step.transfer.seconds == step.exposed["compiler"] == pytest.approx(2**22 / V5P.pcie)
