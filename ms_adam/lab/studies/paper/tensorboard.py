"""Event files for TensorBoard, written by tensorboardX: the cost of each run over its epochs."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np

from ms_adam.lab.errors import UserError
from ms_adam.lab.studies.paper.config import PaperFigure
from ms_adam.lab.studies.paper.sweep import Outcome, Spec


class EventFiles:
    """Writes a folder of event files for each run; replaces those of an earlier call.

    Args:
        folder: The folder to show in TensorBoard.

    Raises:
        UserError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path):
        if importlib.util.find_spec("tensorboardX") is None:
            raise UserError(
                "--tensorboard: tensorboardX, which writes the event files, is not "
                "installed: pip install 'ms_adam[tensorboard]'"
            )
        self.folder = folder

    def write(self, figure: PaperFigure, spec: Spec, outcome: Outcome) -> None:
        """Writes one run, without the infinite costs of a run that diverged."""
        from tensorboardX import SummaryWriter

        run = f"lr {spec.learning_rate:g} seed {spec.seed}"
        parts = (figure.name, spec.variant.label, spec.contender.called, run)
        folder = self.folder.joinpath(*(re.sub(r"[^\w.,-]+", "_", part) for part in parts))
        shutil.rmtree(folder, ignore_errors=True)
        with SummaryWriter(str(folder), write_to_disk=True) as writer:
            for epoch, cost in enumerate(outcome.costs):
                if np.isfinite(cost):
                    writer.add_scalar("training cost", float(cost), epoch)
