"""What the tests of plots share."""

import pytest

from ms_adam.lab.report import plots


@pytest.fixture
def figures(monkeypatch):
    """Keeps each figure for a look at what is drawn in it."""
    kept = []
    monkeypatch.setattr(plots, "png", lambda figure: kept.append(figure) or b"")
    return kept
