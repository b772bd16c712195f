//! Checks of lists with TTL.

use bytes::Bytes;

use super::{
    Factory, bench,
    ttl::{Timeline, at, plain},
};
use crate::{
    state::{
        Action,
        op::{Answer, Op, incremental::Cursor},
        ttl::{REMOVED, stamp},
    },
    types::StateKind,
};

pub(super) fn list_elements_expire_by_themselves(factory: Factory<'_>) {
    let mut line = Timeline::new(factory, StateKind::List, None, plain());
    for (now, element) in [(100, "a"), (102, "b"), (104, "c"), (106, "d"), (108, "e")] {
        line.now = now;
        line.run(at("k", ""), Op::ListAdd(element.as_bytes()));
    }
    line.now = 112;
    assert_eq!(line.list(), ["c", "d", "e"]);
    let page = line.look(at("k", ""), Op::ListGet { start: 1, token: &[], limit: 1 });
    let Answer::Elements { elements, token: Some(_) } = page else { unreachable!("a page of elements, not {page:?}") };
    assert_eq!(elements, bench::elements(&["d"]));
    assert_eq!(line.look(at("k", ""), Op::ListCount), Answer::Count(3));
    line.forget_log();
    line.run(at("k", ""), Op::ListAdd(b"f"));
    line.assert_logged(&[Action::ListPut { index: 5, element: &stamp(112, b"f") }]);
    line.run(at("k", ""), Op::ListCount);
    line.assert_logged(&[
        Action::ListPut { index: 0, element: REMOVED },
        Action::ListPut { index: 1, element: REMOVED },
    ]);
    line.now = 114;
    assert_eq!(line.list(), ["d", "e", "f"]);
    // Half of it is gone.
    line.run(at("k", ""), Op::ListGet { start: 0, token: &[], limit: 0 });
    let kept = [(0, stamp(106, b"d")), (1, stamp(108, b"e")), (2, stamp(112, b"f"))];
    let [d, e, f] = kept.each_ref().map(|(index, element)| Action::ListPut { index: *index, element });
    line.assert_logged(&[Action::Clear, d, e, f]);
    assert_eq!((line.list(), line.removed), (bench::elements(&["d", "e", "f"]), 3));
    line.now = 122;
    assert_eq!(line.run(at("k", ""), Op::ListCount), Some(Answer::Count(0)));
    line.assert_logged(&[Action::Clear]);
    line.run(at("k", ""), Op::ListAddAll(&bench::elements(&["x", "y"])));
    assert_eq!(line.list(), ["x", "y"]);
    line.run(at("k", ""), Op::ListUpdate(&bench::elements(&["z"])));
    assert_eq!(line.list(), ["z"]);
}

pub(super) fn pages_of_a_list_miss_nothing_that_lives_while_others_expire(factory: Factory<'_>) {
    let letters = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    // After the first page of 4 there are three cases: another read goes to the end, a clean-up turn rewrites the list,
    // or nothing happens.
    for (rewritten, rewrite) in [
        (false, (|_| {}) as fn(&mut Timeline)),
        (true, |line| _ = line.run(at("k", ""), Op::ListCount)),
        (true, |line| _ = line.clean(&mut Cursor::default(), 100)),
    ] {
        for limit in [1, 2, 0] {
            let mut line = Timeline::new(factory, StateKind::List, None, plain());
            for (now, element) in (100..).zip(letters) {
                line.now = now;
                line.run(at("k", ""), Op::ListAdd(element.as_bytes()));
            }
            let page = line.run(at("k", ""), Op::ListGet { start: 0, token: &[], limit: 4 });
            let Some(Answer::Elements { elements: mut all, token: Some(first) }) = page else {
                unreachable!("a page of elements, not {page:?}")
            };
            line.run(at("other", ""), Op::ListAddAll(&all));
            line.now = 115;
            rewrite(&mut line);
            assert_eq!(line.backend.len(at("k", "")).unwrap(), if rewritten { 4 } else { 10 });
            let mut from = Some(first.clone());
            while let Some(token) = from {
                let page = line.run(at("k", ""), Op::ListGet { start: 0, token: &token, limit });
                let Some(Answer::Elements { elements, token }) = page else {
                    unreachable!("a page of elements, not {page:?}")
                };
                all.extend(elements);
                from = token;
            }
            // Elements that expired before they were read are gone, since reads hide them.
            assert_eq!(all, bench::elements(&["a", "b", "c", "d", "g", "h", "i", "j"]));
            // A token may be used again, with the same answer.
            let again = line.run(at("k", ""), Op::ListGet { start: 0, token: &first, limit: 0 });
            assert_eq!(again, Some(Answer::Elements { elements: bench::elements(&["g", "h", "i", "j"]), token: None }));
            // Reading all pages rewrites a list that is mostly expired, too.
            let mut from = Some(Bytes::new());
            while let Some(token) = from {
                let page = line.run(at("k", ""), Op::ListGet { start: 0, token: &token, limit });
                let Some(Answer::Elements { token, .. }) = page else {
                    unreachable!("a page of elements, not {page:?}")
                };
                from = token;
            }
            assert_eq!(line.backend.len(at("k", "")).unwrap(), 4);
        }
    }
}

pub(super) fn long_lists_are_paged_over_what_is_gone(factory: Factory<'_>) {
    let mut line = Timeline::new(factory, StateKind::List, None, plain());
    let many: Vec<_> = (0..3_000_u32).map(|i| Bytes::copy_from_slice(&i.to_be_bytes())).collect();
    line.run(at("k", ""), Op::ListAddAll(&many[..1_400]));
    line.now = 105;
    line.run(at("k", ""), Op::ListAddAll(&many[1_400..]));
    for (now, expected) in [(105, &many[..]), (110, &many[1_400..])] {
        line.now = now;
        let (mut by_token, mut from) = (vec![], Some(Bytes::new()));
        while let Some(token) = from {
            let answer = line.look(at("k", ""), Op::ListGet { start: 0, token: &token, limit: 0 });
            let Answer::Elements { elements, token } = answer else { unreachable!("elements") };
            by_token.extend(elements);
            from = token;
        }
        assert_eq!(by_token, expected);
        let (mut by_start, mut goes_on) = (vec![], true);
        while goes_on {
            let answer = line.look(at("k", ""), Op::ListGet { start: by_start.len() as u64, token: &[], limit: 0 });
            let Answer::Elements { elements, token } = answer else { unreachable!("elements") };
            by_start.extend(elements);
            goes_on = token.is_some();
        }
        assert_eq!(by_start, expected);
    }
    // One batch removes a bounded number of elements.
    line.forget_log();
    line.run(at("k", ""), Op::ListCount);
    assert_eq!((line.logged(), line.removed), (1_000, 1_000));
    line.forget_log();
    line.run(at("k", ""), Op::ListCount);
    assert_eq!((line.logged(), line.removed), (400, 1_400));
}
