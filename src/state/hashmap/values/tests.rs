//! Tests of the values of a slice.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;

type Model = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

/// A name of one of few; one in eight is too long for the arena.
fn name(random: &mut StdRng) -> (Vec<u8>, Vec<u8>) {
    let mut key = random.random_range(0..400_u32).to_le_bytes().to_vec();
    if key[0] % 8 == 7 {
        key.resize(MAX_CELL_BYTES, 1);
    }
    (key, vec![b'n'; random.random_range(0..2)])
}

/// A value, mostly short; some have the longest length that fits, or one more.
fn value(random: &mut StdRng) -> Vec<u8> {
    let length = match random.random_range(0..100) {
        0 => MAX_CELL_BYTES - HEADER_BYTES - 4,
        1 => MAX_CELL_BYTES - HEADER_BYTES - 3,
        2 => 70_000,
        3..20 => random.random_range(0..600),
        _ => 100,
    };
    let mut value = vec![0; length];
    random.fill_bytes(&mut value);
    value
}

/// Asserts that the values are those of the model.
fn audit(values: &Values, model: &Model) {
    let usage = values.recount();
    assert_eq!((usage.entries, values.len()), (model.len() as u64, model.len()));
    for ((key, namespace), value) in model {
        let name = Name::new(key, namespace);
        assert_eq!(values.find(&name), Some(&value[..]));
        let block = values.block(name.hash());
        assert!(!block.is_empty(), "a block is found by its hash");
    }
    let mut copied = Model::new();
    values.copy(0, &mut |key, namespace, action| {
        let Action::Put(value) = action else { panic!("{action:?}") };
        assert!(copied.insert((key.to_vec(), namespace.to_vec()), value.to_vec()).is_none());
    });
    assert_eq!(&copied, model);
    let mut names = vec![];
    values.names(&mut |hash, key, namespace| {
        assert_eq!(hash, stable_hash(key, namespace));
        names.push((key.to_vec(), namespace.to_vec()));
    });
    names.sort_unstable();
    assert!(names.iter().eq(model.keys()));
}

#[test]
fn random_writes_splits_and_merges_equal_the_model() {
    let random = &mut StdRng::seed_from_u64(7);
    let (mut values, mut model) = (Values::default(), Model::new());
    for step in 0..40_000 {
        let (key, namespace) = name(random);
        let (name, value) = (Name::new(&key, &namespace), value(random));
        let place = (key.clone(), namespace.clone());
        // Phases in which there are more writes than removals, and the other way around.
        let removals = if step / 5_000 % 2 == 0 { 2 } else { 7 };
        let effect = match random.random_range(0..10) {
            verb if verb < removals => {
                let effect = values.remove(&name);
                assert_eq!(effect == Effect::Removed, model.remove(&place).is_some());
                continue;
            }
            verb if verb == removals => {
                let short = &value[..value.len().min(40)];
                model.entry(place).or_default().extend(short);
                values.append(&name, short)
            }
            _ => {
                model.insert(place, value.clone());
                values.put(&name, &value)
            }
        };
        assert_eq!(effect, Effect::Changed);
        if step % 1_000 == 0 {
            let bit = 1 << random.random_range(0..u64::BITS);
            let upper = values.split_off(bit);
            let (uppers, lowers): (Model, Model) =
                model.clone().into_iter().partition(|((key, namespace), _)| stable_hash(key, namespace) & bit != 0);
            audit(&upper, &uppers);
            audit(&values, &lowers);
            values.take_in(upper);
            audit(&values, &model);
        }
    }
    for (key, namespace) in model.keys() {
        assert_eq!(values.remove(&Name::new(key, namespace)), Effect::Removed);
    }
    assert_eq!(values.recount(), Usage::default(), "all memory is given back");
}

#[test]
fn a_value_is_overwritten_in_place_and_gives_room_back() {
    let mut values = Values::default();
    let name = Name::new(b"key", b"ns");
    values.put(&name, &[1; 100]);
    let (place, bytes) = (values.find(&name).unwrap().as_ptr(), values.usage().bytes);
    for value in [&[2; 100][..], &[3; 98]] {
        values.put(&name, value);
        let found = values.find(&name).unwrap();
        assert_eq!((found, found.as_ptr(), values.usage().bytes), (value, place, bytes));
    }
    for (count, value) in (1..).zip([&[1; 100][..], b"short"].into_iter().cycle().take(1_000)) {
        values.put(&name, value);
        assert!(values.usage().bytes < 1_000, "{} bytes after {count} moves", values.usage().bytes);
    }
    values.put(&name, b"");
    assert_eq!(values.find(&name), Some(&b""[..]));
}

#[test]
fn many_appends_move_a_value_rarely() {
    let mut values = Values::default();
    let name = Name::new(b"key", b"");
    let mut places = vec![];
    for _ in 0..3_000 {
        values.append(&name, b"x");
        places.push(values.find(&name).unwrap().as_ptr());
    }
    assert_eq!(values.find(&name).unwrap().len(), 3_000);
    places.dedup();
    assert!(places.len() < 60, "{} places", places.len());
}

#[test]
fn cells_that_find_no_room_in_the_arena_are_apart() {
    let mut values = Values::default();
    let value = [1; 4_000];
    for key in 0..1_000_u32 {
        values.put(&Name::new(&key.to_le_bytes(), b""), &value);
    }
    assert!(values.apart.as_ref().unwrap().len() > 400 && values.arena.len() <= MAX_OFFSET);
    assert_eq!(values.recount().entries, 1_000);
    let bit = 1 << 63;
    let upper = values.split_off(bit);
    assert_eq!(values.recount().entries + upper.recount().entries, 1_000);
    values.take_in(upper);
    for key in 0..1_000_u32 {
        assert_eq!(values.find(&Name::new(&key.to_le_bytes(), b"")), Some(&value[..]));
        assert_eq!(values.remove(&Name::new(&key.to_le_bytes(), b"")), Effect::Removed);
    }
    assert_eq!(values.recount(), Usage::default());
}

#[test]
fn values_that_become_short_or_long_leave_no_arena_behind() {
    let names: Vec<[u8; 4]> = (0..300_u32).map(u32::to_le_bytes).collect();
    let mut values = Values::default();
    for length in [3_000, 10, 3_000, 5_000] {
        for name in &names {
            values.put(&Name::new(name, b""), &vec![1; length]);
        }
        values.recount();
        let (bytes, contents) = (values.usage().bytes, values.contents_bytes());
        assert!(bytes < contents * 5 / 2 + 20_000, "{bytes} bytes of memory for {contents}");
    }
    assert!(values.arena.is_empty(), "all values are apart");
    names.iter().for_each(|name| _ = values.remove(&Name::new(name, b"")));
    assert_eq!(values.recount(), Usage::default());
}
