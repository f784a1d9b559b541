"""Sphinx settings: `scripts/check docs` builds the API reference into build/api."""

from sphinx.util import inspect

import ms_adam

project = "ms_adam"
author = "the authors of ms_adam"
release = ms_adam.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
html_theme = "alabaster"
html_theme_options = {"page_width": "1100px"}
html_show_copyright = False

autodoc_member_order = "bysource"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [  # those of MindSpore's own pages
    "Inputs",
    "Outputs",
    "Supported Platforms",
]


def keep_formulas(app, what, name, obj, options, lines):
    """Marks the indented blocks between paragraphs of a docstring, formulas mostly, as literal."""
    marked, prose = [], False
    for line, following in zip(lines, [*lines[1:], ""]):
        if line and not line.startswith(" "):
            prose = not following.strip()  # a section, such as Args, goes on at once
        elif line.startswith("    ") and prose:
            marked += ["::", ""]
            prose = False
        marked.append(line)
    lines[:] = marked


def show_init(app, what, name, obj, options, signature, return_annotation):
    """Shows the arguments of `__init__`, which a Cell hides behind those of `__new__`."""
    if what == "class" and signature == "(*args, **kwargs)":
        arguments = inspect.signature(obj.__init__, bound_method=True)
        signature = inspect.stringify_signature(arguments, show_annotation=False)
    return signature, return_annotation


def setup(app):
    app.connect("autodoc-process-docstring", keep_formulas, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", show_init)
