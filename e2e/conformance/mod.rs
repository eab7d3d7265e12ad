//! What gpheal relies on in a Greenplum, asked of one: of the stand-in, or of
//! the installation that `GPHOME` points at. A check that fails on the stand-in
//! is a fault of the stand-in; one that fails on a Greenplum is a fault of what
//! gpheal believes.
//!
//! The suite makes a cluster of bare processes in a temporary folder, by steps
//! that are the same for both, and hurts it in a fixed order: each check leaves
//! all pairs up and in sync.

mod access;
mod alone;
mod bench;
mod bounded;
mod catalog;
mod cold;
mod dialect;
mod encodings;
mod failover;
mod hang;
mod layouts;
mod losses;
mod mirror;
mod person;
mod product;
mod put_back;
mod query;
mod remains;
mod rights;
mod server;
mod sizes;
mod standby;
mod strangers;
mod supervised;
mod tls;
mod tools;
mod wounds;

pub use self::{bench::Bench, server::Owner};

use std::{future::Future, pin::Pin, time::Instant};

use anyhow::Result;

use crate::scenarios::When;

type Check = for<'a> fn(&'a mut Bench) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

macro_rules! checks {
    ($($module:ident::$name:ident $(: $when:ident)?),+ $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), when!($($when)?), |bench| Box::pin($module::$name(bench)))),+]
    };
}

macro_rules! when {
    () => {
        When::Sample
    };
    ($when:ident) => {
        When::$when
    };
}

/// In this order: what merely looks comes first. What waits long, and has a shorter one of its kind beside it, runs when all are
/// asked for.
const CHECKS: &[(&str, When, Check)] = checks![
    catalog::columns_have_greenplum_types,
    catalog::keys_are_unique,
    catalog::direct_writes_need_a_setting,
    catalog::functions_add_and_remove_rows,
    access::identity_is_shown_in_utility_mode,
    access::segments_refuse_normal_sessions,
    access::mirrors_refuse_everybody,
    access::a_probe_cannot_be_asked_in_utility_mode,
    access::statements_reach_every_content,
    rights::the_operators_role_needs_no_superuser_where_greenplum_has_monitors,
    rights::a_supervisors_role_needs_to_log_in_and_nothing_else,
    bounded::what_a_role_has_set_bounds_no_session,
    bounded::what_is_set_for_a_database_or_all_of_a_server_bounds_no_session,
    tls::a_server_without_it_is_told_apart,
    tls::each_mode_holds_what_libpq_says_of_it,
    tls::an_expired_certificate_is_told_as_that,
    tls::tools_are_told_by_the_environment,
    tls::authorities_are_replaced_under_one_login,
    product::the_coordinator_is_read,
    encodings::a_row_in_another_encoding_hides_no_other,
    product::a_primary_is_read,
    product::a_mirror_is_known_by_its_refusal,
    product::fts_and_dispatch_answer,
    product::a_directory_is_read,
    sizes::what_a_copy_takes_is_measured,
    sizes::what_takes_too_long_is_given_up_at_the_server_too,
    strangers::a_server_that_works_for_a_tool_is_seen_to,
    tools::versions_are_told,
    tools::base_backup_wants_a_dbid_and_an_empty_directory,
    tools::base_backup_overwrites_when_forced,
    tools::base_backup_fails_while_the_slot_is_used,
    tools::inherited_lock_is_held_until_the_last_process_is_gone,
    mirror::a_dead_mirror_has_grace_then_is_marked_down,
    mirror::a_short_absence_of_the_mirror_is_nothing,
    failover::a_primary_back_within_the_retries_is_not_replaced,
    failover::catalog_changes_before_the_mirror_is_promoted,
    failover::a_stale_primary_opens_when_nobody_stops_it,
    failover::both_dead_in_sync_flips_and_resends_the_promotion,
    failover::double_fault_changes_nothing: All,
    cold::utility_mode_answers_alone_and_nothing_flips,
    cold::dispatch_hangs_until_segments_answer_and_flips_meanwhile,
    standby::it_follows_and_fts_does_not_watch_it,
    standby::activation_gives_it_the_catalog,
    standby::an_old_coordinator_opens_when_nobody_stops_it,
    supervised::a_cold_cluster_comes_up,
    supervised::a_lost_primary_stays_closed_and_is_rewound,
    supervised::an_older_catalog_neither_opens_the_replaced_primary_nor_kills_the_newer,
    supervised::an_emptied_mirror_is_copied,
    wounds::an_open_directory_and_a_stale_socket_lock_are_put_right,
    wounds::a_mirror_that_lost_a_folder_asks_for_a_full_copy,
    wounds::a_broken_line_of_the_settings_is_named,
    wounds::a_commit_log_that_may_not_be_read_is_no_damage,
    wounds::a_lost_primary_whose_commit_log_may_not_be_read_is_not_copied,
    wounds::a_copied_mirror_that_its_machine_keeps_down_asks_for_no_second_copy: All,
    remains::what_a_rewind_cannot_pass_stops_it_before_a_byte_is_written,
    remains::each_folder_that_is_gone_asks_for_a_full_copy,
    remains::a_primary_without_a_mirror_in_sync_comes_back_over_a_stale_lock,
    remains::on_a_volume_without_a_byte_left_nothing_begins_and_with_room_it_heals: All,
    strangers::a_job_that_may_not_says_so_and_leaves_a_persons_backup_alone: All,
    bounded::what_a_role_has_set_bounds_no_repair: All,
    layouts::a_copy_takes_what_is_no_page_and_leaves_links_and_bytes_as_they_are,
    bounded::a_lost_lock_on_the_source_is_taken_again_and_only_another_holder_stops_a_copy: All,
    bounded::a_copy_that_was_made_in_vain_is_taken_away,
    bounded::a_source_that_is_slow_to_measure_is_waited_for: All,
    hang::a_role_that_may_only_log_in_does_not_see_how_far_a_mirror_is,
    hang::commits_wait_for_a_frozen_mirror_no_longer_than_for_a_dead_one,
    hang::a_copy_waits_no_longer_than_a_commit,
    hang::a_mirror_whose_postgres_is_frozen_is_started_again,
    hang::a_slow_mirror_is_never_cut: All,
    hang::a_stopped_walsender_is_told_of_and_left_alone,
    hang::a_receiver_that_works_and_answers_nothing_is_neither_cut_nor_marked_down: All,
    hang::commits_wait_no_longer_for_a_mirror_that_freezes_while_it_catches_up: All,
    hang::a_stopped_walsender_that_its_mirror_has_left_is_told_of: All,
    hang::where_nobody_may_end_a_walsender_a_hang_is_told_and_nothing_is_cut: All,
    hang::a_smart_shutdown_does_not_wait_for_our_session,
    losses::a_restored_primary_that_wrote_past_its_mirror_is_not_followed,
    losses::an_original_is_judged_by_what_was_known_when_it_was_put_aside: All,
    losses::a_primary_put_back_while_its_mirror_is_in_sync_stays_closed,
    losses::a_primary_put_back_in_place_stays_closed: All,
    losses::what_was_acknowledged_alone_is_not_overwritten,
    losses::what_a_mirror_had_confirmed_before_it_was_put_back_is_not_overwritten: All,
    losses::who_served_alone_is_not_killed_on_the_word_of_an_older_catalog,
    losses::who_served_alone_once_is_a_mirror_after_a_failover: All,
    alone::what_the_mirror_has_not_flushed_since_is_not_overwritten: All,
    alone::a_mirror_that_is_promoted_and_told_nothing_serves_alone,
    person::what_was_said_of_one_promotion_says_nothing_of_the_next: All,
    person::what_was_said_of_one_activation_says_nothing_of_the_next: All,
    alone::a_mirror_is_not_opened_beside_a_primary_that_serves_alone: All,
    put_back::a_primary_put_back_to_when_it_was_the_mirror_stays_closed,
    put_back::a_primary_put_back_without_its_marks_stays_closed,
    put_back::a_primary_put_back_after_a_full_repair_is_not_followed: All,
    put_back::a_primary_put_back_after_an_incremental_repair_is_not_followed: All,
    put_back::a_source_put_back_after_the_proof_of_a_full_repair_is_not_copied: All,
    put_back::a_source_put_back_after_the_proof_of_an_incremental_repair_is_not_followed,
    put_back::a_mirror_that_reaches_beyond_the_fork_is_not_rewound: All,
    losses::a_coordinator_whose_standby_is_activated_is_fenced,
];

/// Runs the checks whose name holds one of `parts`, or all, or of those the sample, prints an outcome for each, and
/// returns how many passed and failed.
pub async fn run(parts: &[String], sample: bool) -> Result<(usize, usize)> {
    let mut bench = Bench::start().await?;
    println!("conformance of {} ({})", bench.dialect().version(), bench.folder().display());
    let (mut passed, mut failed) = (0, 0);
    let named = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part));
    for (name, _, check) in CHECKS.iter().filter(|(name, when, _)| named(name) && (!sample || *when == When::Sample)) {
        let begun = Instant::now();
        let outcome = check(&mut bench).await;
        let seconds = begun.elapsed().as_secs_f32();
        if let Err(error) = outcome {
            failed += 1;
            println!("FAILED {name} ({seconds:.1} s)\n       {error:#}");
            bench.start_again().await?;
        } else {
            passed += 1;
            println!("ok     {name} ({seconds:.1} s)");
        }
    }
    if failed > 0 {
        println!("logs and data of the last cluster: {}", bench.keep().display());
    }
    Ok((passed, failed))
}
