"""The books of a conversion: what became of every entry of a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from squeezetime_jax.checkpoint.archive import CheckpointError
from squeezetime_jax.errors import count
from squeezetime_jax.model.config import SqueezeTimeConfig

_SHOWN = 4  # names a list prints before it says how many more there are


class UnaccountedWeights(CheckpointError):
    """Weights that do not fit the network.

    Attributes:
      found: the weights, and which entries are missing, unexpected or mismatched.
    """

    def __init__(self, found: str, hint: str):
        super().__init__(f"{found}; {hint}")
        self.found = found


@dataclass
class Report:
    """What became of every entry of a state dict, and of every weight of the network.

    Attributes:
      source: the file, or words for where the arrays came from.
      config: the network that was filled.
      used: entries that went into the network as they are.
      left_out: entry -> the rule that leaves it out (counters, optimizer, ...).
      adapted: entry -> what was done to it, or to what it should have filled.
      missing: weight that no entry fills -> its shape; it is drawn anew if that is allowed.
      unexpected: entry that fills nothing -> its shape.
      mismatched: entry -> how its shape or type differs; a weight is drawn anew if allowed.
      allowed: those of the last three that the user's patterns allow.
    """

    source: str
    config: Any
    used: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    unexpected: dict[str, str] = field(default_factory=dict)
    mismatched: dict[str, str] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Refuse what is unaccounted for.

        Raises:
          UnaccountedWeights: an entry is missing, unexpected or mismatched, and not allowed.
        """
        found = []
        for kind in ("missing", "unexpected", "mismatched"):
            entries: dict[str, str] = getattr(self, kind)
            names = [name for name in entries if name not in self.allowed]
            if names:
                shown = ", ".join(f"{_short(name)} {entries[name]}" for name in names[:3])
                found.append(f"{len(names)} {kind} ({shown}{', ...' if len(names) > 3 else ''})")
        if found:
            hint = "allow them by pattern (allow=..., --allow PATTERN)"
            if any("head." in name for name in self.missing):
                hint = "give num_classes for a new head, or " + hint
            raise UnaccountedWeights(f"{self.source}: {', '.join(found)}", hint)

    def __str__(self) -> str:
        config = self.config
        network = f"{config.name}, {count(config.num_frames, 'frame')}"
        if isinstance(config, SqueezeTimeConfig):
            network += f", {config.depth} layers, width {config.width:g}, strides {config.strides}"
        lines = [
            f"{self.source}: {network}, {count(config.num_classes, 'class')}",
            f"  used        {len(self.used):5d}",
        ]
        for kind, entries in (("left out", self.left_out), ("adapted", self.adapted)):
            for what, names in grouped(entries).items():
                lines.append(f"  {kind:<11} {len(names):5d}  {what}: {listed(names)}")
        for kind in ("missing", "unexpected", "mismatched"):
            entries = getattr(self, kind)
            lines.append(f"  {kind:<11} {len(entries):5d}")
            for name, what in entries.items():
                fate = "allowed" if name in self.allowed else "NOT ALLOWED"
                lines.append(f"                     {name} {what}: {fate}")
        return "\n".join(lines)


def _short(name: str) -> str:
    return name if len(name) <= 80 else name[:77] + "..."


def grouped(entries: Mapping[str, str]) -> dict[str, list[str]]:
    """What befell entries -> the names of those it befell."""
    groups: dict[str, list[str]] = {}
    for name, what in entries.items():
        groups.setdefault(what, []).append(name)
    return groups


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(map(_short, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown}, and {len(names) - _SHOWN} more"
