//! Breadth first through all worlds: what every model of this crate shares, whatever its world is.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    hash::Hash,
    time::Duration,
};

use super::digest::{Hashed, digest};
use crate::{
    planted::{Bug, planted},
    record::{Phase, Record, Stamp},
    register::{Found, Swap, Swapped},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Invariant {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I10,
}

pub(super) type Checked<T = ()> = Result<T, (Invariant, &'static str)>;

pub(super) fn ensure(holds: bool, invariant: Invariant, otherwise: &'static str) -> Checked {
    if holds { Ok(()) } else { Err((invariant, otherwise)) }
}

/// A violation, and the shortest way to it.
pub(super) struct Broken<W> {
    pub(super) invariant: Invariant,
    pub(super) what: &'static str,
    pub(super) moves: Vec<Move>,
    world: W,
}

impl<W: fmt::Debug> fmt::Display for Broken<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} is broken: {}", self.invariant, self.what)?;
        for Move { party, what } in &self.moves {
            match party {
                Some(party) => writeln!(f, "  exchange {party}: {what}")?,
                None => writeln!(f, "  {what}")?,
            }
        }
        write!(f, "from {:?}", self.world)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) party: Option<usize>,
    pub(super) what: &'static str,
}

/// All there is at one moment.
pub(super) trait World: Clone + Hash + fmt::Debug {
    /// What stays the same in every moment.
    type Config;

    /// The first moment.
    fn new(config: &Self::Config) -> Self;

    /// Whatever may happen next, one at a time.
    fn moves(&self, config: &Self::Config, out: &mut dyn FnMut(Move, Checked<Self>));

    /// Whether nobody has anything left to do.
    fn is_at_rest(&self) -> bool;

    /// What must hold then.
    fn check_at_rest(&self, config: &Self::Config) -> Checked;
}

/// How many worlds there are, or the shortest way to one that breaks an invariant.
pub(super) fn explore<W: World>(config: &W::Config) -> Result<usize, Box<Broken<W>>> {
    let first = W::new(config);
    // States are told apart by 128 bits of hash: keeping a million whole worlds would take gigabytes.
    let mut seen = HashSet::from([digest(&first)]);
    let mut came_by: Vec<(usize, Move)> = vec![(0, Move { party: None, what: "start" })];
    let mut queue = VecDeque::from([(0, first)]);
    while let Some((index, world)) = queue.pop_front() {
        let broken = |(invariant, what), last: Option<Move>, came_by: &[(usize, Move)]| {
            let mut moves: Vec<Move> = last.into_iter().collect();
            let mut at = index;
            while at != 0 {
                moves.push(came_by[at].1);
                at = came_by[at].0;
            }
            moves.reverse();
            Box::new(Broken { invariant, what, moves, world: world.clone() })
        };
        if world.is_at_rest() {
            world.check_at_rest(config).map_err(|why| broken(why, None, &came_by))?;
        }
        let mut next = Vec::new();
        world.moves(config, &mut |step, result| next.push((step, result)));
        for (step, result) in next {
            let next = result.map_err(|why| broken(why, Some(step), &came_by))?;
            if seen.insert(digest(&next)) {
                queue.push_back((came_by.len(), next));
                came_by.push((index, step));
            }
        }
    }
    Ok(seen.len())
}

/// A register that holds something.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Cell {
    pub(super) stamp: Stamp,
    pub(super) age: Duration,
    pub(super) abandoned: bool,
    pub(super) record: Record,
}

impl Cell {
    /// What a store shows: it vanishes by a move, so here it is always within its retention.
    pub(super) fn found(&self) -> Found {
        let record = self.record.clone().at_age(self.age).expect("a record past its retention is taken away");
        Found { stamp: self.stamp, age: self.age, abandoned: self.abandoned, record }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.record.phase, Phase::InFlight { lease } if self.age < lease && !self.abandoned)
    }

    /// The next age at which something changes.
    pub(super) fn ages_to(&self) -> Duration {
        let steps = match &self.record.phase {
            Phase::InFlight { lease } => [*lease, self.record.retention],
            Phase::Unknown | Phase::Held { .. } => [self.record.retention; 2],
            Phase::Completed { replay_for, .. } => [*replay_for, self.record.retention],
        };
        steps.into_iter().find(|step| self.age < *step).expect("a record past its retention is taken away")
    }
}

/// The store contract.
pub(super) fn swap_in(cell: &mut Option<Hashed<Cell>>, swap: &Swap) -> Swapped {
    let there = cell.as_ref().map(|cell| cell.stamp);
    if let Some(put) = &swap.put
        && there == Some(put.stamp)
        && !planted(Bug::StoreForgetsStampRule)
    {
        return Swapped::Done;
    }
    if there == swap.expect {
        *cell = swap.put.clone().map(|put| {
            Hashed::new(Cell { stamp: put.stamp, age: Duration::ZERO, abandoned: false, record: put.record })
        });
        return Swapped::Done;
    }
    match cell {
        Some(cell) => Swapped::Found(cell.found()),
        None => Swapped::Absent,
    }
}
