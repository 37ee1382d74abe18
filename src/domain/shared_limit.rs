//! A limit that all accounts share: whoever would have more than its share is refused, and nobody else.

/// The last quarter of a limit is for those that have little of it.
const LAST_PART: u64 = 4;
/// In the last quarter each may have an eighth of what is left.
const REST_PART: u64 = 8;

/// A limit, and the part of it that one may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedLimit {
    /// Of all together.
    pub max: u64,
    /// Of one.
    pub own_max: u64,
}

impl SharedLimit {
    /// What one may have, with `new` more of its own, while all together have `in_all`. As long as something is left
    /// there is a part for whoever has nothing yet.
    pub fn share(&self, in_all: u64, new: u64) -> u64 {
        if self.is_far(in_all, new) {
            return self.own_max;
        }
        self.own_max.min(self.max.saturating_sub(in_all) / REST_PART)
    }

    /// Whether nobody can be over its share.
    pub fn has_room(&self, in_all: u64, new: u64) -> bool {
        self.is_far(in_all, new) && in_all.saturating_add(new) <= self.own_max
    }

    fn is_far(&self, in_all: u64, new: u64) -> bool {
        in_all.saturating_add(new) <= self.max - self.max / LAST_PART
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_nothing_gets_a_part_however_many_take_theirs() {
        let limit = SharedLimit { max: 1_000_000, own_max: 500_000 };
        let mut parts = Vec::new();
        for _ in 0..40 {
            let mut own = 0;
            loop {
                let in_all = parts.iter().sum::<u64>() + own;
                if own + 10 > limit.share(in_all, 10) {
                    break;
                }
                own += 10;
            }
            parts.push(own);
        }
        assert_eq!(parts[..2], [500_000, 250_000]);
        assert!(parts.iter().all(|own| *own > 0), "{parts:?}");
        assert!(parts.iter().sum::<u64>() <= limit.max);
    }

    #[test]
    fn one_may_have_all_but_the_last_quarter_if_it_is_let() {
        let limit = SharedLimit { max: 1000, own_max: 1000 };
        assert_eq!(limit.share(0, 750), 1000);
        assert_eq!(limit.share(750, 1), 31);
        assert_eq!(limit.share(1000, 1), 0);
        assert!(limit.has_room(749, 1) && !limit.has_room(750, 1));
    }
}
