from __future__ import annotations

import subprocess
import sys

from click.testing import CliRunner

from remora.cli.main import SUBCOMMANDS, main


def test_help_names_every_subcommand_and_imports_none() -> None:
    program = (
        "import sys; from remora.cli.main import main; main(['--help'], standalone_mode=False); "
        "print(sorted(name for name in sys.modules if name.startswith('remora.cli.')), 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in SUBCOMMANDS)
    assert done.stdout.splitlines()[-1].startswith("['remora.cli.main']")


def test_bench_lists_its_rows() -> None:
    result = CliRunner().invoke(main, ["bench", "--list", "--rows", "1:1 actor"])
    assert result.output.splitlines() == ["1:1 actor calls sync", "1:1 actor calls async", "1:1 actor calls concurrent"]


def test_bench_refuses_a_pattern_that_matches_nothing() -> None:
    result = CliRunner().invoke(main, ["bench", "--rows", "nonsense"])
    assert result.exit_code == 2
    assert "no row matches nonsense" in result.output


def test_an_unknown_subcommand_is_refused_by_name() -> None:
    result = CliRunner().invoke(main, ["nonsense"])
    assert result.exit_code == 2
    assert "nonsense" in result.output
