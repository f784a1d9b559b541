"""The page of an experiment on text says what results.json says, whatever sides there were."""

import numpy as np
import pytest
from lab.report.studies.report_entries import write
from lab.studies.text.small_text import row, text_config

from ms_adam.lab.report.studies import text


def page_of(out, runs):
    curves = {
        "loss": np.array([0.7, 0.6, 0.5, 0.4]),
        "test_loss": np.array([0.6, 0.5]),
        "test_accuracy": np.array([0.5, 0.7]),
    }
    config = {key: text_config()[key] for key in ("data", "model", "training", "compare")}
    more = {"bags_sha256": "abc123", "words_each": 16.52, "commonest": 0.587, "parameters": 320098}
    words = {"rotten": ["dull"], "fresh": ["<i>fine"]}
    write(out, runs, [curves] * len(runs), config, telling_words=words, **more)
    return text.write_page(out).read_text(encoding="utf-8")


def test_numbers_are_those_of_the_runs(tmp_path):
    times = (("exact", 1), ("lazy", 0.25))
    runs = [
        row(side, seed, step_ms=[2.0 * time, 4.0 * time], test_accuracy=0.7 + 0.01 * seed)
        for side, time in times
        for seed in (0, 1)
    ]
    page = page_of(tmp_path, runs)
    for words in (
        *("1 of 3 claims held", "320,098 parameters", "16.5 words each", "58.70%"),
        *("70.50%", "70.00% to 71.00%", "0.4321", "0.5678", "abc123", "&lt;i&gt;fine"),
    ):
        assert words in page
    assert page.count("3.2e-3") == 2  # the pair, both ways
    assert '<td class="number">3.00</td>\n<td class="number">1.00</td>' in page
    assert '<td class="number">0.75</td>\n<td class="number">0.25</td>' in page


def test_sides_that_are_not_drawn_elsewhere_and_have_no_time(tmp_path):
    page = page_of(tmp_path, [row("lazy_epsilon_hat", 0, step_ms=None)])
    assert '<td class="number">–</td>\n<td class="number">–</td>' in page


@pytest.mark.parametrize(
    "curves, epochs",
    [
        ([[0.5, 0.7, 0.8], [0.5, 0.69, 0.8]], 3),  # the mean is asked, not the best seed
        ([[0.5, 0.7, 0.6], [0.5, 0.7, 0.6]], 2),
        ([[0.5, 0.6, 0.6], [0.5, 0.6, 0.6]], None),
    ],
)
def test_epochs_to_the_least_accuracy(curves, epochs):
    runs = [row("lazy", seed) for seed in range(2)]
    entry = {"runs": runs, "config": {"compare": {"least_accuracy": 0.7}}}
    runs_of = [{"test_accuracy": np.array(curve)} for curve in curves]
    (cells,) = text.side_table(entry, runs_of).rows
    assert cells[7] == ("–" if epochs is None else epochs)


def test_plot_has_a_line_for_each_drawn_side():
    runs = [row(side, 0) for side in ("exact", "exact_rows", "lazy")]
    arrays = [
        {"loss": np.ones(4), "test_loss": np.ones(2), "test_accuracy": np.ones(2) * level}
        for level in (0.5, 0.6, 0.7)
    ]
    png = text.training_plot(runs, arrays)
    assert png.startswith(b"\x89PNG")
    assert png == text.training_plot([runs[0], runs[2]], [arrays[0], arrays[2]])
    assert png != text.training_plot(runs[:2], arrays[:2])
