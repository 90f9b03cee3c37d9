//! PURE. Which index to ask for next: Consul's rules for blocking queries, which few clients keep.

/// Starts with a question that does not block.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Index {
    /// 0 = answer at once.
    next: u64,
    /// Of the last answer, also when errors came since; 0 = none.
    last: u64,
}

impl Index {
    /// For the next query; `None` = one that does not block.
    pub(super) fn to_ask(self) -> Option<u64> {
        (self.next > 0).then_some(self.next)
    }

    /// The last query was answered with `index`; says whether that went back, also behind errors, as it does when an agent
    /// or its cluster started again. Then nothing is known about what is new, and the next query does not block.
    pub(super) fn answered(&mut self, index: Option<u64>) -> bool {
        let Some(index) = index else {
            // Without an index nothing can be waited for: ask at the pace of the bucket.
            self.next = 0;
            return false;
        };
        // Below 1 a query would not block.
        let index = index.max(1);
        let went_back = index < self.last;
        self.last = index;
        // After an error nothing was waited for: this answer is as new as one without an index.
        self.next = if index < self.next { 0 } else { index };
        went_back
    }

    /// The last query failed: the next answer may come from an agent that counts otherwise.
    pub(super) fn failed(&mut self) {
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forward_same_and_back() {
        let mut index = Index::default();
        assert_eq!(index.to_ask(), None);
        assert!(!index.answered(Some(900)));
        assert_eq!(index.to_ask(), Some(900));
        assert!(!index.answered(Some(900)));
        assert_eq!(index.to_ask(), Some(900));
        assert!(index.answered(Some(11)));
        assert_eq!(index.to_ask(), None);
        assert!(!index.answered(Some(11)));
        assert_eq!(index.to_ask(), Some(11));
    }

    #[test]
    fn below_one_is_one() {
        let mut index = Index::default();
        assert!(!index.answered(Some(0)));
        assert_eq!(index.to_ask(), Some(1));
        assert!(!index.answered(Some(0)));
        assert_eq!(index.to_ask(), Some(1));
    }

    #[test]
    fn errors_and_answers_without_an_index_start_anew() {
        let mut index = Index::default();
        index.answered(Some(5));
        index.failed();
        assert_eq!(index.to_ask(), None);
        // Back, and an answer to a question without an index: no need to ask again at once.
        assert!(index.answered(Some(3)));
        assert_eq!(index.to_ask(), Some(3));
        assert!(!index.answered(None));
        assert_eq!(index.to_ask(), None);
    }
}
