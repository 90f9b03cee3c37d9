//! Whose session it is.

use super::*;
use crate::proxy::threads::tests::front;

/// Whose session it is changes when it is routed, for all that look.
#[test]
fn a_session_belongs_to_the_pool_that_it_is_routed_to() {
    let (listener, other) = (front(), front().settings().pool.clone());
    let first = listener.settings().pool.clone();
    let list = SessionList::new(0);
    let peer = ([192, 0, 2, 1], 1).into();
    let live = list.enlist(1, (listener, Arc::clone(&first)), peer, Instant::now());
    let shown = |pool: &Arc<Pool>| {
        let (mut all, mut seen) = (Vec::new(), 0);
        list.view(&mut all);
        list.visit(&mut |session| seen += usize::from(ptr::eq(session.pool, &**pool)));
        assert_eq!(Arc::ptr_eq(&all[0].pool, pool), seen == 1);
        assert_eq!(live.in_pool(|of| ptr::eq(of, &**pool)), seen == 1);
        seen == 1
    };
    assert!(shown(&first) && !shown(&other));
    live.routed(&other);
    assert!(shown(&other) && !shown(&first));
}
