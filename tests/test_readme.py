"""The README shows what is in the repository, and its first program runs."""

import contextlib
import io
import re
from pathlib import Path

import remora

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_in_the_readme_is_the_one_in_the_repository():
    assert PROGRAMS[-1] == (ROOT / "examples" / "similar_modules.py").read_text()


def test_every_link_of_a_page_leads_to_a_file():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_first_program_prints_what_its_comments_say():
    program = PROGRAMS[0].replace("remora.init(num_cpus=2)", "remora.init(num_cpus=2, local_mode=True)")
    assert program != PROGRAMS[0]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    finally:
        remora.shutdown()
    expected = re.findall(r"print\(.*\)  # (.*)", program)
    assert printed.getvalue().splitlines() == expected


def test_every_command_of_the_readme_is_one_that_the_command_line_knows():
    from remora.cli.main import SUBCOMMANDS

    assert set(re.findall(r"`remora (\w+)", README)) == set(SUBCOMMANDS)


def test_every_target_of_make_that_a_page_names_is_in_the_makefile():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (demo|test-all|test|check|bench|format|clean)\b", README)) <= targets
