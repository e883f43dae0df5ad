"""What a person reads about a token cache: of which files it was made, and what is not in it."""

from dots_jax.data.cache.token_format import MANIFEST, Manifest

_SHOWN = 20  # files of one cache; the manifest has all


def sources(task: str, split: str, manifest: Manifest) -> str:
    """A line for each source file, those first of which something is missing; the longest lists are cut and say so."""
    rows = sorted(manifest.sources, key=lambda row: -_trouble(row))
    width = max([len("source file"), *(len(row["name"]) for row in rows[:_SHOWN])])
    lines = [f"{task} {split}", f"  {'source file':<{width}}{'records':>14}{'malformed':>12}{'bytes':>18}"]
    for row in rows[:_SHOWN]:
        lines.append("  " + _line(row["name"], width, [row]) + _damage(row))
    if len(rows) > _SHOWN:
        lines.append("  " + _line(f"{len(rows) - _SHOWN:,} more files", width, rows[_SHOWN:]))
    damaged = [row for row in rows if "damaged" in row]
    lost = f"  {len(damaged):,} damaged, {sum(row['lost_bytes'] for row in damaged):,} bytes lost" if damaged else ""
    lines.append("  " + _line(f"all {len(rows):,} ({MANIFEST})", width, rows) + lost)
    lines += [f"  {count:,} left out by {setting}" for setting, count in manifest.left_out.items()]
    lines += [f"  {count:,} conversations: {what}" for what, count in manifest.noted.items()]
    return "\n".join(lines)


def _trouble(row: dict) -> int:
    """What a reader has to see first."""
    bad = sum(row["malformed"].values())
    return 3 if "damaged" in row else 2 if not row["documents"] + bad else 1 if bad else 0


def _line(name: str, width: int, rows: list[dict]) -> str:
    bad = sum(sum(row["malformed"].values()) for row in rows)
    records, size = bad + sum(row["documents"] for row in rows), sum(row["size"] for row in rows)
    return f"{name:<{width}}{records:>14,}{bad:>12,}{size:>18,}"


def _damage(row: dict) -> str:
    return f"  {row['lost_bytes']:,} bytes lost: {row['damaged']}" if "damaged" in row else ""
