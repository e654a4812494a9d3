"""The list of beds; each file under beds/ adds its own."""

import dataclasses
import typing

BEDS: dict = {}


@dataclasses.dataclass
class Bed:
    name: str
    run: typing.Callable
    needs: frozenset
    direct: bool


def bed(name, *needs, direct=False):
    """Registers a bed. `needs`: "python" for the packages of requirements.txt. `direct`: it also
    makes sense without a tunnel."""

    def register(run):
        BEDS[name] = Bed(name, run, frozenset(needs), direct)
        return run

    return register
