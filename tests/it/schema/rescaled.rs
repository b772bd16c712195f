//! Rescales of subtasks of which some had registered a change and others had not.

use dstl::types::KeyGroupRange;

use super::*;

/// The rows of one subtask.
fn own(owner: &Owner, rows: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let groups: KeyGroupRange = owner.opened.shape.key_groups;
    let has = |key: &str| (u32::from(groups.first().0)..=u32::from(groups.last().0)).contains(&group(key));
    rows.iter().filter(|(key, _)| has(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Two subtasks with `rows` in version 1, of which the second has gone to version 2; checkpoint 1 of both.
async fn mixed(daemon: &Daemon, rows: &BTreeMap<String, String>, mode: SchemaMode, materialized: bool) {
    let mut owners = vec![];
    for subtask in 0..2 {
        owners.push(Owner::subtask(daemon, (subtask, 2), 1, RestoreFrom::Empty).await);
    }
    for owner in &owners {
        let own = own(owner, rows);
        let state = owner.register(&version(1), None).await.id;
        owner.put(state, &own).await;
    }
    let changed = owners[1].register(&version(2), Some(mode)).await;
    if let Some(old) = changed.migrating_from {
        let own = own(&owners[1], rows);
        owners[1].rewrite((old, changed.id), &own, own.len() / 2).await;
    }
    for owner in &owners {
        if materialized {
            owner.materialize().await;
        }
        owner.checkpoint(1).await;
    }
}

async fn subtasks_with_and_without_a_compatible_change_become_one(inner: InnerBackend) {
    for (materialized, parallelism) in [(false, 1), (true, 1), (false, 3), (true, 3)] {
        let world = World::new();
        let rows = rows(0, 300);
        let daemon = start(&world, inner, 1);
        mixed(&daemon, &rows, SchemaMode::Compatible, materialized).await;
        daemon.crash();
        let daemon = start(&world, inner, 2);
        let mut seen = 0;
        let mut owners = vec![];
        for subtask in 0..parallelism {
            owners.push(Owner::subtask(&daemon, (subtask, parallelism), 2, RestoreFrom::Id(1)).await);
        }
        for owner in &owners {
            let own = own(owner, &rows);
            if owner.told().len() == 2 || owner.told()[0].1 == version(1) {
                let error = owner.try_register(&version(2), None).await.unwrap_err();
                assert!(error.message.contains("version 1") && error.message.contains("version 2"), "{error}");
            }
            let state = owner.register(&version(2), Some(SchemaMode::Compatible)).await;
            assert_eq!(owner.get(state.id, &own).await, own);
            assert_eq!(owner.backend.describe().states.len(), 1, "the other form is gone");
            seen += own.len();
            owner.checkpoint(2).await;
        }
        assert_eq!(seen, rows.len());
        drop(owners);
        let owner = Owner::subtask(&daemon, (0, 1), 3, RestoreFrom::Id(2)).await;
        let state = owner.register(&version(2), None).await.id;
        assert_eq!(owner.get(state, &rows).await, rows, "and rescaled again");
    }
}

async fn a_migration_goes_on_across_a_rescale(inner: InnerBackend) {
    for materialized in [false, true] {
        let world = World::new();
        let rows = rows(0, 60);
        let daemon = start(&world, inner, 1);
        mixed(&daemon, &rows, SchemaMode::Migrate, materialized).await;
        let owner = Owner::subtask(&daemon, (0, 1), 2, RestoreFrom::Id(1)).await;
        let state = owner.register(&version(2), None).await;
        let old = state.migrating_from.expect("half of it is in the old form");
        owner.rewrite((old, state.id), &rows, 1_000).await;
        owner.checkpoint(2).await;
        assert_eq!(owner.register(&version(2), None).await.migrating_from, None);
        assert_eq!(owner.get(state.id, &rows).await, rewritten(&rows));
        // The log has changes of the old form, which is gone at the cut.
        owner.checkpoint(3).await;
        for subtask in 0..2 {
            let owner = Owner::subtask(&daemon, (subtask, 2), 3, RestoreFrom::Id(3)).await;
            let own = own(&owner, &rows);
            assert_eq!(owner.told().len(), 1);
            let state = owner.register(&version(2), None).await.id;
            assert_eq!(owner.get(state, &own).await, rewritten(&own));
        }
    }
}

on_both! {
    subtasks_with_and_without_a_compatible_change_become_one
    a_migration_goes_on_across_a_rescale
}
