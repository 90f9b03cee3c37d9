//! What a balancer that is not ready waits for.

use crate::server::ServerState;

/// One line each; empty = ready.
pub(super) fn waiting_for(state: &ServerState) -> Vec<String> {
    if state.is_draining() {
        return vec!["stopping".to_owned()];
    }
    let mut waiting = Vec::new();
    let set = state.set();
    for pool in
        set.pools.iter().filter(|pool| set.stays(pool)).filter(|pool| pool.settings().required && !pool.is_settled())
    {
        let source = pool.source.view();
        let kind = pool.settings().source.kind();
        waiting.push(match (source.last_success, source.error) {
            (None, None) => format!("pool `{}` waits for the first answer of its discovery ({kind})", pool.name),
            (None, Some((_, _, error))) => {
                format!("pool `{}` waits for the first answer of its discovery ({kind}): {error}", pool.name)
            }
            (Some(_), _) => {
                let counts = pool.counts();
                let (left, all) = (counts.unproven, counts.members);
                format!("pool `{}` waits for the first probe of {left} of its {all} backends", pool.name)
            }
        });
    }
    waiting
}
