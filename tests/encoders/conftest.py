from clip_runs import tiny, world_run  # noqa: F401  fixtures
from text_models import model_folder, other_model_folder  # noqa: F401  fixtures
