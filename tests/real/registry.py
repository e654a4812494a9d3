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
    long: bool
    awaits: str | None

    def left_out(self, args):
        """Why this run leaves it out; a bed that is asked for by its name always runs."""
        if args.direct and not self.direct:
            return "is about the tunnel itself"
        if self.name in args.names:
            return None
        if self.awaits:
            return f"waits for {self.awaits}; run it by its name"
        if self.long and not args.long:
            return "only with --long"
        return None


def bed(name, *needs, direct=False, long=False, awaits=None):
    """Registers a bed. `needs`: "python" for the packages of requirements.txt. `direct`: it also
    makes sense without a tunnel. `long`: only with --long. `awaits`: what the daemons must learn
    before it can pass; it is left out, and said so, until that word is taken away here."""

    def register(run):
        BEDS[name] = Bed(name, run, frozenset(needs), direct, long, awaits)
        return run

    return register
