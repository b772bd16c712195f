//! Checks of list states.

use super::{Bench, Factory, bench::*};
use crate::state::{
    Action, PageLimit,
    op::{Answer, Op},
};

fn element(index: u64, element: &str) -> Action<'_> {
    Action::ListPut { index, element: element.as_bytes() }
}

pub(super) fn lists_keep_their_order(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let (here, there) = (at(LIST, "key"), at_namespace(LIST, "key", "ns"));
    assert_eq!(bench.list(here), elements(&[]));
    bench.write(here, Op::ListAdd(b"b"), &[element(0, "b")]);
    bench.write(there, Op::ListAdd(b"elsewhere"), &[element(0, "elsewhere")]);
    bench.write(here, Op::ListAdd(b""), &[element(1, "")]);
    bench.write(here, Op::ListAddAll(&elements(&["a", "b"])), &[element(2, "a"), element(3, "b")]);
    bench.write(here, Op::ListAddAll(&[]), &[]);
    assert_eq!(bench.list(here), elements(&["b", "", "a", "b"]), "an empty element is an element");
    assert_eq!(bench.read(here, Op::ListCount), Answer::Count(4));
    assert_eq!(bench.list(there), elements(&["elsewhere"]));
    bench.assert_replays(factory, &[here, there]);
}

pub(super) fn lists_are_replaced_and_cleared(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let at = at(LIST, "key");
    bench.write(at, Op::ListUpdate(&elements(&["a", "b", "c"])), &[element(0, "a"), element(1, "b"), element(2, "c")]);
    let update = elements(&["longer", "y"]);
    bench.write(at, Op::ListUpdate(&update), &[Action::Clear, element(0, "longer"), element(1, "y")]);
    assert_eq!(bench.list(at), update);
    bench.assert_replays(factory, &[at]);
    bench.write(at, Op::ListUpdate(&[]), &[Action::Clear]);
    assert_eq!(bench.list(at), elements(&[]), "an update without elements clears");
    bench.write(at, Op::ListAdd(b"new"), &[element(0, "new")]);
    bench.write(at, Op::Clear, &[Action::Clear]);
    assert_eq!(bench.read(at, Op::ListCount), Answer::Count(0));
    bench.assert_replays(factory, &[at]);
}

pub(super) fn list_pages_join_to_the_whole(factory: Factory<'_>) {
    let mut bench = Bench::new(factory);
    let at = at(LIST, "key");
    let all: Vec<_> = (0..50_u8).map(|i| bytes::Bytes::from(vec![i; 60])).collect();
    assert_eq!(bench.run(at, Op::ListAddAll(&all)), None);
    assert_eq!(bench.list(at), all);
    let read = |bench: &mut Bench, start, limit| {
        let answer = bench.read(at, Op::ListGet { start, token: &[], limit });
        let Answer::Elements { elements, token } = answer else { unreachable!("ListGet answers elements") };
        (elements.iter().map(|element| element[0]).collect::<Vec<_>>(), token.is_some())
    };
    assert_eq!(read(&mut bench, 10, 2), (vec![10, 11], true));
    assert_eq!(read(&mut bench, 48, 2), (vec![48, 49], false));
    assert_eq!(read(&mut bench, 0, 0), (vec![0, 1, 2, 3], true), "as many as fit");
    assert_eq!(read(&mut bench, 50, 0), (vec![], false));
    assert_eq!(read(&mut bench, u64::MAX, 0), (vec![], false));
    let mut count = 0;
    let tiny = PageLimit { entries: 9, bytes: 1 };
    assert!(bench.backend.list_page(at, 0, tiny, &mut |_| count += 1).unwrap());
    assert_eq!(count, 1, "a first element is always returned");
}
