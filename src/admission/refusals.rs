//! Collects the refusals of a pod, in the order of the rules.

use super::refusal::Refusal;

/// The refusals of a pod. The first one is the webhook's response.
#[derive(Debug)]
pub(super) struct Refusals {
    found: Vec<Refusal>,
    wanted: WantedRefusals,
}

/// The refusals that a caller wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum WantedRefusals {
    /// All, for people who correct a manifest.
    All,
    /// The first one. The decision ends with it, so a pod with many of them costs no more.
    First,
}

/// The end of a decision: the pod is refused.
#[derive(Debug)]
pub(super) struct Stop;

impl Refusals {
    pub(super) fn new(wanted: WantedRefusals) -> Self {
        Self { found: Vec::new(), wanted }
    }

    /// Adds a refusal. Ends the decision if no further one is wanted.
    pub(super) fn add(&mut self, refusal: Refusal) -> Result<(), Stop> {
        self.found.push(refusal);
        match self.wanted {
            WantedRefusals::All => Ok(()),
            WantedRefusals::First => Err(Stop),
        }
    }

    pub(super) fn add_all(
        &mut self,
        refusals: impl IntoIterator<Item = Refusal>,
    ) -> Result<(), Stop> {
        refusals.into_iter().try_for_each(|refusal| self.add(refusal))
    }

    /// Adds the refusal of a result, or returns its value.
    pub(super) fn add_error<T>(&mut self, result: Result<T, Refusal>) -> Result<Option<T>, Stop> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(refusal) => self.add(refusal).map(|()| None),
        }
    }

    /// Adds a refusal without which no further rule can be evaluated.
    pub(super) fn end_with(&mut self, refusal: Refusal) -> Stop {
        self.found.push(refusal);
        Stop
    }

    /// Ends the decision if there are refusals.
    pub(super) fn end(&self) -> Result<(), Stop> {
        if self.found.is_empty() { Ok(()) } else { Err(Stop) }
    }

    pub(super) fn into_vec(self) -> Vec<Refusal> {
        self.found
    }
}
