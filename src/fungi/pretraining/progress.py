"""What a run has behind it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fungi.pretraining.batches import BatchPlan
from fungi.pretraining.learner import Moment

Line = dict[str, int | float]
"""Of one epoch, in log.txt."""


@dataclass
class Progress:
    """What a run has behind it: steps, one line per epoch, and the sums of the epoch under way."""

    step: int = 0
    history: list[Line] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, measured: Mapping[str, float], seconds: float) -> None:
        """One more step."""
        self.step += 1
        self.seconds += seconds
        for name, value in measured.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def close_epoch(self, moment: Moment, plan: BatchPlan) -> Line:
        """The line of the epoch that just ended: means over its steps."""
        steps = plan.steps_per_epoch
        means = {f"train_{name}": value / steps for name, value in self.sums.items() if name != "stop"}
        line: Line = {
            "epoch": len(self.history),
            **means,
            "train_lr": moment.rate,
            "train_wd": moment.weight_decay,
            "teacher_temp": moment.temperature,
            "images_per_second": round(steps * plan.batch / max(self.seconds, 1e-9), 1),
        }
        self.history.append(line)
        self.sums, self.seconds = {}, 0.0
        return line
