"""What was drawn: the figure behind a saved picture."""

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def saved_figures(monkeypatch):
    """The figures saved during a test, in order; they are saved all the same."""
    figures = []
    save = Figure.savefig

    def savefig(figure, *args, **options):
        figures.append(figure)
        return save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures
