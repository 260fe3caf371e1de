"""Configuration of Sphinx."""

import os
from importlib.metadata import version as installed_version

# Examples that the gallery runs draw into files.
os.environ.setdefault("MPLBACKEND", "agg")

project = "skntk"
author = "the skntk developers"
copyright = author
release = version = installed_version("skntk")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
default_role = "code"

autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False  # a package's __all__ is its public face
autodoc_typehints = "none"  # numpydoc sections say it with shapes
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False  # the class template lists them

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"^(?!.*plot_).*\.py$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 5,
}

html_theme = "pydata_sphinx_theme"
html_title = f"skntk {release}"
html_theme_options = {"show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
html_show_sourcelink = False
