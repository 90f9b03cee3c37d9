//! Whose session it is.

use super::*;
use crate::proxy::threads::tests::front;

/// Whose session it is is known when it is routed, to all that look.
#[test]
fn a_session_belongs_to_the_pool_that_it_is_routed_to() {
    let (listener, other) = (front(), front().settings().routes.only().unwrap().clone());
    let list = SessionList::new(0);
    let peer = ([192, 0, 2, 1], 1).into();
    let live = list.enlist(1, (listener, None), peer, Instant::now());
    let shown = |pool: Option<&Arc<Pool>>| {
        let (mut all, mut seen) = (Vec::new(), 0);
        let is = |of: Option<&Pool>| of.map(ptr::from_ref) == pool.map(Arc::as_ptr);
        list.view(&mut all);
        list.visit(&mut |session| seen += usize::from(is(session.pool)));
        assert_eq!(is(all[0].pool.as_deref()), seen == 1);
        assert_eq!(live.in_pool(is), seen == 1);
        seen == 1
    };
    assert!(shown(None) && !shown(Some(&other)));
    live.routed(&other, None);
    assert!(shown(Some(&other)) && !shown(None));
}
