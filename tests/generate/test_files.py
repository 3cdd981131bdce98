"""Which files `sluice generate` writes, and which it removes: its own alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sluice.catalog import load_catalog
from sluice.generate.files import difference, generated_files, write_files

BADGES, STORE = load_catalog("tests.generate.badges"), load_catalog("models")
DDL = Path("sql/clickhouse/generated/dim_guest.sql")


def test_files_of_others_in_the_generated_folders_are_kept(tmp_path: Path) -> None:
    write_files(BADGES, tmp_path)
    folders = {path.parent for path in generated_files(BADGES)}
    others = [tmp_path / folder / name for folder in folders for name in ("a.sql", "b.py", "c.bin")]
    for path in others:
        path.write_bytes(b"SELECT 'written by a person'" if path.suffix != ".bin" else b"\xff\0")
    assert write_files(BADGES, tmp_path) == []
    assert difference(BADGES, tmp_path) == ""
    assert all(path.exists() for path in others)


def test_a_file_that_was_generated_and_is_no_longer_is_listed_and_removed(tmp_path: Path) -> None:
    write_files(BADGES, tmp_path)
    for path in generated_files(BADGES):
        if path.name in {"topics.txt", "tables.txt"}:
            continue  # always generated
        old = tmp_path / path.with_name(f"old_{path.name}")
        old.write_text((tmp_path / path).read_text())
        listed = difference(BADGES, tmp_path)
        assert f"--- present/{old.relative_to(tmp_path)}" in listed
        assert write_files(BADGES, tmp_path) == [old.relative_to(tmp_path)]
        assert not old.exists()


def test_a_catalog_that_is_no_longer_stored_is_removed(tmp_path: Path) -> None:
    write_files(STORE, tmp_path)
    stored = tmp_path / "models/generated/catalog.json"
    assert stored.exists()
    assert Path("models/generated/catalog.json") in write_files(replace(STORE), tmp_path)
    assert not stored.exists()


def test_two_model_sets_have_one_folder(tmp_path: Path) -> None:
    for catalog in (BADGES, STORE, BADGES, STORE):
        write_files(catalog, tmp_path)
    assert difference(BADGES, tmp_path) == difference(STORE, tmp_path) == ""
    assert (tmp_path / DDL).exists()
    assert (tmp_path / "sql/clickhouse/generated/models/dim_customer.sql").exists()
    assert (tmp_path / "sql/generated/topics.txt").read_text().startswith("cdc.crm_guests\n")
