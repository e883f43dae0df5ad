"""Best-fit decreasing: lengths -> sequences with little padding, in time that hardly depends on how many lengths are equal."""

import numpy as np


def best_fit(lengths: np.ndarray, seq_len: int) -> np.ndarray:
    """The sequence of each item, int64 [items], numbered from 0 without gaps. A pure function of the lengths.

    1. The longest items come first; items of one length are placed together.
    2. They go to the sequences with the least room that takes them, one to each.
    3. When no sequence has the room, all that remain open new ones, as many in each as fit.

    Args: lengths: int [items], each in 1..seq_len.
    """
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(lengths, return_counts=True)
    row_of = np.empty(len(lengths), np.int64)
    open_rows: dict[int, np.ndarray] = {}  # room -> sequences with that room
    rooms = 0  # bit r is set if a sequence has room r
    rows = at = 0
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist()):
        items = order[at : at + count]
        at += count
        while len(items):
            fitting = rooms >> length
            if not fitting:
                each = seq_len // length
                row_of[items] = rows + np.arange(len(items)) // each
                full, rest = divmod(len(items), each)
                rooms = _put(open_rows, rooms, seq_len - each * length, np.arange(rows, rows + full))
                rooms = _put(
                    open_rows, rooms, seq_len - rest * length, np.arange(rows + full, rows + full + (rest > 0))
                )
                rows += full + (rest > 0)
                break
            room = length + (fitting & -fitting).bit_length() - 1
            there = open_rows[room]
            taken = min(len(there), len(items))
            row_of[items[:taken]] = there[:taken]
            items = items[taken:]
            if taken == len(there):
                del open_rows[room]
                rooms &= ~(1 << room)
            else:
                open_rows[room] = there[taken:]
            rooms = _put(open_rows, rooms, room - length, row_of[order[at - len(items) - taken : at - len(items)]])
    return row_of


def _put(open_rows: dict[int, np.ndarray], rooms: int, room: int, rows: np.ndarray) -> int:
    """Adds sequences with that room; returns the rooms with it. Full ones are closed."""
    if room == 0 or len(rows) == 0:
        return rooms
    open_rows[room] = np.concatenate([open_rows[room], rows]) if room in open_rows else rows
    return rooms | 1 << room
