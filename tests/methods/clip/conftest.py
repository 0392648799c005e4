from clip_runs import tiny, world_run  # noqa: F401  fixtures
