"""The tables of files and jobs, which lie in the budget ledger's database.

`apportion_files`: what was uploaded or made, with its owner; its bytes lie elsewhere, under its id. `apportion_jobs`:
what was asked, how far it is, and who works on it until when. Owners are accounts, key and tenant, as JSON.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text

from apportion.router.jobs.states import STAMPS

metadata = MetaData()

files = Table(
    "apportion_files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=True),
    Index("apportion_files_owner", "owner", "created_at", "id"),
    Index("apportion_files_expiry", "expires_at"),
)

jobs = Table(
    "apportion_jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", String(64), nullable=False),
    Column("completion_window", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    *(Column(stamp, BigInteger, nullable=True) for stamp in STAMPS.values()),
    Column("expires_at", BigInteger, nullable=False),
    Column("output_expires_s", BigInteger, nullable=True),
    Column("output_file_id", String(64), nullable=True),
    Column("error_file_id", String(64), nullable=True),
    Column("total", Integer, nullable=False, server_default="0"),
    Column("completed", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("spent_nano", BigInteger, nullable=False, server_default="0"),
    # As JSON.
    Column("tokens", Text, nullable=False, server_default="[]"),
    Column("errors", Text, nullable=False, server_default="[]"),
    Column("metadata", Text, nullable=True),
    Column("routing", Text, nullable=False, server_default="{}"),
    Column("caller", Text, nullable=False, server_default="{}"),
    Column("told", Text, nullable=False, server_default="{}"),
    Column("plan", Text, nullable=False, server_default="{}"),
    # The lease: who works on it.
    Column("holder", String(128), nullable=True),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("lease_until_s", Float(53), nullable=False, server_default="0"),
    Index("apportion_jobs_owner", "owner", "created_at", "id"),
    Index("apportion_jobs_work", "status", "lease_until_s"),
)
