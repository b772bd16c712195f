//! The names of all objects: this file alone makes and parses paths.
//!
//! Paths are relative to the base of the store:
//!
//! ```text
//! <job>/segments/<instance uuid>/<number>
//! <job>/operators/<operator>/<subtask>/manifest/<number>
//! <job>/operators/<operator>/<subtask>/index/<epoch>/<uuid>
//! <job>/operators/<operator>/<subtask>/snapshot/<instance uuid>/<file>
//! <job>/operators/<operator>/<subtask>/retired/<number of a manifest>
//! <job>/pins/<uuid>
//! <job>/renewals/<uuid of a pin>/<number>
//! <job>/job/<number>
//! <job>/reports/<attempt>/<checkpoint id>/<operator>/<subtask>/<epoch>/<uuid>
//! <job>/clock/<uuid>
//! <job>/sweeps/<number>
//! <job>/savepoints/<savepoint>/<file, one or more levels>
//! ```
//!
//! * Operators have a level of their own, so that an operator's name (`segments`, `job`, …) never collides with a fixed
//!   name. A job's name is alone on its level.
//! * Some numbers have 20 digits with leading zeros, so that names sort like numbers: those of segments, manifests, job
//!   records, renewals and sweep leases, and the attempts and checkpoint ids of reports. Subtasks and epochs are plain
//!   decimals. UUIDs are in lower case with hyphens.
//! * `<any of these>#<n>` is a temporary file. A process that is killed while it creates an object in a local directory
//!   or on HDFS leaves such a file.
//! * A path is the name of an object exactly if [`ObjectName::parse`] returns a name whose [`ObjectName::path`] is that
//!   path.

use std::fmt;

use object_store::path::Path;
use uuid::Uuid;

use crate::types::{Attempt, BackendId, CheckpointIdentity, Name};

const SEGMENTS: &str = "segments";
const OPERATORS: &str = "operators";
const MANIFEST: &str = "manifest";
const INDEX: &str = "index";
const SNAPSHOT: &str = "snapshot";
const RETIRED: &str = "retired";
const PINS: &str = "pins";
const RENEWALS: &str = "renewals";
const JOB: &str = "job";
const REPORTS: &str = "reports";
const CLOCK: &str = "clock";
const SWEEPS: &str = "sweeps";
const SAVEPOINTS: &str = "savepoints";

/// Digits of a number in a name, as many as the largest `u64` has.
const NUMBER_DIGITS: usize = 20;

/// The name of an object: its kind, and the parts of its path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectName {
    /// One upload of a changelog.
    Segment {
        /// The job whose backends share the segment.
        job: Name,
        /// The daemon instance that wrote the segment.
        instance: Uuid,
        /// Counts the segments of the instance.
        number: u64,
    },
    /// One link of a backend's manifest chain.
    Manifest {
        /// The backend whose chain it is.
        backend: BackendId,
        /// Position in the chain.
        number: u64,
    },
    /// A mark that a manifest retired its chain, which is there even when the manifest can no longer be read. The
    /// object is empty, as its name says everything.
    Retired {
        /// The backend whose chain is retired.
        backend: BackendId,
        /// Number of the retiring manifest.
        number: u64,
    },
    /// A page of a backend's index of its log.
    IndexPage {
        /// The backend whose log the page lists.
        backend: BackendId,
        /// Number of the epoch that wrote the page. Once a later epoch exists, no manifest names a new page of this
        /// one.
        epoch: u64,
        /// Distinguishes the pages of one epoch.
        id: Uuid,
    },
    /// A file of a snapshot.
    SnapshotFile {
        /// The backend whose snapshot it is.
        backend: BackendId,
        /// The daemon instance that wrote the file.
        instance: Uuid,
        /// Name of the file, unique within the instance.
        file: Name,
    },
    /// A lease on a checkpoint.
    Pin {
        /// The checkpoint's job.
        job: Name,
        /// Distinguishes the pins of one job.
        id: Uuid,
    },
    /// A mark that the holder of a pin still needs it.
    PinRenewal {
        /// The job of the pin.
        job: Name,
        /// UUID of the pin.
        id: Uuid,
        /// Counts the renewals of the pin.
        number: u64,
    },
    /// One link of a job's chain of generations and commits.
    JobRecord {
        /// The job whose chain it is.
        job: Name,
        /// Position in the chain.
        number: u64,
    },
    /// A mark that a task has its part of a checkpoint of a declared job. The name holds all that matters, so that a
    /// listing suffices.
    Report {
        /// The backend of the reporting task.
        backend: BackendId,
        /// Attempt of the job's generation.
        attempt: Attempt,
        /// The epoch, id and UUID of the task's part of the checkpoint.
        checkpoint: CheckpointIdentity,
    },
    /// An object that is created to read the store's clock, and deleted at once.
    Clock {
        /// The job for which the clock was read.
        job: Name,
        /// Distinguishes concurrent readings of the clock.
        id: Uuid,
    },
    /// A mark of when the sweep of a job began, so that no other daemon begins one at the same time.
    SweepLease {
        /// The job that is swept.
        job: Name,
        /// One more than the number of the lease before.
        number: u64,
    },
    /// A file of a savepoint.
    SavepointFile {
        /// The job whose state the savepoint holds.
        job: Name,
        /// Name of the savepoint.
        savepoint: Name,
        /// Folders and file name within the savepoint, at least one part.
        file: Vec<Name>,
    },
    /// The rest of an object that a killed process was creating in a local directory or on HDFS.
    Temporary {
        /// The object that it was to become, which is never a temporary itself.
        of: Box<Self>,
        /// Distinguishes several temporaries of one object.
        number: u64,
    },
}

impl ObjectName {
    /// Path of the object, relative to the base of the store.
    #[must_use]
    pub fn path(&self) -> Path {
        match self {
            Self::Segment { job, instance, number } => segments(job).join(instance.to_string()).join(numbered(*number)),
            Self::Manifest { backend, number } => manifests(backend).join(numbered(*number)),
            Self::Retired { backend: id, number } => backend(id).join(RETIRED).join(numbered(*number)),
            Self::IndexPage { backend, epoch, id } => index_pages(backend).join(epoch.to_string()).join(id.to_string()),
            Self::SnapshotFile { backend, instance, file } => {
                snapshots(backend).join(instance.to_string()).join(file.as_str())
            }
            Self::Pin { job, id } => pins(job).join(id.to_string()),
            Self::PinRenewal { job, id, number } => renewals(job).join(id.to_string()).join(numbered(*number)),
            Self::JobRecord { job, number } => job_records(job).join(numbered(*number)),
            Self::Report { backend, attempt, checkpoint } => reports_of_attempt(&backend.job, *attempt)
                .join(numbered(checkpoint.id))
                .join(backend.operator.as_str())
                .join(backend.subtask.to_string())
                .join(checkpoint.epoch.to_string())
                .join(checkpoint.uuid.to_string()),
            Self::Clock { job, id } => Path::from_iter([job.as_str(), CLOCK]).join(id.to_string()),
            Self::SweepLease { job, number } => sweep_leases(job).join(numbered(*number)),
            Self::SavepointFile { job, savepoint: name, file } => {
                file.iter().fold(savepoint(job, name), |path, part| path.join(part.as_str()))
            }
            Self::Temporary { of, number } => Path::parse(format!("{}#{number}", of.path()))
                .expect("a path followed by `#` and digits has neither empty, relative nor control segments"),
        }
    }

    /// The name of the object at `path`, relative to the base of the store. `None` if dstl never makes such a path.
    #[must_use]
    pub fn parse(path: &Path) -> Option<Self> {
        let raw = path.as_ref();
        let name = match raw.rsplit_once('#') {
            Some((of, number)) => {
                // Not `parse`: a temporary of a temporary is never made.
                let of = Box::new(parse_permanent(of)?);
                Self::Temporary { of, number: number.parse().ok()? }
            }
            None => parse_permanent(raw)?,
        };
        // `parse` accepts more spellings of numbers and UUIDs than `path` makes.
        (name.path() == *path).then_some(name)
    }

    /// The job to which the object belongs.
    #[must_use]
    pub fn job(&self) -> &Name {
        match self {
            Self::Segment { job, .. }
            | Self::Pin { job, .. }
            | Self::PinRenewal { job, .. }
            | Self::JobRecord { job, .. }
            | Self::Clock { job, .. }
            | Self::SweepLease { job, .. }
            | Self::SavepointFile { job, .. } => job,
            Self::Manifest { backend, .. }
            | Self::Retired { backend, .. }
            | Self::IndexPage { backend, .. }
            | Self::SnapshotFile { backend, .. }
            | Self::Report { backend, .. } => &backend.job,
            Self::Temporary { of, .. } => of.job(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.path(), f)
    }
}

/// Folder of all objects of `job`.
#[must_use]
pub fn job(job: &Name) -> Path {
    Path::from_iter([job.as_str()])
}

/// Folder of the segments of `job`.
#[must_use]
pub fn segments(job: &Name) -> Path {
    Path::from_iter([job.as_str(), SEGMENTS])
}

/// Folder of the segments of `job` that one daemon instance wrote.
#[must_use]
pub fn segments_of_instance(job: &Name, instance: Uuid) -> Path {
    segments(job).join(instance.to_string())
}

/// Folder of the objects that belong to single backends of `job`.
#[must_use]
pub fn operators(job: &Name) -> Path {
    Path::from_iter([job.as_str(), OPERATORS])
}

/// Folder of the objects that belong to the backends of one operator of `job`.
#[must_use]
pub fn operator(job: &Name, operator: &Name) -> Path {
    operators(job).join(operator.as_str())
}

/// Folder of the objects that belong to `backend` alone.
#[must_use]
pub fn backend(backend: &BackendId) -> Path {
    operator(&backend.job, &backend.operator).join(backend.subtask.to_string())
}

/// Folder of the manifest chain of `id`.
#[must_use]
pub fn manifests(id: &BackendId) -> Path {
    backend(id).join(MANIFEST)
}

/// Folder of the pages of the log index of `id`.
#[must_use]
pub fn index_pages(id: &BackendId) -> Path {
    backend(id).join(INDEX)
}

/// Folder of the snapshot files of `id`.
#[must_use]
pub fn snapshots(id: &BackendId) -> Path {
    backend(id).join(SNAPSHOT)
}

/// Folder of the pins of `job`.
#[must_use]
pub fn pins(job: &Name) -> Path {
    Path::from_iter([job.as_str(), PINS])
}

/// Folder of the renewals of the pins of `job`.
#[must_use]
pub fn renewals(job: &Name) -> Path {
    Path::from_iter([job.as_str(), RENEWALS])
}

/// Folder of the chain of generations and commits of `job`.
#[must_use]
pub fn job_records(job: &Name) -> Path {
    Path::from_iter([job.as_str(), JOB])
}

/// Folder of the reports of the tasks of `job`.
#[must_use]
pub fn reports(job: &Name) -> Path {
    Path::from_iter([job.as_str(), REPORTS])
}

/// Folder of the reports of one attempt of `job`.
#[must_use]
pub fn reports_of_attempt(job: &Name, attempt: Attempt) -> Path {
    reports(job).join(numbered(attempt))
}

/// Folder of the leases of sweeps of `job`.
#[must_use]
pub fn sweep_leases(job: &Name) -> Path {
    Path::from_iter([job.as_str(), SWEEPS])
}

/// Folder of the savepoints of `job`.
#[must_use]
pub fn savepoints(job: &Name) -> Path {
    Path::from_iter([job.as_str(), SAVEPOINTS])
}

/// Folder of the files of one savepoint of `job`.
#[must_use]
pub fn savepoint(job: &Name, savepoint: &Name) -> Path {
    savepoints(job).join(savepoint.as_str())
}

fn numbered(number: u64) -> String {
    // Zeros in front, so that the order of names is the order of numbers, also for people who list the store.
    format!("{number:0NUMBER_DIGITS$}")
}

/// Parses every name but temporaries. Accepts more spellings of numbers and UUIDs than `path` makes.
fn parse_permanent(raw: &str) -> Option<ObjectName> {
    let parts: Vec<&str> = raw.split('/').collect();
    let (job, rest) = parts.split_first()?;
    let job = name(job)?;
    match *rest {
        [SEGMENTS, instance, number] => {
            Some(ObjectName::Segment { job, instance: instance.parse().ok()?, number: number.parse().ok()? })
        }
        [OPERATORS, operator, subtask, ref rest @ ..] => {
            let backend = BackendId { job, operator: name(operator)?, subtask: subtask.parse().ok()? };
            parse_of_backend(backend, rest)
        }
        [PINS, id] => Some(ObjectName::Pin { job, id: id.parse().ok()? }),
        [RENEWALS, id, number] => {
            Some(ObjectName::PinRenewal { job, id: id.parse().ok()?, number: number.parse().ok()? })
        }
        [JOB, number] => Some(ObjectName::JobRecord { job, number: number.parse().ok()? }),
        [REPORTS, attempt, id, operator, subtask, epoch, uuid] => {
            let backend = BackendId { job, operator: name(operator)?, subtask: subtask.parse().ok()? };
            let (id, epoch, uuid) = (id.parse().ok()?, epoch.parse().ok()?, uuid.parse().ok()?);
            let checkpoint = CheckpointIdentity { epoch, id, uuid };
            Some(ObjectName::Report { backend, attempt: attempt.parse().ok()?, checkpoint })
        }
        [CLOCK, id] => Some(ObjectName::Clock { job, id: id.parse().ok()? }),
        [SWEEPS, number] => Some(ObjectName::SweepLease { job, number: number.parse().ok()? }),
        // The folder itself is no object.
        [SAVEPOINTS, savepoint, ref file @ ..] if !file.is_empty() => {
            let file = file.iter().map(|part| name(part)).collect::<Option<_>>()?;
            Some(ObjectName::SavepointFile { job, savepoint: name(savepoint)?, file })
        }
        _ => None,
    }
}

fn parse_of_backend(backend: BackendId, rest: &[&str]) -> Option<ObjectName> {
    match *rest {
        [MANIFEST, number] => Some(ObjectName::Manifest { backend, number: number.parse().ok()? }),
        [RETIRED, number] => Some(ObjectName::Retired { backend, number: number.parse().ok()? }),
        [INDEX, epoch, id] => Some(ObjectName::IndexPage { backend, epoch: epoch.parse().ok()?, id: id.parse().ok()? }),
        [SNAPSHOT, instance, file] => {
            Some(ObjectName::SnapshotFile { backend, instance: instance.parse().ok()?, file: name(file)? })
        }
        _ => None,
    }
}

fn name(part: &str) -> Option<Name> {
    Name::new(part).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = Name> {
        prop_oneof![
            prop::sample::select(vec![
                "segments",
                "operators",
                "manifest",
                "pins",
                "job",
                "sweeps",
                "savepoints",
                "0",
                "..."
            ])
            .prop_map(|name| Name::new(name).unwrap()),
            "[A-Za-z0-9_-][A-Za-z0-9._-]{0,20}".prop_map(|name| Name::new(&name).unwrap()),
        ]
    }

    fn uuids() -> impl Strategy<Value = Uuid> {
        any::<u128>().prop_map(Uuid::from_u128)
    }

    fn backends() -> impl Strategy<Value = BackendId> {
        (names(), names(), any::<u32>()).prop_map(|(job, operator, subtask)| BackendId { job, operator, subtask })
    }

    fn permanent() -> impl Strategy<Value = ObjectName> {
        prop_oneof![
            (names(), uuids(), any::<u64>()).prop_map(|(job, instance, number)| ObjectName::Segment {
                job,
                instance,
                number
            }),
            (backends(), any::<u64>()).prop_map(|(backend, number)| ObjectName::Manifest { backend, number }),
            (backends(), any::<u64>()).prop_map(|(backend, number)| ObjectName::Retired { backend, number }),
            (backends(), any::<u64>(), uuids()).prop_map(|(backend, epoch, id)| ObjectName::IndexPage {
                backend,
                epoch,
                id
            }),
            (backends(), uuids(), names()).prop_map(|(backend, instance, file)| ObjectName::SnapshotFile {
                backend,
                instance,
                file
            }),
            (names(), uuids()).prop_map(|(job, id)| ObjectName::Pin { job, id }),
            (names(), uuids(), any::<u64>()).prop_map(|(job, id, number)| ObjectName::PinRenewal { job, id, number }),
            (names(), any::<u64>()).prop_map(|(job, number)| ObjectName::JobRecord { job, number }),
            (backends(), any::<[u64; 3]>(), uuids()).prop_map(|(backend, [attempt, id, epoch], uuid)| {
                ObjectName::Report { backend, attempt, checkpoint: CheckpointIdentity { epoch, id, uuid } }
            }),
            (names(), uuids()).prop_map(|(job, id)| ObjectName::Clock { job, id }),
            (names(), any::<u64>()).prop_map(|(job, number)| ObjectName::SweepLease { job, number }),
            (names(), names(), prop::collection::vec(names(), 1..4))
                .prop_map(|(job, savepoint, file)| ObjectName::SavepointFile { job, savepoint, file }),
        ]
    }

    fn any_name() -> impl Strategy<Value = ObjectName> {
        (permanent(), any::<Option<u64>>()).prop_map(|(name, temporary)| match temporary {
            Some(number) => ObjectName::Temporary { of: Box::new(name), number },
            None => name,
        })
    }

    proptest! {
        #[test]
        fn every_name_is_parsed_back_from_its_path(name in any_name()) {
            prop_assert_eq!(ObjectName::parse(&name.path()), Some(name.clone()));
            prop_assert!(name.path().prefix_matches(&job(name.job())));
        }

        #[test]
        fn whatever_is_parsed_has_that_path(raw in "[a-z0-9#/.-]{0,60}") {
            if let Ok(path) = Path::parse(&raw) && let Some(name) = ObjectName::parse(&path) {
                prop_assert_eq!(name.path(), path);
            }
        }

        #[test]
        fn different_names_have_different_paths(a in any_name(), b in any_name()) {
            prop_assert_eq!(a == b, a.path() == b.path());
        }
    }

    #[test]
    fn paths_are_as_documented() {
        let name = |name: &str| Name::new(name).unwrap();
        let backend = BackendId { job: name("wc"), operator: name("segments"), subtask: 3 };
        let id = Uuid::from_u128(1);
        let cases = [
            (
                ObjectName::Segment { job: name("wc"), instance: id, number: 7 },
                "wc/segments/00000000-0000-0000-0000-000000000001/00000000000000000007",
            ),
            (
                ObjectName::Manifest { backend: backend.clone(), number: u64::MAX },
                "wc/operators/segments/3/manifest/18446744073709551615",
            ),
            (
                ObjectName::IndexPage { backend: backend.clone(), epoch: 12, id },
                "wc/operators/segments/3/index/12/00000000-0000-0000-0000-000000000001",
            ),
            (
                ObjectName::Report {
                    backend: backend.clone(),
                    attempt: 4,
                    checkpoint: CheckpointIdentity { epoch: 12, id: 7, uuid: id },
                },
                "wc/reports/00000000000000000004/00000000000000000007/segments/3/12/00000000-0000-0000-0000-000000000001",
            ),
            (
                ObjectName::SnapshotFile { backend, instance: id, file: name("a.sst") },
                "wc/operators/segments/3/snapshot/00000000-0000-0000-0000-000000000001/a.sst",
            ),
            (ObjectName::Pin { job: name("wc"), id }, "wc/pins/00000000-0000-0000-0000-000000000001"),
            (
                ObjectName::PinRenewal { job: name("wc"), id, number: 2 },
                "wc/renewals/00000000-0000-0000-0000-000000000001/00000000000000000002",
            ),
            (ObjectName::JobRecord { job: name("wc"), number: 0 }, "wc/job/00000000000000000000"),
            (ObjectName::Clock { job: name("wc"), id }, "wc/clock/00000000-0000-0000-0000-000000000001"),
            (ObjectName::SweepLease { job: name("wc"), number: 7 }, "wc/sweeps/00000000000000000007"),
            (
                ObjectName::SavepointFile { job: name("wc"), savepoint: name("s"), file: vec![name("a"), name("b")] },
                "wc/savepoints/s/a/b",
            ),
        ];
        for (name, path) in cases {
            assert_eq!(name.to_string(), path);
        }
    }

    #[test]
    fn other_spellings_and_foreign_objects_have_no_name() {
        for foreign in [
            "",
            "wc",
            "wc/segments/00000000-0000-0000-0000-000000000001/7",
            "wc/segments/00000000000000000000000000000001/00000000000000000007",
            "wc/segments/00000000-0000-0000-0000-00000000000A/00000000000000000007",
            "wc/operators/op/03/manifest/00000000000000000001",
            "wc/operators/op/3/manifest/+0000000000000000001",
            "wc/operators/op/3/manifest/99999999999999999999",
            "wc/operators/op/3/manifest/00000000000000000001/x",
            "wc/job/00000000000000000001#",
            "wc/job/00000000000000000001#01",
            "wc/job/00000000000000000001#1#2",
            "wc/savepoints/s",
            "wc/lost+found",
        ] {
            assert_eq!(ObjectName::parse(&Path::parse(foreign).unwrap()), None, "{foreign}");
        }
    }

    #[test]
    fn a_temporary_of_the_local_store_is_recognised() {
        let record = ObjectName::JobRecord { job: Name::new("wc").unwrap(), number: 1 };
        let path = Path::parse("wc/job/00000000000000000001#1").unwrap();
        assert_eq!(ObjectName::parse(&path), Some(ObjectName::Temporary { of: Box::new(record), number: 1 }));
    }
}
