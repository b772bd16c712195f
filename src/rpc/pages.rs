//! Divides answers that are longer than a client may take into pages.
//!
//! No limit bounds the sum of everything in a backend: states with long names and default values, attachments of many
//! subtasks. So an answer that does not fit into one message is sent as several: before `Opened` and `QueryStarted` in
//! the same stream, and by further calls of `Describe`. An answer that fits is sent as one message.

use prost::Message;

use super::convert;
use crate::{
    backend::{Backend, Directory},
    error::{Error, Reason},
    proto::v1::{
        self, BackendDescription, DescribeResponse, Opened, OpenedPart, QueryStarted, QueryStates, open_response,
        query_response,
    },
    types::BackendId,
};

/// Length of a message that a client takes by default, in gRPC.
const USUAL_BYTES: usize = 4 << 20;

/// Size of a page in bytes; its memory is held while it waits.
const PAGE_BYTES: usize = 1 << 20;

/// Bytes of tags and lengths around a message.
const ENVELOPE_BYTES: usize = 64;

/// Longest answer, if messages may have `max_message_bytes`.
fn longest(max_message_bytes: usize) -> usize {
    max_message_bytes.min(USUAL_BYTES).saturating_sub(ENVELOPE_BYTES)
}

/// Divides `items`, in order, into pages of about `page_bytes`.
fn cut<T: Message>(items: Vec<T>, page_bytes: usize) -> Vec<Vec<T>> {
    let mut pages: Vec<Vec<T>> = vec![];
    // Full, so that the first item begins the first page.
    let mut bytes = usize::MAX;
    for item in items {
        let length = item.encoded_len() + ENVELOPE_BYTES;
        bytes = bytes.saturating_add(length);
        match pages.last_mut() {
            Some(page) if bytes <= page_bytes => page.push(item),
            _ => {
                bytes = length;
                pages.push(vec![item]);
            }
        }
    }
    pages
}

/// The messages that tell that a backend is open: `opened` alone, or after its lists.
pub(super) fn opened(mut opened: Opened, max_message_bytes: usize) -> Vec<open_response::Response> {
    let most = longest(max_message_bytes);
    let mut pages = vec![];
    if opened.encoded_len() > most {
        let page = most.min(PAGE_BYTES);
        let states = cut(std::mem::take(&mut opened.states), page);
        pages.extend(states.into_iter().map(|states| OpenedPart { states, ..OpenedPart::default() }));
        let parts = cut(std::mem::take(&mut opened.parts), page);
        pages.extend(parts.into_iter().map(|parts| OpenedPart { parts, ..OpenedPart::default() }));
        let skipped = cut(std::mem::take(&mut opened.skipped), page);
        pages.extend(skipped.into_iter().map(|skipped| OpenedPart { skipped, ..OpenedPart::default() }));
    }
    let last = open_response::Response::Opened(opened);
    pages.into_iter().map(open_response::Response::Part).chain([last]).collect()
}

/// The messages that tell that a query has begun: `started` alone, or after its states.
pub(super) fn started(mut started: QueryStarted, max_message_bytes: usize) -> Vec<query_response::Response> {
    let most = longest(max_message_bytes);
    let mut pages = vec![];
    if started.encoded_len() > most {
        pages = cut(std::mem::take(&mut started.states), most.min(PAGE_BYTES));
    }
    let last = query_response::Response::Started(started);
    pages.into_iter().map(|states| query_response::Response::States(QueryStates { states })).chain([last]).collect()
}

/// The beginning of the next page of a description: the backend, and how many of its states were described.
#[derive(Clone, PartialEq, Message)]
struct Place {
    #[prost(message, optional, tag = "1")]
    backend: Option<v1::BackendId>,
    #[prost(uint64, tag = "2")]
    states: u64,
}

/// Describes the backends of `directory` that the caller `may_see`, or one of them, from `token` on, as far as they fit
/// into a message.
///
/// # Errors
/// If the token was not made here, or the one backend is not open.
pub(super) fn describe(
    directory: &Directory,
    only: Option<&BackendId>,
    token: &[u8],
    may_see: impl Fn(&BackendId) -> bool,
) -> Result<DescribeResponse, Error> {
    let none_of_ours = |_| Error::new(Reason::InvalidArgument, "`page_token` is none that Describe gave");
    let place = Place::decode(token).map_err(none_of_ours)?;
    let first = place.backend.as_ref().map(|id| convert::backend_id(Some(id))).transpose()?;
    let mut wanted: Vec<BackendId> = match only {
        Some(id) => vec![id.clone()],
        None => directory.backends().iter().map(Backend::id).filter(|id| may_see(id)).cloned().collect(),
    };
    // By name, not by position: backends may be opened and closed between two pages.
    wanted.retain(|id| first.as_ref().is_none_or(|first| id >= first));
    wanted.sort();
    let most = longest(directory.environment().options.limits.max_message_bytes);
    let mut answer = DescribeResponse::default();
    let mut bytes = 0;
    for id in wanted {
        let skip = if first.as_ref() == Some(&id) { place.states } else { 0 };
        let described = match directory.describe(Some(&id)) {
            Ok(described) => described,
            // The backend was closed meanwhile.
            Err(error) if only.is_none() && error.reason == Reason::BackendNotOpen => continue,
            Err(error) => return Err(error),
        };
        for mut description in described.iter().map(convert::to_description) {
            let room = (!answer.backends.is_empty()).then(|| most.saturating_sub(bytes));
            let (kept, rest) = fit(&mut description, skip, room.unwrap_or(most), room.is_none());
            if kept {
                bytes += description.encoded_len() + ENVELOPE_BYTES;
                answer.backends.push(description);
            }
            if let Some(states) = rest {
                let (job, operator) = (id.job.to_string(), id.operator.to_string());
                let backend = Some(v1::BackendId { job, operator, subtask: id.subtask });
                answer.next_page_token = Place { backend, states }.encode_to_vec().into();
                return Ok(answer);
            }
        }
    }
    Ok(answer)
}

/// Keeps in `description` the states from `skip` on that fit into `room`. Returns whether it goes on this page, and the
/// state with which the next page begins, if there is one. On an `is_fresh` page, something always fits.
fn fit(description: &mut BackendDescription, skip: u64, room: usize, is_fresh: bool) -> (bool, Option<u64>) {
    let states = std::mem::take(&mut description.states);
    let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(states.len());
    let mut bytes = description.encoded_len() + ENVELOPE_BYTES;
    let mut left = states.into_iter().skip(skipped).peekable();
    if bytes > room && !is_fresh {
        return (false, Some(0));
    }
    let fits =
        |bytes: usize, description: &BackendDescription| bytes <= room || (is_fresh && description.states.is_empty());
    while let Some(state) = left.peek() {
        bytes += state.encoded_len() + ENVELOPE_BYTES;
        if !fits(bytes, description) {
            break;
        }
        description.states.extend(left.next());
    }
    let next = (skipped + description.states.len()) as u64;
    (true, left.peek().map(|_| next))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const MESSAGE: usize = 100_000;

    fn state(id: u32, bytes: usize) -> v1::RegisteredState {
        let descriptor = v1::StateDescriptor { name: "n".repeat(bytes), ..Default::default() };
        v1::RegisteredState { id, descriptor: Some(descriptor), ..Default::default() }
    }

    #[test]
    fn an_opened_backend_that_fits_is_told_as_ever_and_one_that_does_not_in_pages() {
        let part = |subtask| v1::RestoredPart { subtask, attachment: vec![7; 9_000].into(), ..Default::default() };
        let skipped = |id| v1::DamagedCheckpoint {
            checkpoint: Some(v1::JobCheckpoint { attempt: 1, id }),
            what: "w".repeat(5_000),
        };
        for (states, parts, damaged) in [(3, 2, 1), (200, 0, 0), (0, 50, 0), (0, 0, 40), (300, 30, 30)] {
            let whole = Opened {
                applied_to: 7,
                states: (0..states).map(|id| state(id, 1_000)).collect(),
                parts: (0..parts).map(part).collect(),
                skipped: (0..damaged).map(skipped).collect(),
                ..Opened::default()
            };
            let mut pages = opened(whole.clone(), MESSAGE);
            assert_eq!(pages.len() == 1, whole.encoded_len() < MESSAGE - ENVELOPE_BYTES);
            let Some(open_response::Response::Opened(last)) = pages.pop() else { panic!("it ends with `opened`") };
            let mut joined = Opened { states: vec![], parts: vec![], skipped: vec![], ..last.clone() };
            for page in pages {
                let open_response::Response::Part(page) = page else { panic!("{page:?}") };
                assert!(page.encoded_len() <= MESSAGE);
                joined.states.extend(page.states);
                joined.parts.extend(page.parts);
                joined.skipped.extend(page.skipped);
            }
            joined.states.extend(last.states);
            joined.parts.extend(last.parts);
            joined.skipped.extend(last.skipped);
            assert_eq!(joined, whole);
        }
    }

    #[test]
    fn one_entry_that_is_longer_than_a_page_comes_alone() {
        let pages = cut(vec![state(1, 10), state(2, 5_000), state(3, 10), state(4, 10)], 1_000);
        let ids: Vec<Vec<u32>> = pages.iter().map(|page| page.iter().map(|state| state.id).collect()).collect();
        assert_eq!(ids, [vec![1], vec![2], vec![3, 4]]);
    }

    #[test]
    fn a_description_goes_on_where_its_page_ended() {
        let whole = BackendDescription {
            states: (0..10)
                .map(|id| v1::StateDescription { state: Some(state(id, 1_000)), ..Default::default() })
                .collect(),
            ..Default::default()
        };
        let (mut skip, mut seen) = (0, vec![]);
        loop {
            let mut page = whole.clone();
            let (kept, next) = fit(&mut page, skip, 4_000, true);
            assert!(kept && page.encoded_len() <= 4_000 && !page.states.is_empty());
            seen.extend(page.states);
            match next {
                Some(next) => skip = next,
                None => break,
            }
        }
        assert_eq!(seen, whole.states);
        assert_eq!(fit(&mut whole.clone(), 9, 10, true), (true, None), "one that is too long comes alone");
        assert_eq!(fit(&mut whole.clone(), 0, 10, false), (false, Some(0)), "it begins on the next page");
    }
}
