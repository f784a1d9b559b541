"""A comparison of one short path, for tests."""


def small(**changes):
    """A complete config of one function and one optimizer, with these keys in place of its own."""
    return {
        "name": "small",
        "title": "one path",
        "functions": [{"function": "sphere", "start": [3, 4], "x": [-5, 5], "y": [-5, 5]}],
        "optimizers": [
            {"name": "SGD", "method": "SGD", "options": {"learning_rate": 0.2}, "steps": 5}
        ],
        "mindspore": False,
        "figure": {"panels": "functions", "columns": 1},
        **changes,
    }
