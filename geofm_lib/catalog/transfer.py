"""What is compared on a task (08): an encoder trained further or not, pretrained or not; which differences count."""

from collections.abc import Mapping
from typing import NamedTuple


class Arm(NamedTuple):
    """One way to learn a task. pretrained: else its weights are random. whole: is the encoder trained?

    eased: has only the head learnt before that, for `frozen_share` of the epochs?
    """

    name: str
    words: str
    pretrained: bool
    whole: bool
    eased: bool = False


FROZEN, TUNED, UNTRAINED_FROZEN, SCRATCH = "frozen", "fine-tuned", "untrained", "scratch"
ARMS = {
    arm.name: arm
    for arm in (
        Arm(TUNED, "pretrained, fine-tuned", True, True, True),
        Arm(FROZEN, "pretrained, frozen", True, False),
        Arm(SCRATCH, "from scratch", False, True),
        Arm(UNTRAINED_FROZEN, "untrained, frozen", False, False),
    )
}
WITHOUT = {TUNED: SCRATCH, FROZEN: UNTRAINED_FROZEN}  # an arm -> the same one without pretraining
PROBE, MAJORITY, COLOURS = "probe", "majority class", "pixel colours"
FOREST = "random forest"
CONTROLS = {
    PROBE: "logistic regression on frozen features (05's fast protocol)",
    MAJORITY: "the most frequent class of the train side, everywhere",
    COLOURS: "each pixel by its own colour alone (scikit-learn's gradient boosting)",
    FOREST: "500 trees on the raw values of all dates (scikit-learn)",
}
PAIRS = (  # whose difference is told, where both are there; the first is the page's question
    (TUNED, SCRATCH), (TUNED, FROZEN), (TUNED, PROBE), (FROZEN, UNTRAINED_FROZEN), (TUNED, COLOURS), (TUNED, MAJORITY),
    (FROZEN, COLOURS), (TUNED, FOREST), (SCRATCH, FOREST), (PROBE, FOREST),
)  # fmt: skip


def unlearnt(values: Mapping[str, float]) -> bool:
    """Does the network from scratch end below the same one untrained and frozen, by their values?

    >>> unlearnt({"scratch": 17.4, "untrained": 18.8}), unlearnt({"scratch": 17.4})
    (True, False)
    """
    return SCRATCH in values and values[SCRATCH] < values.get(UNTRAINED_FROZEN, 0)


def words(name: str) -> str:
    """An arm or control as a page calls it.

    >>> words("scratch"), words("probe")
    ('from scratch', 'the probe')
    """
    return ARMS[name].words if name in ARMS else f"the {name}" if name == PROBE else name


def chosen(text: str) -> list[Arm]:
    """The arms that a setting names, with commas; ValueError, one sentence, for one that does not exist."""
    names = list(dict.fromkeys(map(str.strip, text.split(","))))
    for name in names:
        if name not in ARMS:
            raise ValueError(f"there is no arm '{name}'; use some of {', '.join(ARMS)}")
    return [ARMS[name] for name in names]
