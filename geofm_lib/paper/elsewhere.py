"""Machines of others: what their published speeds say of a machine that nobody here has.

`reports/predictions_h100.csv` was written before its true values were seen. ViT-g/14 on DGX H100 is predicted from
NVIDIA's figures of 1 and 2 nodes of DGX A100 and both data sheets alone (`planning/machine_fit.carried`):

* what is no matrix product goes as fast as memory does (3.35 over 2.04 TB/s), messages as links (450 over 300 GB/s)
  and network (400 over 200 GB/s a node), each at the share that the A100 reached;
* matrix products gain between the power's ratio (700 over 400 W) and the peak's (989 over 312 TFLOP/s). Their middle is
  taken, and the interval of nine in ten spans both, with the fit's own spread and 5 % of a run.
"""

from typing import Any

from geofm_lib.catalog import machines, published
from geofm_lib.runs import measured

BEFORE, AFTER = "8xA100", "8xH100"
FITTED = (1, 2)  # nodes
POINTS = published.FOLDER / "elsewhere.csv"


def predictions_h100() -> list[dict[str, Any]]:
    """images/s of ViT-g/14 on DGX H100 80 GB, with an interval that should hold nine of ten."""
    from geofm_lib.planning import machine_fit  # loads scipy

    found = measured.read([str(POINTS)], BEFORE)
    points, machine = found.points, found.machine
    fit = machine_fit.fit([each for each in points if each.nodes in FITTED], machine, measured.before(machine, BEFORE))
    there = machine_fit.carried(fit, machines.lookup(AFTER))
    said = [(point.nodes, there.predicted(point)) for point in points]
    names = ("images_per_s", "low", "high")
    return [{"nodes": nodes, **{name: round(each[name]) for name in names}} for nodes, each in said]
