r"""A story, a guide and rows, checked and traced once, as plain functions of tensors."""
