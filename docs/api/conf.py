"""Sphinx settings: `scripts/check docs` builds the API reference into build/api."""

import ms_adam

project = "ms_adam"
author = "the authors of ms_adam"
release = ms_adam.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
html_theme = "alabaster"
html_theme_options = {"page_width": "1100px"}
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [  # those of MindSpore's own pages
    "Inputs",
    "Outputs",
    "Supported Platforms",
]
