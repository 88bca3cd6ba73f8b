"""What accuracy costs: the largest size predicted before it runs, and one more point in node-hours by the planner."""

from typing import Any

import pandas as pd

from geofm_lib.catalog.models import FAMILY
from geofm_lib.files import read_csv
from geofm_lib.paper import accuracy, accuracy_fits, accuracy_study
from geofm_lib.planning.conditions import BATCH
from geofm_lib.planning.flops import training_flops
from geofm_lib.planning.planner import plan
from geofm_lib.planning.weights import parameters
from geofm_lib.runs import results

PREDICTED = "predicted_accuracy"  # under reports/
LARGEST = FAMILY[-1]
DATASET = "ucm"
SIZE = 64  # pixels a side of the study's runs
PAPER = ("ViT-Base", "ViT-Huge", "ViT-1B", "ViT-3B")
PAPERS = 224  # pixels a side
IMAGES, EPOCHS = (
    990_848,
    100,
)  # of the paper's pretraining; its number of epochs is the probes' and others' of its lineage
MACHINES = {"frontier": 8, "8xH100": 1}  # -> nodes on which a run is planned
Rows = list[dict[str, Any]]


def outcomes(table: pd.DataFrame, dataset: str = DATASET) -> dict[str, pd.DataFrame]:
    """{what is fitted: its rows, `value` among them}: the loss, and 100 less top-1 of the plain readout."""
    probed = accuracy_study.probes(table, dataset)
    error = f"{dataset} top-1 error, %"
    return {accuracy_study.LOSS: accuracy_study.whole(table), error: probed.assign(value=probed["error"])}


def predicted_accuracy() -> Rows:
    """Loss and error of the largest size at each horizon, from fits to all smaller ones; before its first run only."""
    table = accuracy.read()
    found = Rows()
    for name, rows in outcomes(table).items():
        if (rows["model"] == LARGEST).any():
            raise ValueError(
                f"{LARGEST} has run, so it can no longer be predicted; reports/{PREDICTED}.csv stays as it is."
            )
        fitted = accuracy_fits.fit(rows)
        if isinstance(fitted, str):
            print(f"{name}: {fitted}", flush=True)
            continue
        size = parameters(LARGEST, "encoder", image_size=SIZE) / 1e6
        ahead = pd.DataFrame({"images_seen": sorted(rows["images_seen"].unique())}).assign(parameters_m=size)
        for asked, said in zip(ahead.itertuples(), fitted.at(ahead).itertuples(), strict=True):
            numbers = {each: round(getattr(said, each), 4) for each in ("predicted", "low", "high")}
            found.append(
                {"quantity": name, "model": LARGEST, "images_seen": asked.images_seen, **numbers, "runs": fitted.runs}
            )
    if not found:
        raise ValueError("Nothing can be predicted yet: too few runs of the smaller sizes are in reports/accuracy.csv.")
    return found


def held_against(table: pd.DataFrame, dataset: str = DATASET) -> pd.DataFrame:
    """The committed prediction, and what the largest size came to where it has run, with the error in percent.

    next_smaller: what the size below it came to after as many images, which is a guess without any fit.
    """
    rows = [{k: _number(v) for k, v in row.items()} for row in read_csv(results.file(PREDICTED))] if (
        results.file(PREDICTED).is_file()) else []  # fmt: skip
    sized = {name: accuracy_study.by_size(each) for name, each in outcomes(table, dataset).items()}
    found = Rows()
    for row in rows:
        ran = sized.get(row["quantity"], pd.DataFrame(columns=["model", "images_seen", "value"]))
        then = ran[ran["images_seen"] == row["images_seen"]].set_index("model")["value"]
        value, smaller = then.get(row["model"]), then.get(FAMILY[-2])
        names = ("quantity", "model", "images_seen", "predicted", "low", "high", "commit", "date")
        own = {each: row[each] for each in names} | {"next_smaller": smaller, "measured": value}
        own |= {"off_percent": 100 * (row["predicted"] / value - 1) if value else None}
        found.append(own | {"within": bool(row["low"] <= value <= row["high"]) if value else None})
    return pd.DataFrame(found)


def costs(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """core_hours and watt_hours of each row's pretraining, from its images and the model's images/s on a core."""
    speeds = accuracy_study.speeds(table)
    hours = found["images_seen"] / found["model"].map(speeds) / 3600
    return found.assign(core_hours=hours, watt_hours=hours * accuracy_study.WATTS)


def papers() -> dict[str, float]:
    """FLOPs of the paper's pretrainings, by model."""
    return {name: training_flops(name, "mae", image_size=PAPERS) * IMAGES * EPOCHS for name in PAPER}


def one_more_point(table: pd.DataFrame, dataset: str = DATASET) -> pd.DataFrame:
    """What an error one point lower is predicted to cost: the study's largest run, and the paper's models.

    node_hours, low and high of the whole longer run, by the planner: for the study by the FLOP/s that it predicts for
    ViT-Base. `why` where it cannot be said.
    """
    rows = accuracy_study.probes(table, dataset)
    rows = rows.assign(value=rows["error"])
    fitted = accuracy_fits.fit(rows, "compute")
    largest = rows["flops"].max() if len(rows) else 0.0
    last = rows.sort_values("flops").iloc[-1:] if len(rows) else rows
    begins: list[tuple[str, float, str]] = [(row.model, row.flops, PAPER[0]) for row in last.itertuples()]
    begins += [(name, flops, name) for name, flops in papers().items()]
    found = Rows()
    for model, flops, planned in begins:
        said = accuracy_fits.one_point(fitted, flops, largest)
        for machine, nodes in MACHINES.items():
            step = plan(planned, machine, nodes, BATCH)[0]
            a_node_hour = training_flops(planned, "mae", image_size=PAPERS) * step["images_per_s"] / nodes * 3600
            per = step["images_per_s"] / a_node_hour  # node-hours are as wide as the planned images/s
            row = {"model": model, "flops": flops, "machine": machine, "nodes": nodes, "strategy": step["strategy"],
                   "now_node_hours": flops / a_node_hour, "now_low": flops * per / step["high"],
                   "now_high": flops * per / step["low"]}  # fmt: skip
            then = [None] * 3 if isinstance(said, str) else [each * flops / a_node_hour for each in said]
            row |= dict(zip(("node_hours", "low", "high"), then, strict=True))
            found.append(row | {"why": said if isinstance(said, str) else ""})
    return pd.DataFrame(found)


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
