from importlib.metadata import version as installed

project = "diffusionsat"
author = "the diffusionsat authors"
copyright = author
version = release = installed("diffusionsat")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "diffusionsat"
exclude_patterns = ["_build", "rasters"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
