//! What is written down in the volume's token: whose volume it is, and what a later start has to know of the coordinators, of the
//! other side, and of a person's word.

use jiff::Timestamp;

use super::{
    Supervisor, ask,
    facts::{Facts, OtherHere, PeerHere, RowHere},
    idle::Here,
    person::{Allowed, Said},
};
use crate::volume::{Token, TokenState, token::Replaced};
use model::{Look, Role, Timeline, page::Shape};

impl Supervisor {
    /// The other coordinator may be silent the next time.
    pub(super) fn remember_who_overtook(&mut self, timeline: Timeline) {
        self.memory.dispatched = None;
        let TokenState::Mine(token) = self.token_now() else { return };
        // Whatever was said of another one on that timeline before was not said of this one.
        let coordinator_word = self.memory.allowed.map(|word| word.to_string());
        let token = Token { coordinator_timeline: token.coordinator_timeline.max(timeline), coordinator_word, ..*token };
        if let Err(error) = self.volume.write_token(&token) {
            tracing::warn!(%error, "that the other coordinator has taken over could not be written down");
        }
    }

    /// What a person says of coordinators counts for what this volume has seen by the time at which it is said, and until it was
    /// heeded. That it is not said any more is remembered, too: the next time that it is, it is said anew. Whether it is news, and
    /// counts.
    pub(super) fn hear_of_coordinators(&mut self, said: &Said, known: &mut TokenState) -> bool {
        let is_new = self.memory.allowed != said.coordinator;
        self.memory.allowed = said.coordinator;
        let heard = |token: &Token| said.was_read.then(|| Allowed::spent(said.coordinator, token));
        let is_news = |token: &Token| heard(token).is_some_and(|spent| spent != token.coordinator_word);
        if matches!(known, TokenState::Mine(token) if is_news(token)) {
            *known = self.token_now();
        }
        let TokenState::Mine(token) = known else { return false };
        if let Some(spent) = heard(token).filter(|spent| *spent != token.coordinator_word) {
            token.coordinator_word = spent;
            self.spend(token);
        }
        is_new && Allowed::unless_spent(said.coordinator, token).is_some()
    }

    /// A coordinator was believed, so what a person has said of coordinators is heeded: this one's timeline is the highest that
    /// counts from now on, and one that is activated later may have the very number of the one that was given up.
    pub(super) fn heed_of_coordinators(&self, believed: Timeline) {
        let TokenState::Mine(token) = self.token_now() else { return };
        let Some(word) = Allowed::unless_spent(self.memory.allowed, &token) else { return };
        let coordinator_timeline = Allowed::floor(Some(word), token.coordinator_timeline).max(believed);
        self.spend(&Token { coordinator_timeline, coordinator_word: Some(word.to_string()), ..*token });
    }

    fn spend(&self, token: &Token) {
        if let Err(error) = self.volume.write_token(token) {
            tracing::warn!(%error, "what a person says of coordinators could not be written down");
        }
    }

    /// A person said so; the annotation may go.
    pub(super) fn forget_replaced(&self, facts: &Facts) {
        let TokenState::Mine(token) = self.token_now() else { return };
        let lifts = |evidence: &String| facts.not_replaced.lifts(evidence);
        let left_behind = match (&facts.peer, &facts.other) {
            (Look::Seen(PeerHere { holds_more: Some(more), .. }), _) | (_, Look::Seen(OtherHere::HoldsMore(more))) => {
                Some(more.copy.clone())
            }
            (Look::Seen(_) | Look::Unknown(_), Look::Seen(_) | Look::Unknown(_)) => None,
        };
        let replaced = token.replaced.clone().filter(|replaced| !lifts(&replaced.evidence()));
        let waived = left_behind.filter(lifts).or_else(|| token.waived.clone());
        if (&replaced, &waived) == (&token.replaced, &token.waived) {
            return;
        }
        let token = Token { waived, replaced, ..*token };
        if let Err(error) = self.volume.forget_confirmed().and_then(|()| self.volume.write_token(&token)) {
            tracing::warn!(%error, "that this instance was not replaced could not be written down");
        }
    }

    /// The next catalog may be one from before this instance was replaced.
    pub(super) fn remember_replaced(&self, here: &Here) {
        self.adopt_or_warn(here);
        let token = match self.token_now() {
            TokenState::Mine(token) if token.replaced.is_none() => token,
            TokenState::Mine(_) | TokenState::Absent | TokenState::Foreign(_) => return,
        };
        let replaced = Replaced { coordinator_timeline: token.coordinator_timeline, at: Timestamp::now() };
        // What it followed before it was a primary itself says nothing of what it wrote since.
        let token = Token { replaced: Some(replaced), ..token.following_nobody() };
        if let Err(error) = self.volume.write_token(&token) {
            tracing::warn!(%error, "that this instance was replaced could not be written down");
        }
    }

    /// A stale primary that came under a supervisor after it was replaced never starts, and its repair wants the token: it
    /// has the database, dbid and place of its row, which is all that a first start asks for.
    pub(super) fn adopt_or_warn(&self, here: &Here) {
        if let Err(error) = self.adopt(here) {
            tracing::warn!(%error, "the volume could not be adopted");
        }
    }

    /// Writes the token at the first start, and what was learned from the catalog since.
    pub(super) fn adopt(&self, here: &Here) -> anyhow::Result<()> {
        let old = match &here.token {
            TokenState::Mine(token) => Some(token.as_ref()),
            TokenState::Absent => None,
            TokenState::Foreign(_) => return Ok(()), // a person works here (maintenance); whose volume it is stays written
        };
        let Some(token) = old.cloned().or_else(|| self.first_token(here)).filter(|_| here.is_known()) else { return Ok(()) };
        let token = self.learned(token, here.shaped.shape);
        if old != Some(&token) {
            self.volume.write_token(&token)?;
        }
        Ok(())
    }

    /// Of what the directory and its row say it is.
    fn first_token(&self, here: &Here) -> Option<Token> {
        Some(Token {
            cluster: self.config.cluster.clone(),
            system_identifier: here.shaped.control.as_ref()?.system_identifier,
            dbid: here.dbid?,
            content: here.content?,
            address: self.config.address.clone(),
            port: self.config.port,
            data_directory: self.config.data_directory.to_string_lossy().into_owned(),
            coordinator_timeline: Timeline(0),
            peer: None,
            followed: vec![],
            followed_in: None,
            followed_control: None,
            waived: None,
            replaced: None,
            coordinator: None,
            // Said before this volume had seen anybody.
            coordinator_word: self.memory.allowed.map(|word| word.to_string()),
            adopted: Timestamp::now(),
        })
    }

    /// Of a coordinator that does not know this place nothing is learned.
    fn learned(&self, token: Token, shape: Shape) -> Token {
        let Some(answer) = &self.memory.answer else { return token };
        let Look::Seen(RowHere::Mine { role, .. }) = ask::row_here(&self.config, &answer.catalog, Some(token.dbid)) else { return token };
        Token {
            coordinator_timeline: token.coordinator_timeline.max(answer.timeline),
            coordinator: token.coordinator.or(answer.system_identifier),
            peer: ask::peer_of(&answer.catalog, token.content, token.dbid).or(token.peer),
            // Whoever made it a mirror again, by hand perhaps, ended that it was a stale primary.
            replaced: token.replaced.filter(|_| role == Role::Primary || shape != Shape::Mirror),
            ..token
        }
    }
}
