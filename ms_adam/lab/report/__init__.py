"""Pages, pictures and tables of finished studies, from the files that the studies wrote.

One shell (base.html.j2), blocks that all pages share (blocks.html.j2, tables), one style of plots
(plots), and in ``studies`` a module for each study with its template.
"""
