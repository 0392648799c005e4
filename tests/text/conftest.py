from text_models import model_folder, other_model_folder  # noqa: F401  fixtures
