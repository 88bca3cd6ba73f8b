"""What a probe's numbers are called on a page. The key begins their names in summaries and probe.csv."""

WORDS = {"top1": "top-1", "top5": "top-5", "map": "mAP"}
LONG = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "map": "mean average precision"}


def of(summary: dict) -> str:
    """The key of the metric that a probe's summary is in; older ones, and most, are in top-1."""
    return summary.get("metric", "top1")
