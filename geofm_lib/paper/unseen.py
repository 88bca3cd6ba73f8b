"""Published throughput, predicted without having seen it: `python -m geofm_lib.paper.unseen` writes reports/unseen.csv.

The planner's speeds are fitted to the weak-scaling figures, so its predictions of them would prove little. Here each
model's points come from a fit to the other models only. Needs scipy, as `planning.calibrate` does; nothing imports this
module but its test.
"""

from pathlib import Path

from geofm_lib.planning import calibrate
from geofm_lib.runs import records


def rows() -> list[dict]:
    """One row a published point: model, strategy, nodes, images/s as published and as predicted."""
    table = calibrate.points()
    errors, _ = calibrate.left_out(table)
    keys = [(row["model"], row["strategy"], row["nodes"]) for row in table]
    return [
        {"model": key[0], "strategy": key[1], "nodes": key[2], "published_images_per_s": row["value"],
         "predicted_images_per_s": round(row["value"] * (1 + errors[key]), 1)}
        for key, row in zip(keys, table, strict=True)
    ]  # fmt: skip


if __name__ == "__main__":
    print(records.record("unseen", rows(), Path(__file__).parents[2] / "reports"))
