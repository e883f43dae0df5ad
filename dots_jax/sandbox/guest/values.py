"""Python values as JSON, between the process of the tests and that of the program. Reading it makes plain data only."""

import collections
import datetime
import decimal
import fractions
import itertools
import json
import sys

MOST_ITEMS = 5_000_000  # of an iterator that a program returns
if __name__ == "__main__":  # inside; outside, the limit is what tells a reader of records that a number is too long
    sys.set_int_max_str_digits(0)
ITERATORS = tuple(type(each) for each in (iter([]), iter(()), iter(""), iter({}), iter(set()), iter(range(0)), map(str, []),
                  filter(None, []), zip(), enumerate([]), reversed([]), (x for x in ()), itertools.chain(),
                  itertools.product(), itertools.permutations([]), {}.keys(), {}.values(), {}.items()))  # fmt: skip


def encode(value, refer):
    """refer: makes what JSON cannot hold a number that stands for it."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, bool):
        return bool(value)
    for base in (int, float, str):  # also their subclasses, without what those redefine
        if isinstance(value, base):
            return base.__new__(base, base.__str__(value) if base is str else base.__add__(value, base(0)))
    for base, tag in (
        (list, "list"),
        (tuple, "tuple"),
        (set, "set"),
        (frozenset, "frozenset"),
        (collections.deque, "deque"),
    ):
        if isinstance(value, base):
            return [tag, *(encode(each, refer) for each in base.__iter__(value))]
    if isinstance(value, dict):
        tag = "ordered" if isinstance(value, collections.OrderedDict) else "dict"
        return [tag, *([encode(k, refer), encode(v, refer)] for k, v in dict.items(value))]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, (bytes, bytearray)):
        return ["bytearray" if isinstance(value, bytearray) else "bytes", bytes(value).hex()]
    if kind is range:
        return ["range", value.start, value.stop, value.step]
    if isinstance(value, ITERATORS):
        return ["iterator", *(encode(each, refer) for each in itertools.islice(value, MOST_ITEMS))]
    if isinstance(value, (decimal.Decimal, fractions.Fraction)):
        return [kind.__name__, str(value)]
    if isinstance(value, datetime.timedelta):
        return ["timedelta", value.days, value.seconds, value.microseconds]
    if kind in (datetime.datetime, datetime.date, datetime.time) and getattr(value, "tzinfo", None) is None:
        return [kind.__name__, value.isoformat()]
    if isinstance(value, type) and value.__module__ == "builtins":
        return ["type", value.__name__]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # numpy
        return encode(value.tolist(), refer)
    return ["object", refer(value)]


def decode(value, resolve):
    """resolve: what a number of `refer` stands for here."""
    if type(value) is not list:
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise ValueError("no value")
    tag, *rest = value
    if tag in ("dict", "ordered"):
        pairs = [(decode(k, resolve), decode(v, resolve)) for k, v in rest]
        return dict(pairs) if tag == "dict" else collections.OrderedDict(pairs)
    many = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque,
            "iterator": lambda items: iter(list(items))}  # fmt: skip
    if tag in many:
        return many[tag](decode(each, resolve) for each in rest)
    if tag == "object":
        return resolve(rest[0])
    if tag == "type":
        found = getattr(sys.modules["builtins"], rest[0])
        return found if isinstance(found, type) else None
    one = {"complex": complex, "range": range, "timedelta": datetime.timedelta, "bytes": bytes.fromhex,
           "bytearray": bytearray.fromhex, "Decimal": decimal.Decimal, "Fraction": fractions.Fraction,
           "datetime": datetime.datetime.fromisoformat, "date": datetime.date.fromisoformat,
           "time": datetime.time.fromisoformat}  # fmt: skip
    return one[tag](*rest)


class Channel:
    """Messages over a socket: one line of JSON each."""

    def __init__(self, connection):
        self._file = connection.makefile("rwb")

    def send(self, message):
        self._file.write(json.dumps(message).encode() + b"\n")
        self._file.flush()

    def receive(self):
        """None when the other end is gone."""
        line = self._file.readline()
        return json.loads(line) if line.endswith(b"\n") else None
