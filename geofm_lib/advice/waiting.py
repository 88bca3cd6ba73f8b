"""How a rank's threads wait for each other between two loops: they spin for a while, then sleep.

By itself OpenMP (GNU's, which torch brings) spins for milliseconds. On a core that another program wants too that time
is the other's; a rank's step then takes many times as long.
"""

from collections.abc import Mapping

SPINS = 10_000  # turns: a fraction of a millisecond, longer than the way from one loop to the next
CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # variables by which a user chooses


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What ranks started from here get, unless the user has chosen."""
    return {} if any(name in environment for name in CHOICES) else {"GOMP_SPINCOUNT": str(SPINS)}


def told(environment: Mapping[str, str]) -> str:
    """For `geofm doctor`: what holds for ranks started from here."""
    chosen = [f"{name}={environment[name]}" for name in CHOICES if name in environment]
    if chosen:
        return f"as {', '.join(chosen)} says"
    return f"spins {SPINS:,} turns, then sleeps, so that it is no hindrance beside other programs (GOMP_SPINCOUNT)"
