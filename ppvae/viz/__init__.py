r"""Tables, figures and pages of results: the only room that imports matplotlib, rich and jinja2."""
