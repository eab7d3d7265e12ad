//! The healing policy of a cluster, as the planner reads it.

use jiff::SignedDuration;

/// Recoveries of automatic healing that are kept of each instance, however old they are.
pub const KEPT: usize = 5;

/// Whether gpheal acts by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealingMode {
    /// Repairs are made without asking.
    Automatic,
    /// Repairs are planned and shown, never made by gpheal itself; asked-for ones are.
    Observe,
}

/// When repairs of one instance are not begun by themselves any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// The so-many-th repair within the term is not begun.
    pub repairs: u32,
    /// The term: so long it has to be quiet before the next one is.
    pub within: SignedDuration,
}

impl Breaker {
    /// The longest term that is looked back over: twice as long, recoveries are kept however many there are.
    pub const LONGEST: SignedDuration = SignedDuration::from_hours(12);
}

impl Default for Breaker {
    fn default() -> Self {
        Self { repairs: 3, within: SignedDuration::from_hours(1) }
    }
}

/// What the user allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub mode: HealingMode,
    /// Automatic healing stands still; recoveries that people ask for still run.
    pub paused: bool,
    /// How long a mirror may be down before it is repaired, when its supervisor does not ask for it.
    pub grace: SignedDuration,
    /// Whether a full copy may replace a directory.
    pub full_allowed: bool,
    /// Bound of a full copy, bytes per second.
    pub max_rate: Option<u64>,
    /// Jobs of one cluster at once.
    pub max_jobs: usize,
    /// Attempts per instance and recovery that began to copy. What never began is bounded by `retry_for`.
    pub max_attempts: u32,
    /// How long attempts that fail before they copy are repeated, in a row, before their recovery ends.
    pub retry_for: SignedDuration,
    /// The rest before a recovery that ended for what passes by itself is taken up again by another one.
    pub again_after: SignedDuration,
    /// A mirror that falls so soon after a repair has fallen back: the fault is the same.
    pub watched_for: SignedDuration,
    /// What heals and falls again and again is left to a person for a while.
    pub breaker: Breaker,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: HealingMode::Automatic,
            paused: false,
            grace: SignedDuration::from_secs(30),
            full_allowed: true,
            max_rate: None,
            // Two copies saturate what one coordinator's worth of nodes usually shares: a network link.
            max_jobs: 2,
            max_attempts: 8,
            // What passes in a night, or by a person in the morning.
            retry_for: SignedDuration::from_hours(24),
            again_after: SignedDuration::from_hours(1),
            watched_for: SignedDuration::from_mins(10),
            breaker: Breaker::default(),
        }
    }
}
