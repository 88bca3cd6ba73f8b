"""`geofm verify`: make the short claims' numbers anew, hold each against its expected value, say which is off.

The runs go to a folder of their own in the runs folder, so that none is read from before; it stays where a claim fails.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from geofm_lib import rights
from geofm_lib.catalog.artifact import Claim
from geofm_lib.catalog.suggest import did_you_mean
from geofm_lib.paper import verify_planned as counted
from geofm_lib.paper import verify_runs as runs
from geofm_lib.paper.verify_place import Made, Place
from geofm_lib.runs import results
from geofm_lib.settings import runs_root
from geofm_lib.settings.masking import mask

DISTURBING = ("GEOFM_RUNS", "GEOFM_DATA", "GEOFM_TEST_DATA", "GEOFM_PAGE", "GEOFM_PICTURES")  # of the user's shell
Check = Callable[[Place], Made]
_ALL: tuple[Check, ...] = (
    counted.table_i, counted.step_flops, counted.fsdp1_replicas, counted.our_replicas, counted.memory_of_3b,
    counted.fewest_gpus, counted.blind_coverage, counted.blind_error, counted.blind_choices, counted.unseen_error,
    counted.unseen_choices, runs.strategies_agree, runs.resume_bitwise, runs.bytes_sent, runs.probe_gain,
    runs.export_and_back, runs.transformers_agree,
)  # fmt: skip
CHECKS = {each.__name__: each for each in _ALL}  # the name is what stands in the column `check`


@dataclass(frozen=True)
class Outcome:
    """What came of a claim: `found` None where its check failed, `said` with what it consists of, or why."""

    claim: Claim
    found: float | None
    said: str
    seconds: float

    @property
    def held(self) -> bool:
        """Is it within the tolerance?"""
        return self.found is not None and self.claim.holds(self.found)

    @property
    def word(self) -> str:
        """The verdict: FAILED where nothing was found."""
        return "holds" if self.held else "OUTSIDE" if self.found is not None else "FAILED"

    def told(self) -> str:
        """One line: verdict, expected, found, tolerance, what it consists of."""
        found = "nothing" if self.found is None else f"{self.found:.6g}"
        return f"claim {self.claim.number}: {self.word}, expected {self.claim.wanted}, found {found}: {self.said}"


def verify(table: list[Claim], say: Callable[[str], None], checks: dict[str, Check] = CHECKS) -> list[Outcome]:
    """Check every claim, one after the other; a failure does not stop the others. `say` takes lines as they come."""
    if lost := next((each for each in table if each.check not in checks), None):
        hint = did_you_mean(lost.check, checks) or f"; checks are {', '.join(checks)}."
        raise ValueError(f"Nothing was verified: claim {lost.number} has a check '{lost.check}', which is none{hint}")
    root = runs_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        place = Place(Path(tempfile.mkdtemp(prefix="verify-", dir=root)))
    except OSError as error:
        raise ValueError(f"Nothing was verified: {rights.told(error)} (or set GEOFM_RUNS).") from None
    before = {name: os.environ.pop(name, None) for name in DISTURBING}
    os.environ["GEOFM_RUNS"] = str(place.folder)
    outcomes: list[Outcome] = []
    began = time.monotonic()
    try:
        for count, claim in enumerate(table, 1):
            say(f"== {count} of {len(table)}, claim {claim.number}: {claim.claim} ({claim.minutes} min)")
            outcomes.append(_of(claim, checks, place))
            say(outcomes[-1].told())
    except KeyboardInterrupt:
        say(f"== interrupted; {len(table) - len(outcomes)} of {len(table)} claims were not checked")
        raise
    finally:
        del os.environ["GEOFM_RUNS"]
        os.environ.update({name: value for name, value in before.items() if value is not None})
        if len(outcomes) == len(table) and all(each.held for each in outcomes):
            shutil.rmtree(place.folder, ignore_errors=True)
        else:
            say(f"== the runs are kept in {place.folder}")
    say(f"\n{summary(outcomes)}\n{(time.monotonic() - began) / 60:.1f} minutes, commit {results.commit()}")
    return outcomes


def _of(claim: Claim, checks: dict[str, Check], place: Place) -> Outcome:
    began = time.monotonic()
    try:
        found, said = checks[claim.check](place)
    except Exception as error:  # whatever goes wrong in one claim, the others are checked
        found, said = None, mask(" ".join(f"{type(error).__name__}: {error}".split()))[:2000]
    return Outcome(claim, found, said, time.monotonic() - began)


def summary(outcomes: list[Outcome]) -> str:
    """A table, a line a claim, and one sentence that names those that are outside."""
    columns = ("claim", "expected", "tolerance", "found", "", "seconds")
    rows = [
        (str(each.claim.number), f"{each.claim.expected:.6g}", f"{each.claim.tolerance:.6g}",
         "–" if each.found is None else f"{each.found:.6g}",
         each.word, f"{each.seconds:.0f}")
        for each in outcomes
    ]  # fmt: skip
    wide = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, wide, strict=True)) for row in (columns, *rows)]
    off = [str(each.claim.number) for each in outcomes if not each.held]
    one = f"claim{'s' * (len(off) > 1)} {', '.join(off)} of {len(outcomes)} did not hold"
    all_hold = f"all {len(outcomes)} claims hold" if len(outcomes) > 1 else f"claim {outcomes[0].claim.number} holds"
    return "\n".join([*lines, one if off else all_hold])
