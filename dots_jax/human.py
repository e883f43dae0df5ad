"""Numbers and errors as a person reads them."""


def human(x: float) -> str:
    """1234567 -> '1.23 M'."""
    for power, unit in ((24, "Y"), (21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if x >= 10**power:
            return f"{x / 10**power:.3g} {unit}"
    return f"{x:.3g} "


def human_bytes(n: float) -> str:
    """1536 -> '1.5 KiB'; 2**31 -> '2.00 GiB'."""
    for unit, decimals in (("B", 0), ("KiB", 1), ("MiB", 1)):
        if abs(n) < 1024:
            return f"{n:,.{decimals}f} {unit}"
        n /= 1024
    return f"{n:,.2f} GiB"


def human_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def first_line(error: BaseException, length: int = 200) -> str:
    """What an error of a library says, on one line and without TensorStore's appendix."""
    text = " ".join(str(error).split("See full TensorStore details")[0].split()) or type(error).__name__
    return text if len(text) <= length else text[:length] + " ..."
