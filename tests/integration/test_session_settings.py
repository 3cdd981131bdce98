"""Whatever a role, a database or the server sets for sessions: the pipeline's are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from sluice import wiring
from sluice.capture import slot as slots
from sluice.clients.postgres import connection_options, opened
from sluice.clients.session_settings import PINNED, PINNED_SINCE
from sluice.settings import PostgresSettings, Settings
from store_api.database import make_engine
from store_api.demo import load
from tests.support.oracle import facts, joined
from tests.support.pipeline import checked, relaying
from tests.support.waiting import until

pytestmark = pytest.mark.services

Session = Callable[[PostgresSettings], AbstractContextManager[Any]]

# Settings that may be as their owner wants them, by the reason.
HARMLESS = {
    "only how fast a query is": """
        backend_flush_after commit_delay commit_siblings constraint_exclusion cpu_index_tuple_cost
        cpu_operator_cost cpu_tuple_cost cursor_tuple_fraction debug_discard_caches
        debug_logical_replication_streaming debug_parallel_query default_statistics_target
        effective_cache_size effective_io_concurrency file_copy_method from_collapse_limit geqo
        geqo_effort geqo_generations geqo_pool_size geqo_seed geqo_selection_bias geqo_threshold
        hash_mem_multiplier io_combine_limit jit jit_above_cost jit_expressions
        jit_inline_above_cost jit_optimize_above_cost jit_tuple_deforming join_collapse_limit
        logical_decoding_work_mem maintenance_io_concurrency maintenance_work_mem
        max_parallel_maintenance_workers max_parallel_workers max_parallel_workers_per_gather
        min_parallel_index_scan_size min_parallel_table_scan_size parallel_leader_participation
        parallel_setup_cost parallel_tuple_cost plan_cache_mode random_page_cost
        recursive_worktable_factor seq_page_cost temp_buffers wal_compression wal_init_zero
        wal_recycle wal_skip_threshold work_mem enable_async_append enable_bitmapscan
        enable_distinct_reordering enable_gathermerge enable_group_by_reordering enable_hashagg
        enable_hashjoin enable_incremental_sort enable_indexonlyscan enable_indexscan
        enable_material enable_memoize enable_mergejoin enable_nestloop enable_parallel_append
        enable_parallel_hash enable_partition_pruning enable_partitionwise_aggregate
        enable_partitionwise_join enable_presorted_aggregate enable_self_join_elimination
        enable_seqscan enable_sort enable_tidscan vacuum_cost_delay vacuum_cost_limit
        vacuum_cost_page_dirty vacuum_cost_page_hit vacuum_cost_page_miss
        vacuum_buffer_usage_limit""",
    "only what is logged, shown or counted": """
        backtrace_functions client_min_messages compute_query_id debug_pretty_print
        debug_print_parse debug_print_plan debug_print_rewritten lc_messages log_connections
        log_disconnections log_duration log_error_verbosity log_executor_stats log_lock_failures
        log_lock_waits log_min_duration_sample log_min_duration_statement log_min_error_statement
        log_min_messages log_parameter_max_length log_parameter_max_length_on_error
        log_parser_stats log_planner_stats log_replication_commands log_statement
        log_statement_sample_rate log_statement_stats log_temp_files log_transaction_sample_rate
        md5_password_warnings trace_notify trace_sort track_activities track_cost_delay_timing
        track_counts track_functions track_io_timing track_wal_io_timing update_process_title
        escape_string_warning jit_debugging_support jit_dump_bitcode jit_profiling_support""",
    "of writes to tables, or of objects that are created; no session does either": """
        check_function_bodies createrole_self_grant default_table_access_method
        default_tablespace default_toast_compression event_triggers gin_pending_list_limit
        lo_compat_privileges password_encryption scram_iterations session_replication_role
        allow_in_place_tablespaces allow_system_table_mods vacuum_failsafe_age
        vacuum_freeze_min_age vacuum_freeze_table_age vacuum_max_eager_freeze_failure_rate
        vacuum_multixact_failsafe_age vacuum_multixact_freeze_min_age
        vacuum_multixact_freeze_table_age vacuum_truncate icu_validation_level""",
    "of texts that no query of a session has: words in dates, backslashes, searches": """
        backslash_quote default_text_search_config gin_fuzzy_search_limit timezone_abbreviations""",
    "of a connection that is dead already": """
        client_connection_check_interval tcp_keepalives_count tcp_keepalives_idle
        tcp_keepalives_interval tcp_user_timeout""",
    "of one transaction; the default that is pinned decides it": """
        transaction_deferrable transaction_isolation transaction_read_only""",
    "set by each session itself": "application_name client_encoding",
    "the order in which rows come, or how old statistics are; nothing relies on it": """
        stats_fetch_consistency synchronize_seqscans""",
    "an administrator's limit or tool, which no other role may lift; an error names it": """
        deadlock_timeout ignore_checksum_failure ignore_system_indexes max_stack_depth
        post_auth_delay temp_file_limit wal_consistency_checking zero_damaged_pages
        restrict_nonsystem_relation_kind""",
    "libraries that the server loads, and places for them": """
        dynamic_library_path extension_control_path local_preload_libraries
        output_plugin_libraries session_preload_libraries temp_tablespaces""",
}
DECIDED = {name: reason for reason, names in HARMLESS.items() for name in names.split()}
# A value of each pinned setting under which something would go wrong.
HOSTILE = {
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "transaction_timeout": "1s",
    "exit_on_error": "on",
    "wal_sender_timeout": "200ms",
    "row_security": "on",
    "search_path": "nowhere",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "synchronous_commit": "off",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "xmlbinary": "hex",
    "xmloption": "document",
    "lc_monetary": "POSIX",
    "lc_numeric": "POSIX",
    "lc_time": "POSIX",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
}
USERS = "SELECT lower(name) FROM pg_settings WHERE context IN ('user', 'superuser', 'backend',"
USERS += " 'superuser-backend')"


def test_there_is_a_decision_on_every_setting_of_a_session(services: Settings) -> None:
    with opened(services.postgres) as connection, connection.cursor() as cursor:
        cursor.execute(USERS)
        present = {name for (name,) in cursor}
    pinned = {*PINNED, *PINNED_SINCE}
    assert present - pinned - set(DECIDED) == set(), "pin it, or say why it may be anything"
    assert not pinned & set(DECIDED)
    assert set(HOSTILE) == pinned


@pytest.fixture
def hostile(services: Settings) -> Iterator[Settings]:
    """A role whose owner set every pinned setting to something else, and the database too."""
    database = services.postgres.database
    with closing(psycopg2.connect(**connection_options(services.postgres))) as admin:
        admin.autocommit = True
        with admin.cursor() as cursor:
            cursor.execute("CREATE ROLE odd SUPERUSER LOGIN PASSWORD 'odd'")
            cursor.execute("SELECT lower(name) FROM pg_settings")
            known = {name for (name,) in cursor}
            for name in known & set(HOSTILE):
                value = f"'{HOSTILE[name]}'"
                cursor.execute(f"ALTER ROLE odd SET {name} = {value}")
                cursor.execute(f"ALTER ROLE odd IN DATABASE {database} SET {name} = {value}")
            yield replace(
                services,
                postgres=replace(
                    services.postgres, user="odd", password=type(services.postgres.password)("odd")
                ),
            )
            until(lambda: not _sessions(services.postgres), "all sessions on PostgreSQL have ended")
            cursor.execute("DROP ROLE odd")


def _sessions(settings: PostgresSettings) -> bool:
    with opened(settings) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_stat_activity WHERE usename = 'odd'")
        return cursor.fetchone() is not None


@pytest.mark.parametrize("session", [slots.session, slots.replication])
def test_every_session_has_what_is_pinned(
    services: Settings, hostile: Settings, session: Session
) -> None:
    with session(services.postgres) as plain, session(hostile.postgres) as odd:
        for name in HOSTILE:
            assert _shown(odd, name) == _shown(plain, name), name


def _shown(cursor: Any, name: str) -> str:
    cursor.execute(f"SHOW {name}")
    return str(cursor.fetchone()[0])


def test_the_whole_loop_is_right_for_such_a_role(services: Settings, hostile: Settings) -> None:
    load(services, customers=20, orders=60, seed=7)
    engine = make_engine(services.postgres)
    with relaying(hostile):
        with opened(services.postgres) as connection, connection.cursor() as cursor:
            # A transaction that takes the walsender longer than a second.
            cursor.execute(
                "BEGIN; INSERT INTO products (id, name, category, price, created_at)"
                " SELECT 1000000 + i, 'made ' || i, 'large', 1.5, now()"
                " FROM generate_series(1, 60000) i;"
                " DELETE FROM products WHERE category = 'large'; COMMIT"
            )
        report = checked(hostile)
        assert not report.failures
        assert "rows read again" in wiring.resync(hostile, "orders").sentence()
        deep = wiring.quality(hostile, deep=True)
        assert deep.passed, deep.failures
        assert facts(hostile) == joined(engine)
    engine.dispose()
