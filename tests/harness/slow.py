"""Which tests ``make test`` leaves to ``make test-slow``: it has to end in five minutes.

A test of several cases keeps some of them in ``make test``, one of each kind; a test that takes
very long, or downloads something, leaves the fast set whole where another shows the same kind.
"""

from __future__ import annotations

import pytest

WHOLE = frozenset(
    {
        "test_adoption.py::test_supervisord_reloads_itself",
        "test_commands.py::test_supervisord_does_not_wait_for_an_exec",
        "test_demo.py::test_a_request_that_is_dropped_fails_it",
        "test_families.py::test_what_the_trial_writes_is_not_the_new_generation_s",
        "test_gunicorn_ends.py::test_a_bake_is_not_failed_by_an_idle_or_a_patient_worker",
        "test_gunicorn_ends.py::test_a_generation_without_a_ready_worker_has_not_succeeded",
        "test_gunicorn_ends.py::test_a_rollback_cuts_no_request_of_a_ready_successor",
        "test_gunicorn_reexec.py::test_a_hook_that_raises_leaves_one_master",
        "test_hostile_files.py::test_a_pidfile_that_names_somebody_else",
        "test_in_place.py::test_a_master_that_takes_its_time_has_not_refused",
        "test_listener_behaviour.py::test_a_burst_of_a_thousand_events_makes_one_reload",
        "test_listener_behaviour.py::test_it_costs_next_to_nothing",
        "test_listener_behaviour.py::test_supervisord_restarts_without_reloads",
        "test_listener_plans.py::test_failing_backs_off_and_a_change_tries_again",
        "test_listener_plans.py::test_limited_by_min_interval",
        "test_operators.py::test_no_descriptor_is_lost_over_restarts",
        "test_reload.py::test_the_hundredth_reload_is_like_the_first",
        "test_robustness.py::test_a_step_takes_under_five_milliseconds",
        "test_robustness.py::test_an_idle_plugin_costs_nothing",
        "test_seams.py::test_every_seam_is_there",
        "test_servers_nginx.py::test_a_successor_that_cannot_start_is_survived",
        "test_servers_nginx.py::test_no_worker_outlives_a_killed_old_master",
        "test_servers_signal.py::test_a_server_that_has_ended_is_not_said_to_serve",
        "test_servers_signal.py::test_a_directory_that_has_moved_is_named",
        "test_servers_uwsgi.py::test_a_stats_server_that_is_another_is_not_believed",
        "test_servers_uwsgi.py::test_more_workers_may_load_their_application_still",
        "test_servers_uwsgi.py::test_a_hook_that_ends_it_is_like_die_on_term",
        "test_servers_uwsgi.py::test_a_file_of_roots_is_touched_for_another_users_program",
        "test_tables.py::test_a_cell_of_the_matrix",
        "test_tables.py::test_a_round_of_the_bench",
        "test_tracking.py::test_a_successor_that_comes_too_late_is_ended",
        "test_worlds.py::test_without_a_subreaper_it_is_adopted_by_watching",
    }
)

KEPT = {
    "test_adoption.py::test_process_groups": 1,
    "test_demo.py::test_ctrl_c_leaves_nothing": 1,
    "test_gunicorn_ends.py::test_a_successor_of_an_operator_is_left_alone": 1,
    "test_gunicorn_ends.py::test_a_thread_does_not_keep_an_old_master": 1,
    "test_gunicorn_ends.py::test_a_wrapper_that_lets_it_live_is_none": 1,
    "test_gunicorn_reexec.py::test_a_deploy_that_the_user_cannot_read": 2,
    "test_gunicorn_reexec.py::test_what_is_missing_is_refused": 3,
    "test_in_place.py::test_a_master_that_keeps_its_old_workers_has_refused": 1,
    "test_notify.py::test_a_descriptor_that_is_slow_to_close_holds_nobody_up": 1,
    "test_notify.py::test_only_the_new_generation_is_heard": 1,
    "test_operators.py::test_a_program_that_is_down_while_its_old_generation_drains": 1,
    "test_operators.py::test_an_operator_in_the_middle": 4,
    "test_orphans.py::test_an_orphan_is_adopted_and_not_spawned_beside": 1,
    "test_orphans.py::test_the_record_proves_what_a_title_hides": 2,
    "test_refusals.py::test_a_release_that_cannot_start": 2,
    "test_reload.py::test_no_request_is_dropped": 3,
    "test_reload.py::test_users": 1,
    "test_reload_info.py::test_a_drain_that_takes_long_does_not_hold_up_the_others": 1,
    "test_robustness.py::test_an_exception_at_every_phase": 3,
    "test_rollback.py::test_a_check_that_does_not": 1,
    "test_rollback.py::test_what_fails_while_it_bakes_is_rolled_back": 2,
    "test_rollback.py::test_what_is_done_to_a_reload_that_is_queued": 2,
    "test_servers_nginx.py::test_it_is_tried_behind_plain_wrappers": 1,
    "test_servers_nginx.py::test_its_configuration_is_read_again": 1,
    "test_servers_nginx.py::test_an_upgrade_is_rolled_back": 1,
    "test_servers_puma.py::test_it_is_reloaded_twice_under_load": 1,
    "test_servers_signal.py::test_an_endpoint_has_the_last_word": 1,
    "test_servers_signal.py::test_haproxy_is_reloaded_under_load": 1,
    "test_servers_signal.py::test_only_the_successor_is_asked": 2,
    "test_servers_unicorn.py::test_a_broken_release_leaves_the_old_one_serving": 1,
    "test_servers_unicorn.py::test_a_release_that_hangs_is_given_up": 1,
    "test_servers_uwsgi.py::test_a_chain_reload_replaces_one_worker_after_the_other": 1,
    "test_servers_uwsgi.py::test_a_graceful_reload_drops_nothing_and_blocks_until_done": 1,
    "test_servers_uwsgi.py::test_a_router_is_no_worker": 1,
    "test_servers_uwsgi.py::test_broken_code_is_tried_before_and_changes_nothing": 1,
    "test_servers_uwsgi.py::test_code_that_breaks_only_inside_is_told_by_what_uwsgi_prints": 1,
    "test_servers_uwsgi.py::test_the_triggers_of_uwsgi_are_the_listeners": 1,
    "test_settings.py::test_settings_that_supervisord_can_read_no_more": 1,
    "test_sidecars.py::test_a_sidecar_of_a_program_that_is_exec_d": 2,
    "test_site_commands.py::test_reload": 3,
    "test_site_listeners.py::test_by_hand": 1,
    "test_site_listeners.py::test_reload": 1,
    "test_tracking.py::test_an_orphaned_worker_is_never_taken_for_a_master": 1,
    "test_tracking.py::test_an_upgrade_by_hand": 3,
    "test_tracking.py::test_hup_becomes_a_reload": 1,
    "test_worlds.py::test_the_system_clock_jumps": 1,
    "test_wrapper_faults.py::test_no_step_keeps_it_from_ending": 8,
    "test_wrapper_gunicorn.py::test_a_release_that_cannot_boot_changes_nothing": 1,
    "test_wrapper_gunicorn.py::test_a_stop_during_a_reload_leaves_nothing": 1,
    "test_wrapper_gunicorn.py::test_a_symlink_is_followed_anew": 2,
    "test_wrapper_gunicorn.py::test_gunicorns_own_pidfile": 1,
    "test_wrapper_overlap.py::test_a_symlink_switch_and_back": 2,
}
"""How many of the cases of a test are in ``make test``: the first ones that are not slow."""


def mark_slow(items: list[pytest.Item]) -> None:
    """Mark what is slow.

    :raises ValueError: when a test of the tables does not exist, and all tests are collected.
    """
    seen: dict[str, int] = {}
    for item in items:
        name = item.nodeid.partition("[")[0].rpartition("/")[2]
        if item.get_closest_marker("slow") is not None:
            continue
        seen[name] = seen.get(name, 0) + 1
        if name in WHOLE or seen[name] > KEPT.get(name, seen[name]):
            item.add_marker(pytest.mark.slow)
    gone = {*WHOLE, *KEPT} - {*seen}
    if gone and len({item.nodeid.partition("::")[0] for item in items}) > 50:
        raise ValueError(f"tests.harness.slow names tests that do not exist: {sorted(gone)}")
