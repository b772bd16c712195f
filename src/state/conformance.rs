//! The contract of inner backends, as callable checks.
//!
//! Each check takes a factory of empty backends and panics if the backend deviates; [`all`] calls each. The checks
//! drive the backend through [`execute`](super::op::execute), as the daemon does. They compare the results of reads and
//! the log, and check that replaying the log makes an equal backend.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[cfg(test)]
pub(crate) mod aging;
mod bench;
mod contract;
mod lists;
mod maps;
mod merges;
#[cfg(test)]
pub(crate) mod model;
mod namespaces;
mod pieces;
#[cfg(test)]
pub(crate) mod snapshot;
mod timers;
mod ttl;
mod ttl_lists;
mod values;

use self::bench::Bench;
use super::StateBackend;
use crate::types::KeyGroupRange;

/// Makes an empty backend for a range of key groups.
pub type Factory<'a> = &'a dyn Fn(KeyGroupRange) -> Box<dyn StateBackend>;

/// A check of one behaviour.
pub type Check = fn(Factory<'_>);

/// Every check for any backend, with its name.
pub const CHECKS: &[(&str, Check)] = &[
    ("values_are_set_read_and_cleared", values::values_are_set_read_and_cleared),
    ("states_keys_and_namespaces_are_independent", values::states_keys_and_namespaces_are_independent),
    ("numbers_merge", values::numbers_merge),
    ("appends_stop_at_the_limit", values::appends_stop_at_the_limit),
    ("counts_and_averages_merge", merges::counts_and_averages_merge),
    ("sets_and_sketches_grow_by_what_is_new", merges::sets_and_sketches_grow_by_what_is_new),
    ("sets_and_sketches_stop_at_the_limit", merges::sets_and_sketches_stop_at_the_limit),
    ("what_does_not_fit_its_function_is_refused", merges::what_does_not_fit_its_function_is_refused),
    ("maps_are_ordered", maps::maps_are_ordered),
    ("map_pages_join_to_the_whole", maps::map_pages_join_to_the_whole),
    ("map_pages_keep_to_a_range_and_a_prefix", maps::map_pages_keep_to_a_range_and_a_prefix),
    ("map_entries_are_removed_and_cleared", maps::map_entries_are_removed_and_cleared),
    ("map_entries_merge", maps::map_entries_merge),
    ("lists_keep_their_order", lists::lists_keep_their_order),
    ("lists_are_replaced_and_cleared", lists::lists_are_replaced_and_cleared),
    ("list_pages_join_to_the_whole", lists::list_pages_join_to_the_whole),
    ("namespaces_of_values_merge", namespaces::namespaces_of_values_merge),
    ("namespaces_of_lists_merge_in_order", namespaces::namespaces_of_lists_merge_in_order),
    ("namespaces_of_maps_unite", namespaces::namespaces_of_maps_unite),
    ("namespaces_beyond_the_limit_stay_as_they_are", namespaces::namespaces_beyond_the_limit_stay_as_they_are),
    ("namespaces_without_anything_log_nothing", namespaces::namespaces_without_anything_log_nothing),
    ("timers_come_in_order_of_time_key_and_namespace", timers::timers_come_in_order_of_time_key_and_namespace),
    ("timers_are_there_once_and_deleted_once", timers::timers_are_there_once_and_deleted_once),
    ("timers_fire_up_to_a_time_and_a_limit", timers::timers_fire_up_to_a_time_and_a_limit),
    ("pages_of_timers_join_to_the_whole_while_some_come_and_go", timers::pages_join_while_some_come_and_go),
    ("many_timers_fire_while_others_are_registered", timers::many_timers_fire_while_others_are_registered),
    ("reads_are_never_logged", contract::reads_are_never_logged),
    ("what_changes_nothing_is_not_logged", contract::what_changes_nothing_is_not_logged),
    ("names_are_paged_in_a_lasting_order", contract::names_are_paged_in_a_lasting_order),
    ("entries_and_bytes_follow_the_contents", contract::entries_and_bytes_follow_the_contents),
    ("changes_that_do_not_fit_change_nothing", contract::changes_that_do_not_fit_change_nothing),
    ("values_expire_when_their_time_is_over", ttl::values_expire_when_their_time_is_over),
    ("what_is_expired_is_shown_until_it_is_gone", ttl::what_is_expired_is_shown_until_it_is_gone),
    ("reads_touch_where_they_are_told_to", ttl::reads_touch_where_they_are_told_to),
    ("map_entries_expire_by_themselves", ttl::map_entries_expire_by_themselves),
    ("merges_go_on_with_what_is_visible", ttl::merges_go_on_with_what_is_visible),
    ("list_elements_expire_by_themselves", ttl_lists::list_elements_expire_by_themselves),
    (
        "pages_of_a_list_miss_nothing_that_lives_while_others_expire",
        ttl_lists::pages_of_a_list_miss_nothing_that_lives_while_others_expire,
    ),
    ("long_lists_are_paged_over_what_is_gone", ttl_lists::long_lists_are_paged_over_what_is_gone),
    ("keys_are_those_of_visible_entries", ttl::keys_are_those_of_visible_entries),
    ("merged_namespaces_leave_behind_what_is_expired", ttl::merged_namespaces_leave_behind_what_is_expired),
    ("in_turn_entries_are_cleaned_up_and_the_living_stay", ttl::in_turn_entries_are_cleaned_up_and_the_living_stay),
];

/// Every check for a backend that is copied by pieces, with its name.
pub const PIECE_CHECKS: &[(&str, Check)] = &[
    ("pieces_rebuild_every_kind", pieces::pieces_rebuild_every_kind),
    ("pieces_start_where_they_are_told", pieces::pieces_start_where_they_are_told),
    ("nothing_is_copied_of_what_was_never_written", pieces::nothing_is_copied_of_what_was_never_written),
    ("stamps_of_changes_are_found", pieces::stamps_of_changes_are_found),
];

/// Runs every check that fits the backend.
///
/// # Panics
/// If the backend deviates.
pub fn all(factory: Factory<'_>) {
    let by_pieces = factory(bench::range()).pieces().is_some();
    for (name, check) in CHECKS.iter().chain(PIECE_CHECKS.iter().filter(|_| by_pieces)) {
        tracing::debug!(check = name, "conformance");
        check(factory);
    }
}
