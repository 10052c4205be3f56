//! How many shards an owner may hold, and which: evenly, but that a shard with a lane that some owners lack is for the others.

use std::collections::BTreeMap;

use crate::store::SHARDS;

/// One who shares the shards, and those with lanes that it lacks.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) id: i64,
    pub(super) lacks: Vec<i16>,
}

/// What one owner may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spread {
    /// What others lack and this one does not: what the most lack first.
    pub(super) first: Vec<i16>,
    /// What this one lacks and another does not.
    pub(super) never: Vec<i16>,
    /// How many of `first`,
    pub(super) first_share: i64,
    /// and how many of the rest.
    pub(super) rest_share: i64,
}

impl Spread {
    /// That of `me` among the `live`, itself one of them. What all of them lack is like any other.
    pub(super) fn of(me: i64, live: &[Owner]) -> Self {
        let (all, before) = (live.len().max(1), live.iter().filter(|owner| owner.id < me).count());
        let shards = usize::from(SHARDS);
        let share = shards / all + usize::from(before < shards % all);
        // By shard: how many lack it.
        let mut lacking: BTreeMap<i16, usize> = BTreeMap::new();
        for shard in live.iter().flat_map(|owner| &owner.lacks) {
            *lacking.entry(*shard).or_default() += 1;
        }
        lacking.retain(|_, count| *count < all);
        let lacks = |shard: &i16| live.iter().any(|owner| owner.id == me && owner.lacks.contains(shard));
        let (never, mut first): (Vec<_>, Vec<_>) = lacking.keys().copied().partition(lacks);
        first.sort_by_key(|shard| std::cmp::Reverse(lacking.get(shard).copied()));
        // What this one's part of each comes to, in parts so small that nothing is lost by it.
        const PARTS: usize = 1 << 20;
        let part = |shard: &i16| PARTS / (all - lacking.get(shard).copied().unwrap_or_default()).max(1);
        let parts: usize = first.iter().map(part).sum();
        let signed = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        Self { first, never, first_share: signed(parts.div_ceil(PARTS)), rest_share: signed(share.saturating_sub(parts / PARTS)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(id: i64, lacks: &[i16]) -> Owner {
        Owner { id, lacks: lacks.to_vec() }
    }

    #[test]
    fn without_differences_the_shares_are_even() {
        let live = [owner(1, &[]), owner(2, &[]), owner(3, &[])];
        let shares: Vec<_> = live.iter().map(|it| Spread::of(it.id, &live)).collect();
        assert_eq!(shares.iter().map(|it| it.rest_share).collect::<Vec<_>>(), [86, 85, 85]);
        assert!(shares.iter().all(|it| it.first.is_empty() && it.never.is_empty() && it.first_share == 0));
        // What everybody lacks is nobody's matter.
        let live = [owner(1, &[7]), owner(2, &[7])];
        assert_eq!(Spread::of(1, &live), Spread { first: vec![], never: vec![], first_share: 0, rest_share: 128 });
    }

    #[test]
    fn what_an_owner_lacks_is_for_those_who_do_not() {
        let live = [owner(1, &[3, 9]), owner(2, &[9]), owner(3, &[])];
        assert_eq!(Spread::of(1, &live), Spread { first: vec![], never: vec![3, 9], first_share: 0, rest_share: 86 });
        assert_eq!(Spread::of(2, &live), Spread { first: vec![3], never: vec![9], first_share: 1, rest_share: 85 });
        assert_eq!(Spread::of(3, &live), Spread { first: vec![9, 3], never: vec![], first_share: 2, rest_share: 84 });
    }

    proptest! {
        #[test]
        fn the_shares_cover_all_there_is(lacks in proptest::collection::vec(proptest::collection::btree_set(0..256_i16, 0..256), 1..6)) {
            let live: Vec<_> = (1..).zip(&lacks).map(|(id, lacks)| owner(id, &lacks.iter().copied().collect::<Vec<_>>())).collect();
            let spreads: Vec<_> = live.iter().map(|it| Spread::of(it.id, &live)).collect();
            let special: std::collections::BTreeSet<i16> = spreads.iter().flat_map(|it| it.first.iter().chain(&it.never)).copied().collect();
            let sum = |of: fn(&Spread) -> i64| spreads.iter().map(of).sum::<i64>();
            prop_assert!(special.len() as i64 <= sum(|it| it.first_share));
            prop_assert!(256 - special.len() as i64 <= sum(|it| it.rest_share));
            for shard in special {
                prop_assert!(spreads.iter().any(|it| it.first.contains(&shard)), "somebody may hold {}", shard);
            }
        }
    }
}
