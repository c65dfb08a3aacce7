"""Every figure of a trial: its name, title, unit and format."""

UNITS = {
    "decode_tokens_per_second": "decode tokens/s",
    "prefill_tokens_per_second": "prefill tokens/s",
    "train_tokens_per_second": "training tokens/s",
    "state_bytes": "state",
    "materialised_state_bytes": "state, materialised",
    "recall": "recall",
    "parameters": "parameters",
}


def title_of(metric: str) -> str:
    """A metric's name as a heading."""
    return UNITS.get(metric, metric.replace("_", " "))


def show(metric: str, value: float, spread: float | None = None) -> str:
    """A value with its spread, in the unit and with the digits that its metric deserves."""
    if metric in ("state_bytes", "materialised_state_bytes"):
        return _show_bytes(value) + (f" ±{_show_bytes(spread)}" if spread else "")
    if abs(value) >= 1000 or (float(value).is_integer() and abs(value) > 1):
        return f"{value:,.0f}" + (f" ±{spread:,.0f}" if spread else "")
    digits = 3 if abs(value) < 10 else 1
    return f"{value:.{digits}f}" + (f" ±{spread:.{digits}f}" if spread is not None else "")


def _show_bytes(value: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


# what a metric is called in a condition where that is not its own name: selection is not on the test split
ALIASES = {"recall": "validation_recall", "test_recall": "recall"}


AXIS_TITLES = {
    "recall": "recall (validation)",
    "decode_tokens_per_second": "decoding throughput (tokens/s)",
    "prefill_tokens_per_second": "prefill throughput (tokens/s)",
    "train_tokens_per_second": "training throughput (tokens/s)",
    "state_bytes": "decode state (bytes)",
}


THROUGHPUTS = ("prefill_tokens_per_second", "decode_tokens_per_second", "train_tokens_per_second")
