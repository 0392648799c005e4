from converting import convert  # noqa: F401  the fixture
