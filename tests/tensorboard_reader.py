"""What a run wrote for TensorBoard."""


def scalars(workdir) -> dict[tuple[str, int], list[float]]:
    """Everything on TensorBoard: (tag, step) -> values."""
    import tensorflow as tf

    found = {}
    for path in sorted((workdir / "tensorboard").glob("events.out.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault((value.tag, event.step), []).append(float(tf.make_ndarray(value.tensor)))
    return found
