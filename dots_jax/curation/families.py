"""Which texts belong together by the bands they share: union-find, and the one of each family that stays.

For lists that one source excludes because of another, and for families in a report. The pipeline itself lets a document go
only if it meets an earlier one directly (near_duplicates.py), since families grow through chains of pairs that are not alike.
"""

import numpy as np


def links(keys_DB: np.ndarray, has_D: np.ndarray, priority_D: np.ndarray) -> np.ndarray:
    """int64 [L, 2]: (document, the first document by priority in one of its buckets), each pair once, in order.

    keys_DB: uint64 of band_keys_of. priority_D: distinct numbers; the smallest stays.
    """
    documents, bands = keys_DB.shape
    rank_D = np.empty(documents, np.int64)
    rank_D[np.argsort(priority_D, kind="stable")] = np.arange(documents)
    member = np.flatnonzero(np.repeat(has_D, bands)) // bands
    keys = keys_DB[has_D].reshape(-1)
    order = np.lexsort((rank_D[member], keys))
    keys, member = keys[order], member[order]
    first = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, bool)
    winner = member[np.maximum.accumulate(np.where(first, np.arange(len(keys)), 0))] if len(keys) else member
    pairs = np.stack([member[~first], winner[~first]], axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def components(pairs_L2: np.ndarray, priority_D: np.ndarray) -> np.ndarray:
    """int64 [D]: for each document the first one by priority of its family, itself if it has none.

    The answer depends on pairs and priorities alone, and not on the order of the pairs: the root of a tree is always the
    document of the smallest priority.
    """
    parent = list(range(len(priority_D)))
    priority = priority_D.tolist()

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in pairs_L2.tolist():
        a, b = root(a), root(b)
        if a != b:
            low, high = (a, b) if priority[a] < priority[b] else (b, a)
            parent[high] = low
    return np.array([root(node) for node in range(len(parent))], np.int64)


def keepers(keys_DB: np.ndarray, has_D: np.ndarray, priority_D: np.ndarray) -> np.ndarray:
    """int64 [D]: the document that stays for each; `keepers(...) != arange(D)` is the list to exclude.

    Between sources: put the texts of all in one array, with priorities in which the preferred source comes first.
    """
    return components(links(keys_DB, has_D, priority_D), priority_D)
