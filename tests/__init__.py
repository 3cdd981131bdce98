"""Tests, and what they share."""

from pathlib import Path

import pytest

# A failed assert of what tests share shows its values, as one of a test module does.
FOLDERS = [folder.name for folder in Path(__file__).parent.iterdir() if folder.is_dir()]
pytest.register_assert_rewrite(*(f"tests.{folder}" for folder in FOLDERS))
