//! One local copy as a file: a head with its name, label and checksums, then the bytes of the object.
//!
//! ```text
//!   0        8         12        16              16+n      20+n
//!   │ magic  │ version │ n       │ n bytes       │ crc     │ the object …
//!   │ 8 byte │ u32     │ u32     │ `LocalCopy`   │ u32     │            CRC-32 of all bytes of the head before it
//! ```
//!
//! Numbers are little-endian. `LocalCopy` (`proto/dstl/store/v1/local.proto`) has a CRC-32 for each [`CHUNK_BYTES`] of
//! the object, so that a range is verified without reading the whole object. A file of another version is not used.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::Range,
    os::unix::fs::FileExt as _,
};

use bytes::Bytes;
use object_store::{PutPayload, path::Path};
use prost::Message as _;

use super::wants::{Label, Part, Use};
use crate::{
    object::layout::ObjectName,
    proto::store,
    types::{BackendId, Name, Sqn, SqnRange},
};

const MAGIC: &[u8; 8] = b"DSTLCOPY";
const VERSION: u32 = 1;
const FIXED_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// Number of bytes of the object that one checksum covers.
const CHUNK_BYTES: u64 = 256 << 10;

/// Longest head that is read. It suffices for objects of many gigabytes.
const MAX_HEAD_BYTES: u32 = 64 << 20;

/// The head of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) path: Path,
    pub(super) label: Label,
    /// Length of the object in bytes.
    pub(super) length: u64,
    /// Length of the head in bytes, which is the offset of the object in the file.
    offset: u64,
    crcs: Vec<u32>,
}

impl Head {
    /// The head of a copy of `payload`.
    pub(super) fn of(path: Path, payload: &PutPayload, label: Label) -> Self {
        let (mut crcs, mut hasher, mut room) = (vec![], crc32fast::Hasher::new(), CHUNK_BYTES);
        for mut rest in payload.iter().map(|bytes| &bytes[..]) {
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
                // Chunks of the payload and chunks of the checksums do not end at the same places, so a hash goes on
                // over several of the former.
                hasher.update(now);
                (rest, room) = (later, room - now.len() as u64);
                if room == 0 {
                    crcs.push(std::mem::take(&mut hasher).finalize());
                    room = CHUNK_BYTES;
                }
            }
        }
        if room < CHUNK_BYTES {
            crcs.push(hasher.finalize());
        }
        let mut head = Self { path, label, length: payload.content_length() as u64, offset: 0, crcs };
        head.offset = head.encode().len() as u64;
        head
    }

    /// The bytes of the file before the object.
    pub(super) fn encode(&self) -> Bytes {
        let usage = |usage: &Use| {
            let (log, file) = match usage.part {
                Part::Log(range) => (Some(store::LocalCopyLog { from: range.from.0, to: range.to.0 }), None),
                Part::File { epoch, number } => (None, Some(store::LocalCopyFile { epoch, number })),
            };
            store::LocalCopyUse {
                operator: usage.backend.operator.to_string(),
                subtask: usage.backend.subtask,
                log,
                file,
            }
        };
        let message = store::LocalCopy {
            path: self.path.to_string(),
            length: self.length,
            crcs: self.crcs.clone(),
            uses: self.label.uses.iter().map(usage).collect(),
            leads_to: self.label.leads_to.iter().map(Path::to_string).collect(),
        };
        let length = u32::try_from(message.encoded_len()).expect("a head is far below 4 GiB");
        let mut out = Vec::with_capacity(FIXED_BYTES + message.encoded_len() + CRC_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        message.encode(&mut out).expect("a vector grows");
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.into()
    }

    /// Reads the head of the copy in `file`. Fails unless the file has exactly the length that the head says.
    pub(super) fn open(file: &std::path::Path) -> io::Result<Self> {
        let mut file = File::open(file)?;
        let size = file.metadata()?.len();
        let mut fixed = [0; FIXED_BYTES];
        file.read_exact(&mut fixed)?;
        let [magic @ .., v0, v1, v2, v3, n0, n1, n2, n3] = fixed;
        let length = u32::from_le_bytes([n0, n1, n2, n3]);
        if magic != *MAGIC || u32::from_le_bytes([v0, v1, v2, v3]) != VERSION || length > MAX_HEAD_BYTES {
            return Err(damaged("not a local copy of this version"));
        }
        // At most `MAX_HEAD_BYTES`, as checked above: a damaged length takes no more memory.
        let mut rest = vec![0; length as usize + CRC_BYTES];
        file.read_exact(&mut rest)?;
        let (message, crc) = rest.split_at(length as usize);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&fixed);
        hasher.update(message);
        if crc != hasher.finalize().to_le_bytes() {
            return Err(damaged("the checksum of the head is wrong"));
        }
        let head = Self::decode(message).ok_or_else(|| damaged("the head is not what this version writes"))?;
        // A crash of the host may have cut the file, which was not synced.
        if Some(size) != head.offset.checked_add(head.length) {
            return Err(damaged("not as long as its head says"));
        }
        Ok(head)
    }

    fn decode(message: &[u8]) -> Option<Self> {
        let offset = (FIXED_BYTES + message.len() + CRC_BYTES) as u64;
        let message = store::LocalCopy::decode(message).ok()?;
        let path = Path::parse(&message.path).ok()?;
        // All uses are of the job of the object, so the head does not repeat it.
        let job = ObjectName::parse(&path)?.job().clone();
        let usage = |usage: store::LocalCopyUse| {
            let operator = Name::new(&usage.operator).ok()?;
            let part = match (usage.log, usage.file) {
                (Some(log), None) => Part::Log(SqnRange { from: Sqn(log.from), to: Sqn(log.to) }),
                (None, Some(file)) => Part::File { epoch: file.epoch, number: file.number },
                _ => return None,
            };
            Some(Use { backend: BackendId { job: job.clone(), operator, subtask: usage.subtask }, part })
        };
        let label = Label {
            uses: message.uses.into_iter().map(usage).collect::<Option<_>>()?,
            leads_to: message.leads_to.iter().map(Path::parse).collect::<Result<_, _>>().ok()?,
            is_image: false,
        };
        let chunks = message.length.div_ceil(CHUNK_BYTES);
        // One checksum for each chunk. With fewer, the last parts of the object would be read unverified.
        (message.crcs.len() as u64 == chunks).then_some(Self {
            path,
            label,
            length: message.length,
            offset,
            crcs: message.crcs,
        })
    }

    /// The bytes of the object in `range`, or all of them, verified. `None` if the object ends before the range does.
    ///
    /// # Errors
    /// The bytes cannot be read, or a checksum does not match.
    pub(super) fn read(&self, file: &std::path::Path, range: Option<Range<u64>>) -> io::Result<Option<Bytes>> {
        let range = range.unwrap_or(0..self.length);
        if range.end > self.length {
            return Ok(None);
        }
        let first = range.start / CHUNK_BYTES;
        // Whole chunks, because only they have checksums.
        let (from, to) = (first * CHUNK_BYTES, range.end.next_multiple_of(CHUNK_BYTES).min(self.length));
        let mut bytes = vec![0; addressed(to - from)];
        File::open(file)?.read_exact_at(&mut bytes, self.offset + from)?;
        let crcs = self.crcs.iter().skip(addressed(first));
        for (chunk, crc) in bytes.chunks(addressed(CHUNK_BYTES)).zip(crcs) {
            if crc32fast::hash(chunk) != *crc {
                return Err(damaged("the checksum of a part is wrong"));
            }
        }
        let within = addressed(range.start - from)..addressed(range.end - from);
        Ok(Some(Bytes::from(bytes).slice(within)))
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn addressed(bytes: u64) -> usize {
    usize::try_from(bytes).expect("no host addresses fewer bits than a length that it allocates")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use std::{fs, path::PathBuf};

    use proptest::prelude::*;

    use super::*;

    const SEGMENT: &str = "wc/segments/00000000-0000-0000-0000-000000000001/00000000000000000007";

    fn label() -> Label {
        let backend =
            |subtask| BackendId { job: Name::new("wc").unwrap(), operator: Name::new("count").unwrap(), subtask };
        let range = SqnRange { from: Sqn(5), to: Sqn(1 << 41) };
        let uses = vec![
            Use { backend: backend(0), part: Part::Log(range) },
            Use { backend: backend(7), part: Part::File { epoch: 3, number: 12 } },
        ];
        Label { uses, leads_to: vec![Path::from("wc/operators/count/7/snapshot/x/y")], is_image: false }
    }

    /// A copy of `parts`, and its head as read back.
    fn written(parts: &[&[u8]]) -> (tempfile::TempDir, PathBuf, Head) {
        let payload = PutPayload::from_iter(parts.iter().map(|part| Bytes::copy_from_slice(part)));
        let head = Head::of(Path::from(SEGMENT), &payload, label());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("copy");
        let mut bytes = head.encode().to_vec();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        fs::write(&file, bytes).unwrap();
        let read = Head::open(&file).unwrap();
        assert_eq!(read, head);
        (folder, file, read)
    }

    #[test]
    fn a_copy_reads_as_the_version_that_wrote_it() {
        let (_folder, file, _) = written(&[b"first, ", b"second"]);
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/local-copy-v1.bin");
        if !golden.exists() {
            fs::copy(&file, &golden).unwrap();
        }
        assert_eq!(fs::read(&golden).unwrap(), fs::read(&file).unwrap(), "a format that changes gets a new version");
        let head = Head::open(&golden).unwrap();
        assert_eq!(head.label, label());
        assert_eq!(head.read(&golden, Some(3..9)).unwrap().unwrap(), "st, se");
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (_folder, file, head) = written(&[b"some", b" bytes"]);
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&file, &bytes).unwrap();
            let read = Head::open(&file).and_then(|head| head.read(&file, None));
            assert!(read.is_err(), "byte {at}");
        }
        for end in 0..whole.len() {
            fs::write(&file, &whole[..end]).unwrap();
            assert!(Head::open(&file).is_err(), "cut at {end}");
        }
        fs::write(&file, &whole).unwrap();
        assert_eq!(head.read(&file, None).unwrap().unwrap(), "some bytes");
        assert_eq!(head.read(&file, Some(5..11)).unwrap(), None, "the object has 10 bytes");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_range_of_any_object_is_what_was_written(
            lengths in prop::collection::vec(0..400_000_usize, 0..4),
            a in 0.0..=1.0_f64,
            b in 0.0..=1.0_f64,
        ) {
            let parts: Vec<Vec<u8>> =
                lengths.iter().enumerate().map(|(i, n)| (0..*n).map(|at| (at * 31 + i) as u8).collect()).collect();
            let (_folder, file, head) = written(&parts.iter().map(|part| &part[..]).collect::<Vec<_>>());
            let whole = parts.concat();
            let at = |fraction: f64| (whole.len() as f64 * fraction) as usize;
            let (from, to) = (at(a.min(b)), at(a.max(b)));
            let read = head.read(&file, Some(from as u64..to as u64)).unwrap().unwrap();
            prop_assert_eq!(&read[..], &whole[from..to]);
            prop_assert_eq!(&head.read(&file, None).unwrap().unwrap()[..], &whole[..]);
        }
    }
}
