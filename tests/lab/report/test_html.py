"""How numbers and tables are written."""

from ms_adam.lab.report.html import inline, link_pages, percent, power, unbroken
from ms_adam.lab.report.tables import Column, number, rendered, table


def test_numbers():
    assert [power(x) for x in (0, 0.0, 4.56e-7, 0.25)] == ["0", "0", "4.6e-7", "2.5e-1"]
    assert percent(0.92341) == "92.34%"
    assert unbroken("1.0e-6 of x-y") == "1.0e\u20116 of x-y"


def test_a_table_as_markdown():
    columns = (Column("a|b", "text"), number("n", lambda row: row["n"], "{:.1f}".format))
    filled = table(columns, [{"text": "x\ny", "n": 1.25}, {"text": "|", "n": None}])
    assert rendered(filled).splitlines() == [
        "| a\\|b | n |",
        "| --- | ---: |",
        "| x<br>y | 1.2 |",
        "| \\| | – |",
    ]


def test_a_cell_as_html():
    assert inline("<i> **bold** `code`\nx") == "&lt;i&gt; <b>bold</b> <code>code</code><br>x"


def test_pages_of_neighbours_are_linked(tmp_path):
    shell = '<title>ms_adam: {0}</title><nav id="studies">old</nav>{0}'
    for name in ("a", "b & c"):
        (tmp_path / name).mkdir()
        text = shell.format(name.replace("&", "&amp;"))
        (tmp_path / name / "index.html").write_text(text)
        link_pages(tmp_path / name)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "index.html").write_bytes(b"<title>no page of ours \xe4</title>")
    link_pages(tmp_path / "a")
    first, second = ((tmp_path / name / "index.html").read_text() for name in ("a", "b & c"))
    assert '<nav id="studies">Other studies: <a href="../b%20%26%20c/index.html">' in first
    assert first.count("<a ") == second.count("<a ") == 1 and ">b &amp; c</a></nav>" in first
    assert '<a href="../a/index.html">a</a>' in second
    foreign = (tmp_path / "foreign" / "index.html").read_bytes()
    assert foreign == b"<title>no page of ours \xe4</title>"
    link_pages(tmp_path / "b & c")
    assert (tmp_path / "a" / "index.html").read_text() == first
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["index.html"]
