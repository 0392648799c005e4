from pages import make, read_page, walker  # noqa: F401  fixtures
