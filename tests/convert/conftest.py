import pytest
from absl import flags
from converting import OURS

from vtjax.convert.__main__ import define_flags, main


@pytest.fixture
def convert(capsys):
    """Runs the main; returns (exit status, what it printed)."""
    define_flags()

    def run(*arguments):
        for name in OURS:
            flags.FLAGS[name].unparse()
        with pytest.raises(SystemExit) as exit_:
            main(["vtjax.convert", *map(str, arguments)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return exit_.value.code or 0, printed.out + printed.err

    return run
