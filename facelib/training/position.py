"""How far a training has come: `Position`, the part of a checkpoint that is not arrays."""

from dataclasses import asdict, dataclass, field
from typing import Any

from facelib.training.schedules import Plateau


@dataclass
class Position:
    """How far a training has come. (epoch, step) names the next batch.

    Attributes:
        stage: number of the stage that is trained, from 0.
        epoch: complete epochs, of all stages together.
        step: steps taken in the current epoch.
        stage_step: steps taken in the current stage.
        global_step: steps taken in the whole training.
        seconds: training time of the current epoch, without evaluation.
        best: scores of embedder.h5: [mean ACC, mean AUC], or [epoch number] where nothing was measured; [] before
            the first epoch ends.
        best_on: names of the verification sets of these scores, sorted.
        rollbacks: how often the training went back to a checkpoint because a loss or a weight was not finite.
        plateau: learning rate factor of a 'plateau' schedule.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    stage_step: int = 0
    global_step: int = 0
    seconds: float = 0.0
    best: list[float] = field(default_factory=list)
    best_on: list[str] = field(default_factory=list)
    rollbacks: int = 0
    plateau: Plateau = field(default_factory=Plateau)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        """Reads what `to_json` wrote. A key that an older checkpoint lacks has its default."""
        return cls(**{**values, "plateau": Plateau(**(values.get("plateau") or {}))})

    def to_json(self) -> dict[str, Any]:
        """The form in a checkpoint: a dict of numbers, lists and dicts."""
        return asdict(self)

    @property
    def epoch_number(self) -> int:
        """The current epoch as users see it, counted from 1."""
        return self.epoch + 1

    def begin_stage(self, number: int) -> None:
        """Moves to the first step of stage `number`."""
        self.stage, self.stage_step, self.plateau = number, 0, Plateau()

    def take_step(self) -> None:
        """Counts one step."""
        self.step += 1
        self.stage_step += 1
        self.global_step += 1

    def end_epoch(self) -> None:
        """Moves to the first step of the next epoch."""
        self.epoch, self.step, self.seconds = self.epoch + 1, 0, 0.0

    def note_score(self, score: list[float], sets: list[str]) -> bool:
        """Keeps the scores of an epoch if they are the best so far; returns whether they are.

        Scores on other sets cannot be compared; then the latest ones count as the best.

        Args:
            score: more is better; the first number counts, the next ones decide between equals.
            sets: names of the verification sets, sorted.
        """
        if self.best_on == sets and not score >= self.best:
            return False
        self.best, self.best_on = score, sets
        return True
