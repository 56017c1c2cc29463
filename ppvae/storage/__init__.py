r"""Run folders, checkpoints, whole files, and marks that tell what has changed."""
