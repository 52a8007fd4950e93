//! The archive's side of mirrors' consumers: takes what mirrors ask for, and makes it.
//!
//! A mirror has few consumers and fixed names for them, so that of what it asks only the newest word about each waits:
//! whoever floods waits for himself. One of a mirror is made at a time, that of the priority lane first.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_nats::Subject;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use mirrorlog_core::id::{Lane, MirrorId};
use tokio::time::Instant;

use crate::Reaction;

use super::access::consumer_request;
use super::consumer::{ASK_TIMEOUT, Answer, Ask, AskError, Plan, Question};
use super::{Log, LogError};

/// Mirrors for which something is made at the same time: all ask at once when nats-server was restarted, and one whose
/// server is down takes a second.
const AT_ONCE_MAX: usize = 64;
/// After one was made, a mirror's next waits so long: twenty a second at most, however many it asks for.
const PAUSE: Duration = Duration::from_millis(50);
/// It waits so many times as long as that one took: many filters keep nats-server busy for half a second.
const PAUSE_TIMES: u32 = 5;
/// Questions of one mirror in a second that are looked at; it has seven consumers, and asks for each once a second.
const ASKS_PER_S: u32 = 32;
/// Largest question, in bytes: as many channels as there may be, with room.
const ASK_MAX_BYTES: usize = 96 * 1024;
/// Of several archives one answers.
const GROUP: &str = "mirrorlog-archive";

impl Log {
    /// Makes the consumers that mirrors ask for, until the connection is closed for good. Where the user is not the
    /// archive's, mirrors make their own, and nothing is to be done. This is to be a connection of its own,
    /// [`Log::connect_for_questions`]: a flood of them is nobody else's.
    ///
    /// # Errors
    /// [`LogError::Down`].
    pub async fn make_mirrors_consumers(&self) -> Result<(), LogError> {
        if !self.makes {
            return Ok(());
        }
        let doing = "listening for mirrors that ask for consumers";
        let subject = consumer_request("*");
        let asked = self.client.queue_subscribe(subject, GROUP.to_owned()).await;
        let mut asked = asked.map_err(|error| LogError::down(doing, error))?;
        let mut waiting = Waiting::default();
        let (mut under_way, mut resting) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            while under_way.len() < AT_ONCE_MAX
                && let Some((mirror, slot, asked)) = waiting.take()
            {
                under_way.push(self.answer(mirror, slot, asked));
            }
            tokio::select! {
                Some((mirror, made, took)) = under_way.next(), if !under_way.is_empty() => {
                    waiting.made(&mirror, made);
                    let pause = PAUSE.max(took.saturating_mul(PAUSE_TIMES));
                    resting.push(async move {
                        tokio::time::sleep(pause).await;
                        mirror
                    });
                }
                Some(mirror) = resting.next(), if !resting.is_empty() => waiting.rested(&mirror),
                message = asked.next() => match message {
                    Some(message) if !waiting.hears(&message, Instant::now()) => {}
                    Some(message) => match read(&message) {
                        Some((mirror, slot, asked)) => waiting.add(mirror, slot, asked),
                        None => tracing::debug!(subject = %message.subject, "no mirror's question"),
                    },
                    None => return Err(LogError::down(doing, "the connection is closed")),
                },
            }
        }
    }

    /// Gives which of the mirror's consumers was made, to which question, and how long that took.
    async fn answer(
        &self,
        mirror: MirrorId,
        slot: Slot,
        asked: Asked,
    ) -> (MirrorId, Option<(Slot, u64)>, Duration) {
        let begun = Instant::now();
        // Who asked waits no more.
        if asked.at.elapsed() >= ASK_TIMEOUT {
            return (mirror, None, Duration::ZERO);
        }
        let answer = match asked.plan {
            None => Answer::Made,
            Some(Ok(plan)) => match self.make_own_consumer(plan).await {
                Ok(_) => Answer::Made,
                Err(error) => {
                    let text = wire::causes(&error);
                    tracing::warn!(%mirror, error = text, "a mirror's consumer was not made");
                    match error.reaction() {
                        Reaction::Retry => Answer::Later(text),
                        Reaction::Park | Reaction::Halt => Answer::Refused(text),
                    }
                }
            },
            Some(Err(error)) => Answer::Refused(error.to_string()),
        };
        let payload = serde_json::to_vec(&answer).unwrap_or_default();
        if let Err(error) = self.client.publish(asked.reply, payload.into()).await {
            tracing::debug!(%mirror, %error, "a mirror was not answered");
        }
        let made = (answer == Answer::Made).then_some((slot, asked.id));
        (mirror, made, begun.elapsed())
    }
}

/// A mirror's question.
#[derive(Debug)]
struct Asked {
    id: u64,
    /// What is to be made; none where it was made already, and the answer was lost or late.
    plan: Option<Result<Plan, AskError>>,
    reply: Subject,
    at: Instant,
}

/// Which of a mirror's consumers; in the order in which they are made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Lane(Lane),
    Read(String),
    /// None: the answer says why.
    None,
}

fn read(message: &async_nats::Message) -> Option<(MirrorId, Slot, Asked)> {
    let mirror = MirrorId::new(message.subject.rsplit('.').next()?).ok()?;
    let reply = message.reply.clone()?;
    if message.payload.len() > ASK_MAX_BYTES {
        return None;
    }
    let Question { id, ask } = serde_json::from_slice(&message.payload).ok()?;
    let plan = ask.plan(mirror.as_str());
    let slot = match (&plan, ask) {
        (Err(_), _) => Slot::None,
        (Ok(_), Ask::Read { stream, .. }) => Slot::Read(stream),
        (Ok(_), Ask::Lane { lane, .. }) => {
            let lane = Lane::ALL.into_iter().find(|known| known.as_str() == lane);
            lane.map_or(Slot::None, Slot::Lane)
        }
    };
    let asked = Asked {
        id,
        plan: Some(plan),
        reply,
        at: Instant::now(),
    };
    Some((mirror, slot, asked))
}

/// What mirrors asked for and is not under way.
#[derive(Debug, Default)]
struct Waiting {
    /// All mirrors that ever asked; nobody asks without a user.
    mirrors: BTreeMap<MirrorId, Turn>,
    /// Mirrors of which something waits and nothing is under way.
    next: VecDeque<MirrorId>,
}

#[derive(Debug, Default)]
struct Turn {
    under_way: bool,
    /// The newest question about each consumer.
    questions: BTreeMap<Slot, Asked>,
    /// The question to which each consumer was last made.
    made: BTreeMap<Slot, u64>,
    /// The second in which it asks, and how often it has.
    asks: Option<(Instant, u32)>,
}

impl Waiting {
    /// True for a question of a mirror that has not asked too often; nothing else of it is looked at before.
    fn hears(&mut self, message: &async_nats::Message, now: Instant) -> bool {
        let name = message.subject.rsplit('.').next();
        let Some(Ok(mirror)) = name.map(MirrorId::new) else {
            return false;
        };
        let turn = self.mirrors.entry(mirror).or_default();
        let (since, asks) = turn
            .asks
            .filter(|(since, _)| now.duration_since(*since) < Duration::from_secs(1))
            .unwrap_or((now, 0));
        turn.asks = Some((since, asks.saturating_add(1)));
        asks < ASKS_PER_S
    }

    fn add(&mut self, mirror: MirrorId, slot: Slot, asked: Asked) {
        let turn = self.mirrors.entry(mirror.clone()).or_default();
        let queued = turn.under_way || !turn.questions.is_empty();
        turn.questions.insert(slot, asked);
        if !queued {
            self.next.push_back(mirror);
        }
    }

    /// What is to be answered next.
    fn take(&mut self) -> Option<(MirrorId, Slot, Asked)> {
        let mirror = self.next.pop_front()?;
        let turn = self.mirrors.get_mut(&mirror)?;
        let (slot, mut asked) = turn.questions.pop_first()?;
        turn.under_way = true;
        if turn.made.get(&slot) == Some(&asked.id) {
            asked.plan = None;
        }
        Some((mirror, slot, asked))
    }

    /// It was answered.
    fn made(&mut self, mirror: &MirrorId, made: Option<(Slot, u64)>) {
        if let Some(turn) = self.mirrors.get_mut(mirror) {
            turn.made.extend(made);
        }
    }

    /// Its next question is answered.
    fn rested(&mut self, mirror: &MirrorId) {
        let Some(turn) = self.mirrors.get_mut(mirror) else {
            return;
        };
        turn.under_way = false;
        if !turn.questions.is_empty() {
            self.next.push_back(mirror.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(subject: &str, reply: Option<&str>, payload: &str) -> async_nats::Message {
        async_nats::Message {
            subject: subject.into(),
            reply: reply.map(Into::into),
            payload: payload.to_owned().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        }
    }

    fn add(waiting: &mut Waiting, mirror: &str, payload: &str, reply: &str) {
        let message = message(
            &format!("mirrorlog.consumer.{mirror}"),
            Some(reply),
            payload,
        );
        let (mirror, slot, asked) = read(&message).unwrap();
        waiting.add(mirror, slot, asked);
    }

    const BULK: &str = r#"{"id":1,"ask":{"lane":{"lane":"bulk","channels":["noble"],"floor":3}}}"#;
    const PRIORITY: &str = r#"{"id":2,"ask":{"lane":{"lane":"priority","channels":[],"floor":0}}}"#;
    const ORDERS: &str =
        r#"{"id":3,"ask":{"read":{"stream":"MIRRORLOG_ORDER","start":{"sequence":4}}}}"#;

    /// What is answered next: to whom, where, and whether something is made for it.
    fn taken(waiting: &mut Waiting) -> Option<(MirrorId, Slot, u64, String, bool)> {
        let (mirror, slot, asked) = waiting.take()?;
        let makes = asked.plan.is_some();
        Some((mirror, slot, asked.id, asked.reply.to_string(), makes))
    }

    #[test]
    fn a_mirror_that_floods_waits_for_itself() {
        let mut waiting = Waiting::default();
        for n in 0..1000 {
            add(&mut waiting, "nz1", BULK, &format!("bulk{n}"));
            add(&mut waiting, "nz1", ORDERS, &format!("orders{n}"));
        }
        let unknown = ORDERS.replace("MIRRORLOG_ORDER", "OTHER");
        add(&mut waiting, "nz1", &unknown, "one");
        add(
            &mut waiting,
            "nz1",
            &unknown.replace("OTHER", "ANOTHER"),
            "other",
        );
        add(&mut waiting, "au1", ORDERS, "au");
        add(&mut waiting, "nz1", PRIORITY, "priority");
        let nz1 = MirrorId::new("nz1").unwrap();
        assert_eq!(waiting.mirrors[&nz1].questions.len(), 4);
        // One of a mirror at a time, the newest word about each, the priority lane first.
        let mut replies = Vec::new();
        for _ in 0..2 {
            let (.., reply, _) = taken(&mut waiting).unwrap();
            replies.push(reply);
        }
        assert!(taken(&mut waiting).is_none());
        for _ in 0..3 {
            waiting.rested(&nz1);
            let (.., reply, _) = taken(&mut waiting).unwrap();
            replies.push(reply);
        }
        waiting.rested(&nz1);
        assert!(taken(&mut waiting).is_none());
        assert_eq!(replies, ["priority", "au", "bulk999", "orders999", "other"]);
    }

    #[test]
    fn attack_a_flood_of_questions_is_not_read() {
        let mut waiting = Waiting::default();
        let begun = Instant::now();
        let of = |mirror: &str| message(&format!("mirrorlog.consumer.{mirror}"), None, "");
        let heard = |waiting: &mut Waiting, at: Instant| {
            (0..100_000)
                .filter(|_| waiting.hears(&of("nz1"), at))
                .count()
        };
        assert_eq!(heard(&mut waiting, begun), ASKS_PER_S as usize);
        assert!(waiting.hears(&of("au1"), begun));
        assert!(!waiting.hears(&of("NO MIRROR"), begun));
        let later = begun + Duration::from_secs(1);
        assert_eq!(heard(&mut waiting, later), ASKS_PER_S as usize);
    }

    #[test]
    fn what_is_asked_again_is_made_once() {
        let mut waiting = Waiting::default();
        add(&mut waiting, "nz1", BULK, "first");
        let (mirror, slot, id, _, makes) = taken(&mut waiting).unwrap();
        assert!(makes);
        // It is asked again while it is made: the second answer is the one that is waited for.
        add(&mut waiting, "nz1", BULK, "again");
        waiting.made(&mirror, Some((slot, id)));
        waiting.rested(&mirror);
        let (_, slot, id, reply, makes) = taken(&mut waiting).unwrap();
        assert_eq!((reply.as_str(), makes), ("again", false));
        waiting.made(&mirror, Some((slot, id)));
        waiting.rested(&mirror);
        add(
            &mut waiting,
            "nz1",
            &BULK.replace("\"id\":1", "\"id\":9"),
            "anew",
        );
        assert!(taken(&mut waiting).unwrap().4);
    }

    #[test]
    fn what_is_no_question_is_left() {
        let subject = "mirrorlog.consumer.nz1";
        assert!(read(&message(subject, Some("there"), BULK)).is_some());
        assert!(read(&message(subject, None, BULK)).is_none());
        assert!(read(&message("mirrorlog.consumer.NZ", Some("there"), BULK)).is_none());
        let large = BULK.replace("noble", &"n".repeat(ASK_MAX_BYTES));
        for junk in ["", "{}", "\"made\"", "event", &large] {
            assert!(read(&message(subject, Some("there"), junk)).is_none());
        }
        let (_, slot, asked) = read(&message(
            subject,
            Some("there"),
            &BULK.replace("bulk", "fast"),
        ))
        .unwrap();
        assert_eq!(slot, Slot::None);
        assert!(matches!(asked.plan, Some(Err(AskError::Lane(_)))));
    }
}
