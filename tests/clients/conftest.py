"""What the packages write into the working directory goes into a folder of the test."""

import pytest


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
