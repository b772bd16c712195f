//! Operator state: split, united and broadcast, beside keyed state.

use bytes::Bytes;
use dstl::state::{
    MapKeys,
    op::{Answer, Op},
};

use super::{Bench, Course, everywhere};
use crate::operator_state::{Contents, descriptors};

const SPLIT: usize = 0;
const UNION: usize = 1;
const BROADCAST: usize = 2;
const KEYED: usize = 3;

/// What the subtasks have to have.
struct Model(Vec<Contents>);

impl Model {
    fn new(bench: &Bench) -> Self {
        Self(vec![Contents::default(); bench.parallelism()])
    }

    /// Takes a turn, and checks what each subtask has then.
    async fn turn(&mut self, bench: &mut Bench) {
        bench.turn().await;
        if bench.setting.course != Course::Live {
            self.redistribute(bench.parallelism());
        }
        let found: Vec<Contents> = (0..bench.parallelism()).map(|subtask| read(bench, subtask)).collect();
        assert_eq!(found, self.0, "{:?}", bench.setting);
    }

    fn redistribute(&mut self, parallelism: usize) {
        let old = std::mem::take(&mut self.0);
        let union: Vec<Bytes> = old.iter().flat_map(|had| had.union.clone()).collect();
        let mut split = old.iter().flat_map(|had| had.split.clone());
        let total = split.clone().count();
        for subtask in 0..parallelism {
            let share = total / parallelism + usize::from(subtask < total % parallelism);
            self.0.push(Contents {
                split: match old.get(subtask) {
                    Some(had) if old.len() == parallelism => had.split.clone(),
                    _ => split.by_ref().take(share).collect(),
                },
                union: union.clone(),
                broadcast: old[subtask % old.len()].broadcast.clone(),
            });
        }
    }

    fn list(&mut self, bench: &mut Bench, (subtask, state): (usize, usize), op: Op<'_>) {
        assert_eq!(bench.run_in(subtask, state, op), None);
        let list = if state == SPLIT { &mut self.0[subtask].split } else { &mut self.0[subtask].union };
        match op {
            Op::ListAddAll(elements) => list.extend_from_slice(elements),
            Op::ListUpdate(elements) => *list = elements.to_vec(),
            Op::Clear => list.clear(),
            other => panic!("{other:?}"),
        }
    }

    fn put(&mut self, bench: &mut Bench, map_key: &str, value: &str) {
        for (subtask, contents) in self.0.iter_mut().enumerate() {
            let op = Op::MapPut { map_key: map_key.as_bytes(), value: value.as_bytes() };
            assert_eq!(bench.run_in(subtask, BROADCAST, op), None);
            contents.broadcast.insert(bytes(map_key), bytes(value));
        }
    }

    fn remove(&mut self, bench: &mut Bench, map_key: &str) {
        for (subtask, contents) in self.0.iter_mut().enumerate() {
            bench.run_in(subtask, BROADCAST, Op::MapRemove { map_key: map_key.as_bytes() });
            contents.broadcast.remove(map_key.as_bytes());
        }
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn elements(from: usize, to: usize) -> Vec<Bytes> {
    (from..to).map(|number| bytes(&format!("element {number}"))).collect()
}

fn read(bench: &mut Bench, subtask: usize) -> Contents {
    let mut list = |state| match bench.run_in(subtask, state, Op::ListGet { start: 0, token: &[], limit: 0 }) {
        Some(Answer::Elements { elements, token: None }) => elements,
        other => panic!("a list answers its elements, not {other:?}"),
    };
    let (split, union) = (list(SPLIT), list(UNION));
    match bench.run_in(subtask, BROADCAST, Op::MapEntries { keys: MapKeys::default(), limit: 0 }) {
        Some(Answer::Entries { entries, more: false }) => {
            Contents { split, union, broadcast: entries.into_iter().collect() }
        }
        other => panic!("a map answers its entries, not {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn it_goes_to_whom_it_belongs_at_every_turn() {
    everywhere(descriptors(), async |bench| {
        let mut model = Model::new(bench);
        model.list(bench, (0, SPLIT), Op::ListAddAll(&elements(0, 10)));
        model.list(bench, (0, UNION), Op::ListAddAll(&elements(10, 12)));
        model.put(bench, "rule", "one");
        model.put(bench, "other", "");
        bench.write(KEYED, ("k", ""), Op::Put(b"v"));
        bench.halfway().await;
        model.list(bench, (0, SPLIT), Op::ListAddAll(&elements(20, 23)));
        model.remove(bench, "other");
        model.turn(bench).await;
        // Nothing but what was given out at the restore.
        model.turn(bench).await;
        for subtask in 0..bench.parallelism() {
            model.list(bench, (subtask, UNION), Op::ListUpdate(&elements(subtask, subtask + 1)));
        }
        model.list(bench, (bench.parallelism() - 1, SPLIT), Op::ListAddAll(&elements(30, 35)));
        bench.halfway().await;
        model.list(bench, (0, SPLIT), Op::ListUpdate(&elements(40, 41)));
        model.put(bench, "rule", "two");
        model.turn(bench).await;
        for subtask in 0..bench.parallelism() {
            model.list(bench, (subtask, SPLIT), Op::Clear);
            model.list(bench, (subtask, UNION), Op::Clear);
        }
        model.remove(bench, "rule");
        bench.halfway().await;
        model.turn(bench).await;
        assert!(model.0.iter().all(|contents| *contents == Contents::default()));
        assert_eq!(bench.run(KEYED, ("k", ""), Op::Get), Some(Answer::Value(Some(bytes("v")))));
        model.list(bench, (0, SPLIT), Op::ListAddAll(&elements(0, 1)));
        model.turn(bench).await;
    })
    .await;
}
