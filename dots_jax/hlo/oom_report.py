"""What the TPU compiler says of a program that it finds no room for."""

import re
from typing import NamedTuple

from dots_jax.hlo.liveness import Buffer
from dots_jax.hlo.op_cost import part_of

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
# Of the program alone, without its arguments; or of all together.
_TEMPORARIES = (rf"\({_SIZE}\) exceeds", rf"requires? {_SIZE}")
_TOTAL = rf"[Uu]sed {_SIZE} of"


class Refusal(NamedTuple):
    """needed: bytes of one device, arguments included; 0 where the message does not say. largest: what takes most."""

    needed: int
    largest: tuple[Buffer, ...]


def refusal(message: str, arguments: int) -> Refusal | None:
    """An error of the compiler as a Refusal; None where it is of another kind. arguments: bytes of the program's."""
    if "RESOURCE_EXHAUSTED" not in message or "hbm" not in message.lower() or "space vmem" in message.lower():
        return None
    if found := re.search(_TOTAL, message):
        needed = _bytes(*found.groups())
    else:
        found = next(filter(None, (re.search(pattern, message) for pattern in _TEMPORARIES)), None)
        needed = _bytes(*found.groups()) + arguments if found else 0
    return Refusal(needed, tuple(map(_buffer, re.findall(r"^ *\d+\. Size:.*?(?=^ *=====)", message, re.M | re.S))))


def _buffer(text: str) -> Buffer:
    def field(name: str) -> str:
        found = re.search(rf"^ *{name}: *(.*)$", text, re.M)
        return found[1] if found else ""

    op_name = re.search(r'op_name="([^"]*)"', text)
    label = op_name[1] if op_name else field("XLA label").split(" = ")[0]
    shape = field("Shape").partition("{")[0]
    size = re.findall(rf"Size: *{_SIZE}", text)[0]
    return Buffer(_bytes(*size), shape, part_of(label), "/".join(label.split("/")[-2:]))


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])
