r"""What stays on disk: whole files, weights, run folders with checkpoints, results, locks.

Reading order: `files`, `weights`, `fingerprint`, `lock`, `run_folder`, `league_folder`, `results`.
"""
