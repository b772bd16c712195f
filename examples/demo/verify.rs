//! The comparison of the state with the straightforward count, entry by entry.

use dstl_client::{
    Applied, Backend, BatchBuilder, Client, ClientError, RawOperation, Session, State as _,
    proto::v1::{OperationKind, OperationResult, Outcome},
};

use super::{count::Count, input::Input, states::States};

/// Words of one batch of reads.
const BATCH_WORDS: usize = 500;

/// Most differences that are told one by one.
const MAX_TOLD: usize = 10;

/// The result of the comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Number of entries compared.
    pub(super) entries: u64,
    /// Entries that differ, and entries that should not exist.
    pub(super) mismatches: u64,
    /// The first differences, for people.
    pub(super) told: Vec<String>,
}

impl Comparison {
    fn compare<T: PartialEq + std::fmt::Debug>(&mut self, what: impl FnOnce() -> String, found: &T, expected: &T) {
        self.entries += 1;
        if found != expected {
            self.mismatches += 1;
            if self.told.len() < MAX_TOLD {
                self.told.push(format!("{} is {found:?} and should be {expected:?}", what()));
            }
        }
    }

    /// Counts entries that nothing should have made.
    fn compare_entries(&mut self, state: &str, found: u64, expected: u64) {
        if found != expected {
            // Entries that are missing or wrong are counted where they are compared.
            self.mismatches += found.saturating_sub(expected).max(1);
            self.told.push(format!("state `{state}` has {found} entries and should have {expected}"));
        }
    }
}

/// Compares everything in `backend` with `count`.
pub(super) async fn compare(
    client: &Client,
    backend: &Backend,
    input: &Input,
    count: &Count<'_>,
) -> Result<Comparison, ClientError> {
    let session = backend.session().await?;
    let states = States::register(backend).await?;
    let mut comparison = Comparison::default();
    let words: Vec<&str> = count.words.keys().copied().collect();
    for some in words.chunks(BATCH_WORDS) {
        compare_words(&session, &states, some, count, &mut comparison).await?;
    }
    let windows: Vec<_> = count.windows.iter().collect();
    for some in windows.chunks(BATCH_WORDS) {
        let mut batch = session.batch();
        let reads: Vec<_> =
            some.iter().map(|((file, window), _)| batch.push(states.windows.namespace(window).get(file))).collect();
        let applied = session.send(batch).await?.applied().await?;
        for (read, ((file, window), expected)) in reads.into_iter().zip(some) {
            let found = applied.get(read)?;
            comparison.compare(|| format!("words of file {file} in window {window}"), &found, &Some(**expected));
        }
    }
    for (number, file) in (0_u64..).zip(&input.files) {
        let found = session.run(states.files.get(&number)).await?;
        comparison.compare(|| format!("file {number}"), &found.as_deref(), &Some(file.path.as_str()));
    }
    session.close().await?;
    count_entries(client, backend, input, count, &mut comparison).await?;
    Ok(comparison)
}

async fn compare_words(
    session: &Session,
    states: &States,
    words: &[&str],
    count: &Count<'_>,
    comparison: &mut Comparison,
) -> Result<(), ClientError> {
    let mut batch = session.batch();
    let numbered = [("count", &states.count), ("first", &states.first), ("last", &states.last)];
    let reads: Vec<_> = words.iter().map(|word| numbered.map(|(_, state)| batch.push(state.get(*word)))).collect();
    let numbers = session.send(batch).await?.applied().await?;
    let mut batch = BatchBuilder::new();
    for word in words {
        let (kind, state, key) = (OperationKind::ListGet, states.in_files.id(), word.as_bytes());
        batch.push(RawOperation { kind, state, key, ..RawOperation::default() });
    }
    let lists = session.send(batch).await?.applied().await?;
    for (at, (word, reads)) in words.iter().zip(reads).enumerate() {
        let Some(expected) = count.words.get(word) else { continue };
        let wanted = [expected.count, expected.first, expected.last];
        for ((read, (state, _)), wanted) in reads.into_iter().zip(numbered).zip(wanted) {
            comparison.compare(|| format!("`{state}` of `{word}`"), &numbers.get(read)?, &Some(wanted));
        }
        let found = match whole_list(&lists, at) {
            Some(list) => list,
            None => states.in_files.scan(*word).collect(session).await?,
        };
        comparison.compare(|| format!("`in_files` of `{word}`"), &found, &expected.files);
    }
    Ok(())
}

/// The list that operation `at` read, if all of it is there.
fn whole_list(lists: &Applied, at: usize) -> Option<Vec<u64>> {
    let result: &OperationResult = lists.result(at)?;
    if result.more || result.outcome() != Outcome::Done {
        return None;
    }
    result.elements.iter().map(|element| Some(u64::from_le_bytes(element.as_ref().try_into().ok()?))).collect()
}

/// Compares the numbers of entries, so that superfluous entries are found.
async fn count_entries(
    client: &Client,
    backend: &Backend,
    input: &Input,
    count: &Count<'_>,
    comparison: &mut Comparison,
) -> Result<(), ClientError> {
    let described = client.describe(Some(backend.reference())).await?;
    let described = described.into_iter().next().ok_or(ClientError::Incomplete("the description"))?;
    let words = count.words.len() as u64;
    let listed = count.words.values().map(|word| word.files.len() as u64).sum();
    let expected = [
        ("count", words),
        ("first", words),
        ("last", words),
        ("in_files", listed),
        ("windows", count.windows.len() as u64),
        ("files", input.files.len() as u64),
    ];
    for state in &described.states {
        let name = state.state.as_ref().and_then(|state| state.descriptor.as_ref()).map_or("", |it| it.name.as_str());
        let expected = expected.iter().find(|(expected, _)| *expected == name).map_or(0, |(_, entries)| *entries);
        comparison.compare_entries(name, state.entries, expected);
    }
    Ok(())
}
