"""The questions that the paper leaves open, and what was found here by rows of accuracies and the planner.

They have no published number, so their verdicts are words of their own (`verdicts.OPEN`).
"""

from geofm_lib.catalog.metrics import counted, interval
from geofm_lib.catalog.readouts import GAIN, UNTRAINED
from geofm_lib.paper import accuracy, blind
from geofm_lib.paper import objectives_study as study
from geofm_lib.paper.accuracy_fits import LEAST_SIZES
from geofm_lib.paper.performance import PREDICTED, Evidence, unseen
from geofm_lib.paper.verdicts import IN_ORDER, Answer
from geofm_lib.planning.planner import CLOSE

BETWEEN = ("ViT-3B", "ViT-5B", "ViT-15B")  # where the paper found no rule
WHOLE_NETWORK = "whole network"  # begins the protocol of a row whose encoder was trained further (08)


def other_tasks(evidence: Evidence) -> Answer:
    """What pretraining adds to whole networks that are trained further on a task, by size; from 08's rows."""
    table = accuracy.read()
    tuned = table["protocol"].astype(str).str.startswith(WHOLE_NETWORK) & (table["objective"] != UNTRAINED)
    rows = table[tuned & table["metric"].astype(str).str.endswith(GAIN)]
    if rows.empty:
        return Answer("Not measured yet: 08 by batch/grids/transfer.csv gives the rows.", how="measured")
    said = [f"{row.model} {row.value:+.1f} ({row.low:+.1f} to {row.high:+.1f}) on {row.dataset}, {row.task} "
            f"({str(row.protocol).removeprefix(f'{WHOLE_NETWORK}, AdamW, ')})"
            for row in rows.sort_values(["task", "dataset", "parameters_m"]).itertuples()]  # fmt: skip
    sizes = int(rows.groupby(["task", "dataset"])["model"].nunique().min())
    left = "" if sizes >= LEAST_SIZES else f"; {counted(sizes, 'size')} on a task cannot say how it scales"
    told = f"fine-tuned over from scratch, points: {'; '.join(said)}{left}"
    return Answer(told, None, "in part" if left else "answered", "measured")


def which_strategy(evidence: Evidence) -> Answer:
    """How often the planner's first choice is as good as the best published, of models that its fit has not seen."""
    points = unseen(*PREDICTED)
    if not points:
        return Answer("Not measured yet: `make predictions` writes reports/unseen.csv.", how="predicted")
    cells, wrong = (find(points) for find in (blind.choices, blind.missed))
    right = [
        (sum(row["model"] in names for row in cells), sum(row["model"] in names for row in wrong))
        for names in (PREDICTED, BETWEEN)
    ]
    shares = [f"{count - lost} of {count} cases" for count, lost in right]
    said = f"the planner's first choice is within {100 * CLOSE:.0f} % of the best published one in {shares[0]}"
    said += f", from {BETWEEN[0]} to {BETWEEN[-1]} in {shares[1]}"
    good = all(lost <= (1 - IN_ORDER) * count for count, lost in right)
    return Answer(said, None, "answered" if good else "in part", "predicted")


def other_objective(evidence: Evidence) -> Answer:
    """What 09 found at equal compute, at the size of most pretrainings, and whether size helps otherwise."""
    table, said = accuracy.read(), []
    for outcome in study.OUTCOMES:
        found = study.values(table, outcome)
        means = study.shares(study.fullest(found))
        if len(means):
            means = means.sort_values("value", ascending=False)
            ours = ", ".join(
                f"{row.objective} {interval(row.value, row.low, row.high)}, {counted(row.seeds, 'seed')}"
                for row in means.itertuples()
            )
            ours += "".join(f", {row.model} {row.value:.1f}" for row in study.unlearned(table, outcome).itertuples())
            said.append(f"{outcome.words}, {means['model'].iloc[0]}: {ours}")
    if not said:
        return Answer("Not measured yet: 09 by batch/grids/objectives.csv gives the rows.", how="measured")
    words = {name: study.changes(table, name) for name in study.COMPARED if name != study.MAE}
    known = {name: word for name, word in words.items() if word != "not known"}
    said += [f"under {name} size helps {word} than under MAE" if word != "not shown" else
             f"that it helps otherwise under {name} is not shown" for name, word in known.items()]  # fmt: skip
    return Answer("; ".join(said), None, "in part" if study.missing(table) else "answered", "measured")


CHECKS = (other_tasks, which_strategy, other_objective)
