"""Readers of binary tables: SQLite by the standard library, Parquet by pyarrow where that is installed."""

from __future__ import annotations

from typing import Any, BinaryIO

from .loading import Loaded, Unreadable

MOST_DATABASE = 1 << 28
"""Bytes of a database that is read."""


def read_sqlite(file: BinaryIO, size: int) -> Loaded:
    """The rows of each table, as dicts, by the table's name. Views and virtual tables are left out."""
    import sqlite3  # noqa: PLC0415 - no run without a database shall wait for it

    if size > MOST_DATABASE:
        raise Unreadable(f"it has {size:,} bytes; at most {MOST_DATABASE:,} are read")
    data = bytearray(file.read())
    if not data.startswith(b"SQLite format 3\0"):
        raise Unreadable("it does not begin as one")
    data[18:20] = b"\x01\x01"  # of a journal beside it (WAL) there is nothing here
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(bytes(data))
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
        return _tables(connection)
    finally:
        connection.close()


def _tables(connection: Any) -> Loaded:
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name")
    tables: dict[str, list[dict[str, Any]]] = {}
    said, left_out = [], []
    for name, sql in found.fetchall():
        if name.startswith("sqlite_"):
            continue
        if not sql or sql.lstrip()[:15].upper().startswith("CREATE VIRTUAL"):
            left_out.append(name)
            continue
        quoted = name.replace('"', '""')
        try:
            rows = connection.execute(f'SELECT * FROM "{quoted}"')  # noqa: S608 - a name, quoted
            columns = [column[0] for column in rows.description]
            tables[name] = [dict(zip(columns, row, strict=True)) for row in rows]
        except Exception as error:  # noqa: BLE001 - a damaged table leaves the others
            left_out.append(f"{name} ({error})")
            continue
        said.append(f"{name} ({len(tables[name]):,} rows: {', '.join(columns[:20])[:200]})")
    if left_out and not tables:
        raise Unreadable(f"no table can be read: {'; '.join(left_out[:5])}")
    note = f"SQLite, tables {'; '.join(said[:20])}" if said else "SQLite, without a table"
    return Loaded(tables, note + (f"; left out: {', '.join(left_out[:10])}" if left_out else ""))


def read_parquet(file: BinaryIO, _size: int) -> Loaded:
    """The rows, as dicts. Needs pyarrow."""
    try:
        from pyarrow import parquet  # noqa: PLC0415 - an extra
    except ImportError:
        raise Unreadable("pyarrow is not installed where the code runs: pip install pyarrow") from None
    table = parquet.ParquetFile(file).read(use_threads=False)
    columns = ", ".join(f"{field.name} ({field.type})" for field in list(table.schema)[:30])
    return Loaded(table.to_pylist(), f"Parquet, columns: {columns[:800]}; context[i] is row i + 1")
