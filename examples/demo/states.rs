//! The states of the word count, and the position of the task in its input.
//!
//! | state | key | namespace | kind | content |
//! | --- | --- | --- | --- | --- |
//! | `count` | word | | value, summed | how often it occurs |
//! | `first`, `last` | word | | value, minimum and maximum | its first and its last record |
//! | `in_files` | word | | list | the files that have it, by number, in order |
//! | `windows` | file's number | window | value, summed | words of the file in the window |
//! | `files` | file's number | | value | its path |
//!
//! A window is [`WINDOW_RECORDS`] consecutive records.

use bytes::Bytes;

use dstl_client::{Backend, ClientError, ListState, StateOptions, ValueState, types::MergeFunction};

/// Records of one window.
pub(super) const WINDOW_RECORDS: u64 = 10_000;

/// Name of the operator.
pub(super) const OPERATOR: &str = "word-count";

/// The handles of all states.
#[derive(Debug, Clone)]
pub(super) struct States {
    pub(super) count: ValueState<str, i64>,
    pub(super) first: ValueState<str, i64>,
    pub(super) last: ValueState<str, i64>,
    pub(super) in_files: ListState<str, u64>,
    pub(super) windows: ValueState<u64, i64>,
    pub(super) files: ValueState<u64, String>,
}

impl States {
    /// Registers all states.
    pub(super) async fn register(backend: &Backend) -> Result<Self, ClientError> {
        let merged = |merge| StateOptions::new().with_merge(merge);
        Ok(Self {
            count: backend.value_state("count", merged(MergeFunction::SumI64)).await?,
            first: backend.value_state("first", merged(MergeFunction::MinI64)).await?,
            last: backend.value_state("last", merged(MergeFunction::MaxI64)).await?,
            in_files: backend.list_state("in_files", StateOptions::new()).await?,
            windows: backend.value_state("windows", merged(MergeFunction::SumI64)).await?,
            files: backend.value_state("files", StateOptions::new()).await?,
        })
    }
}

/// The position of the task. As attachment of its checkpoints it is four numbers of 8 bytes, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    /// The next record.
    pub(super) record: u64,
    /// Offset in the input's text behind the last record, or behind the last finished file.
    pub(super) byte: u64,
    /// The first record of the present file.
    pub(super) file_record: u64,
    /// Updates so far.
    pub(super) updates: u64,
}

impl Cursor {
    /// In the form of an attachment.
    pub(super) fn encode(self) -> Bytes {
        [self.record, self.byte, self.file_record, self.updates].map(u64::to_le_bytes).concat().into()
    }

    /// The position in an attachment; `None` if it has another form.
    pub(super) fn decode(attachment: &[u8]) -> Option<Self> {
        let (numbers, rest) = attachment.as_chunks::<8>();
        let [record, byte, file_record, updates] = *numbers else { return None };
        let [record, byte, file_record, updates] = [record, byte, file_record, updates].map(u64::from_le_bytes);
        rest.is_empty().then_some(Self { record, byte, file_record, updates })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn the_attachment_tells_the_cursor() {
        let cursor = Cursor { record: 1, byte: 2, file_record: 3, updates: u64::MAX };
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
        assert_eq!(Cursor::decode(b""), None);
        assert_eq!(Cursor::decode(&[0; 33]), None);
    }
}
