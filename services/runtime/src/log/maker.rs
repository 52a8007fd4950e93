//! The archive's side of others' consumers: takes what they ask for, and makes it.
//!
//! A user reads few streams, so that of what it asks only the newest word about each waits: whoever floods waits for
//! himself. One of a user is made at a time, that of the priority lane first.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::consumer::IntoConsumerConfig as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use mirrorlog_core::id::Lane;
use tokio::time::Instant;

use crate::Reaction;

use super::access::{Right, User, consumer_request};
use super::consumer::{Answer, Ask, AskError, Plan, Question};
use super::making::ASK_TIMEOUT;
use super::{Log, LogError};

/// Users for which something is made at the same time: all ask at once when nats-server was restarted, and one whose
/// server is down takes seconds.
const AT_ONCE_MAX: usize = 64;
/// After one was made, a user's next waits so long: twenty a second at most, however many it asks for.
const PAUSE: Duration = Duration::from_millis(50);
/// It waits so many times as long as that one took: many filters keep nats-server busy for half a second.
const PAUSE_TIMES: u32 = 5;
/// But no longer than this: whoever asks gives up after ten seconds, and a server that is down takes most of them.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Questions of one mirror in a second that are looked at; it has seven consumers, and asks for each once a second.
const ASKS_PER_S: u32 = 32;
/// The same of a service of the centre: eight consumers each of a few replicas.
const SERVICES_ASKS_PER_S: u32 = 128;
/// Questions of one user that wait, and answers to it that are remembered.
const QUESTIONS_MAX: usize = 128;
/// Largest question, in bytes: as many channels as there may be, with room.
const ASK_MAX_BYTES: usize = 96 * 1024;
/// Of several archives one answers.
const GROUP: &str = "mirrorlog-archive";

impl Log {
    /// Makes the consumers that others ask for, until the connection is closed for good. Where the user is not the
    /// archive's, everybody makes his own, and nothing is to be done. This is to be a connection of its own,
    /// [`Log::connect_for_questions`]: a flood of them is nobody else's.
    ///
    /// # Errors
    /// [`LogError::Down`].
    pub async fn make_others_consumers(&self) -> Result<(), LogError> {
        if !self.makes {
            return Ok(());
        }
        let doing = "listening for those who ask for consumers";
        let subject = consumer_request("*");
        let asked = self.client.queue_subscribe(subject, GROUP.to_owned()).await;
        let mut asked = asked.map_err(|error| LogError::down(doing, error))?;
        let mut waiting = Waiting::default();
        let (mut under_way, mut resting) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            while under_way.len() < AT_ONCE_MAX
                && let Some((user, slot, asked)) = waiting.take()
            {
                under_way.push(self.answer(user, slot, asked));
            }
            tokio::select! {
                Some((user, told, took)) = under_way.next(), if !under_way.is_empty() => {
                    // Who asked again meanwhile listens for an answer to that.
                    if let Some((reply, answer)) = told.and_then(|told| waiting.told(&user, told)) {
                        self.tell(&user, reply, &answer).await;
                    }
                    let pause = took.saturating_mul(PAUSE_TIMES).clamp(PAUSE, PAUSE_MAX);
                    resting.push(async move {
                        tokio::time::sleep(pause).await;
                        user
                    });
                }
                Some(user) = resting.next(), if !resting.is_empty() => waiting.rested(&user),
                message = asked.next() => match message {
                    Some(message) if !waiting.hears(&message, Instant::now()) => {}
                    Some(message) => match read(&message) {
                        Some((user, slot, asked)) => waiting.add(user, slot, asked),
                        None => tracing::debug!(subject = %message.subject, "no question"),
                    },
                    None => return Err(LogError::down(doing, "the connection is closed")),
                },
            }
        }
    }

    /// Gives what was answered to which question, if anything, and how long that took.
    async fn answer(
        &self,
        user: String,
        slot: Slot,
        asked: Asked,
    ) -> (String, Option<Told>, Duration) {
        let begun = Instant::now();
        // Who asked waits no more.
        if asked.at.elapsed() >= ASK_TIMEOUT {
            return (user, None, Duration::ZERO);
        }
        let answer = match asked.work {
            Work::Done(answer) => answer,
            Work::Make(plan) => match self.make_for(*plan).await {
                Ok(None) => Answer::Made,
                Ok(Some(name)) => Answer::MadeAs(name),
                Err(error) => {
                    let text = wire::causes(&error);
                    tracing::warn!(user, error = text, "a consumer was not made for another");
                    match error.reaction() {
                        Reaction::Retry => Answer::Later(text),
                        Reaction::Park | Reaction::Halt => Answer::Refused(text),
                    }
                }
            },
            Work::Refuse(error) => Answer::Refused(error.to_string()),
        };
        self.tell(&user, asked.reply, &answer).await;
        let to = asked.id;
        (user, Some(Told { slot, to, answer }), begun.elapsed())
    }

    async fn tell(&self, user: &str, reply: Subject, answer: &Answer) {
        let payload = serde_json::to_vec(answer).unwrap_or_default();
        if let Err(error) = self.client.publish(reply, payload.into()).await {
            tracing::debug!(user, %error, "who asked for a consumer was not answered");
        }
    }
}

/// A user's question.
#[derive(Debug)]
struct Asked {
    id: u64,
    work: Work,
    reply: Subject,
    at: Instant,
}

/// What is to be done before it is answered.
#[derive(Debug)]
enum Work {
    Make(Box<Plan>),
    /// It was made already, and the answer was lost or late.
    Done(Answer),
    Refuse(AskError),
}

/// What was answered about a consumer, and to which question.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    slot: Slot,
    to: u64,
    answer: Answer,
}

/// Which of a user's consumers; in the order in which they are made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Lane(Lane),
    /// Of a stream; of a service of the centre, by the reader's number, too.
    Read(String, Option<u64>),
    /// None: the answer says why.
    None,
}

/// The user that asks: it cannot publish in another's place.
fn asking(message: &async_nats::Message) -> Option<User> {
    let user = User::named(message.subject.rsplit('.').next()?)?;
    user.right().asks().then_some(user)
}

fn read(message: &async_nats::Message) -> Option<(String, Slot, Asked)> {
    let user = asking(message)?;
    let reply = message.reply.clone()?;
    if message.payload.len() > ASK_MAX_BYTES {
        return None;
    }
    let Question { id, ask } = serde_json::from_slice(&message.payload).ok()?;
    let plan = ask.plan(&user);
    let slot = match (&plan, ask) {
        (Err(_), _) => Slot::None,
        (Ok(_), Ask::Read { stream, .. }) if user.right() == Right::Mirror => {
            Slot::Read(stream, None)
        }
        (Ok(_), Ask::Read { stream, reader, .. }) => Slot::Read(stream, reader),
        (Ok(_), Ask::Lane { lane, .. }) => {
            let lane = Lane::ALL.into_iter().find(|known| known.as_str() == lane);
            lane.map_or(Slot::None, Slot::Lane)
        }
    };
    let asked = Asked {
        id,
        work: plan.map_or_else(Work::Refuse, |plan| Work::Make(Box::new(plan))),
        reply,
        at: Instant::now(),
    };
    Some((user.name().to_owned(), slot, asked))
}

/// What the archive would make for a user who asks, as NATS' own tools read it: the stream and the consumer. None for what
/// is no question; otherwise the refusal.
pub fn consumer_asked_for(
    user: &str,
    question: &[u8],
) -> Option<Result<(String, serde_json::Value), String>> {
    let message = async_nats::Message {
        subject: consumer_request(user).into(),
        reply: Some("answer".into()),
        payload: question.to_vec().into(),
        headers: None,
        status: None,
        description: None,
        length: 0,
    };
    let (_, _, asked) = read(&message)?;
    match asked.work {
        Work::Make(plan) => {
            let config = serde_json::to_value(plan.config.into_consumer_config());
            Some(Ok((plan.stream, config.unwrap_or_default())))
        }
        Work::Refuse(error) => Some(Err(error.to_string())),
        Work::Done(_) => None,
    }
}

/// What was asked for and is not under way.
#[derive(Debug, Default)]
struct Waiting {
    /// All users that ever asked; nobody asks without one.
    users: BTreeMap<String, Turn>,
    /// Users of which something waits and nothing is under way.
    next: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Turn {
    under_way: bool,
    /// The newest question about each consumer.
    questions: BTreeMap<Slot, Asked>,
    /// How each consumer was last made, and to which question.
    made: BTreeMap<Slot, (u64, Answer)>,
    /// The second in which it asks, and how often it has.
    asks: Option<(Instant, u32)>,
}

impl Waiting {
    /// True for a question of a user that has not asked too often; nothing else of it is looked at before.
    fn hears(&mut self, message: &async_nats::Message, now: Instant) -> bool {
        let Some(user) = asking(message) else {
            return false;
        };
        let turn = self.users.entry(user.name().to_owned()).or_default();
        let (since, asks) = turn
            .asks
            .filter(|(since, _)| now.duration_since(*since) < Duration::from_secs(1))
            .unwrap_or((now, 0));
        turn.asks = Some((since, asks.saturating_add(1)));
        let most = match user.right() {
            Right::Mirror => ASKS_PER_S,
            Right::Archive | Right::Consistency | Right::Directory => SERVICES_ASKS_PER_S,
        };
        asks < most
    }

    fn add(&mut self, user: String, slot: Slot, asked: Asked) {
        let turn = self.users.entry(user.clone()).or_default();
        let queued = turn.under_way || !turn.questions.is_empty();
        if turn.questions.len() >= QUESTIONS_MAX && !turn.questions.contains_key(&slot) {
            return;
        }
        turn.questions.insert(slot, asked);
        if !queued {
            self.next.push_back(user);
        }
    }

    /// What is to be answered next.
    fn take(&mut self) -> Option<(String, Slot, Asked)> {
        let user = self.next.pop_front()?;
        let turn = self.users.get_mut(&user)?;
        let (slot, mut asked) = turn.questions.pop_first()?;
        turn.under_way = true;
        let made = turn.made.get(&slot).filter(|(to, _)| *to == asked.id);
        if let Some((_, answer)) = made {
            asked.work = Work::Done(answer.clone());
        }
        Some((user, slot, asked))
    }

    /// It was answered. Gives where to send the answer once more: whoever waited longer than for one has asked the same
    /// again.
    fn told(&mut self, user: &str, told: Told) -> Option<(Subject, Answer)> {
        let turn = self.users.get_mut(user)?;
        let Told { slot, to, answer } = told;
        let again = turn
            .questions
            .get(&slot)
            .is_some_and(|asked| asked.id == to);
        let again = again.then(|| turn.questions.remove(&slot)).flatten();
        let again = again.map(|asked| (asked.reply, answer.clone()));
        if matches!(answer, Answer::Made | Answer::MadeAs(_)) {
            // Readers come and go, each with a number of its own.
            if turn.made.len() >= QUESTIONS_MAX {
                turn.made.clear();
            }
            turn.made.insert(slot, (to, answer));
        }
        again
    }

    /// Its next question is answered.
    fn rested(&mut self, user: &str) {
        let Some(turn) = self.users.get_mut(user) else {
            return;
        };
        turn.under_way = false;
        if !turn.questions.is_empty() {
            self.next.push_back(user.to_owned());
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

    fn add(waiting: &mut Waiting, user: &str, payload: &str, reply: &str) {
        let message = message(&format!("mirrorlog.consumer.{user}"), Some(reply), payload);
        let (user, slot, asked) = read(&message).unwrap();
        waiting.add(user, slot, asked);
    }

    const BULK: &str = r#"{"id":1,"ask":{"lane":{"lane":"bulk","channels":["noble"],"floor":3}}}"#;
    const PRIORITY: &str = r#"{"id":2,"ask":{"lane":{"lane":"priority","channels":[],"floor":0}}}"#;
    const ORDERS: &str =
        r#"{"id":3,"ask":{"read":{"stream":"MIRRORLOG_ORDER","start":{"sequence":4}}}}"#;

    /// What is answered next: to whom, where, and whether something is made for it.
    fn taken(waiting: &mut Waiting) -> Option<(String, Slot, u64, String, bool)> {
        let (user, slot, asked) = waiting.take()?;
        let makes = matches!(asked.work, Work::Make(_));
        Some((user, slot, asked.id, asked.reply.to_string(), makes))
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
        assert_eq!(waiting.users["nz1"].questions.len(), 4);
        // One of a mirror at a time, the newest word about each, the priority lane first.
        let mut replies = Vec::new();
        for _ in 0..2 {
            let (.., reply, _) = taken(&mut waiting).unwrap();
            replies.push(reply);
        }
        assert!(taken(&mut waiting).is_none());
        for _ in 0..3 {
            waiting.rested("nz1");
            let (.., reply, _) = taken(&mut waiting).unwrap();
            replies.push(reply);
        }
        waiting.rested("nz1");
        assert!(taken(&mut waiting).is_none());
        assert_eq!(replies, ["priority", "au", "bulk999", "orders999", "other"]);
    }

    #[test]
    fn attack_a_flood_of_questions_is_not_read() {
        let mut waiting = Waiting::default();
        let begun = Instant::now();
        let of = |user: &str| message(&format!("mirrorlog.consumer.{user}"), None, "");
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
    fn readers_of_replicas_wait_side_by_side_and_are_bounded() {
        let mut waiting = Waiting::default();
        let ask = |waiting: &mut Waiting, reader: usize| {
            let question = format!(
                r#"{{"id":{reader},"ask":{{"read":{{"stream":"MIRRORLOG","start":"all","reader":{reader}}}}}}}"#
            );
            add(waiting, "directory", &question, &format!("{reader}"));
        };
        for reader in 0..10 * QUESTIONS_MAX {
            ask(&mut waiting, reader);
        }
        assert_eq!(waiting.users["directory"].questions.len(), QUESTIONS_MAX);
        for expected in 0..QUESTIONS_MAX {
            let (user, slot, to, reply, _) = taken(&mut waiting).unwrap();
            assert_eq!(reply, expected.to_string());
            let answer = Answer::MadeAs("directory-1".into());
            waiting.told(&user, Told { slot, to, answer });
            waiting.rested(&user);
        }
        assert!(taken(&mut waiting).is_none());
        ask(&mut waiting, 9999);
        let (user, slot, to, ..) = taken(&mut waiting).unwrap();
        let answer = Answer::MadeAs("directory-2".into());
        waiting.told(&user, Told { slot, to, answer });
        assert!(waiting.users["directory"].made.len() <= QUESTIONS_MAX);
    }

    #[test]
    fn what_is_asked_again_is_made_once() {
        let mut waiting = Waiting::default();
        add(&mut waiting, "nz1", BULK, "first");
        let (user, slot, to, _, makes) = taken(&mut waiting).unwrap();
        assert!(makes);
        let made = |slot, to| Told {
            slot,
            to,
            answer: Answer::Made,
        };
        // It is asked again while it is made: the second answer is the one that is waited for.
        add(&mut waiting, "nz1", BULK, "again");
        let again = waiting.told(&user, made(slot, to)).unwrap();
        assert_eq!(again, ("again".into(), Answer::Made));
        waiting.rested(&user);
        assert!(taken(&mut waiting).is_none());
        // Both answers were lost.
        add(&mut waiting, "nz1", BULK, "late");
        let (_, slot, to, reply, makes) = taken(&mut waiting).unwrap();
        assert_eq!((reply.as_str(), makes), ("late", false));
        // Another question about the same waits for its turn.
        let anew = BULK.replace("\"id\":1", "\"id\":9");
        add(&mut waiting, "nz1", &anew, "anew");
        assert_eq!(waiting.told(&user, made(slot, to)), None);
        waiting.rested(&user);
        let (_, _, to, reply, makes) = taken(&mut waiting).unwrap();
        assert_eq!((to, reply.as_str(), makes), (9, "anew", true));
    }

    #[test]
    fn what_could_not_be_made_is_told_to_whoever_asked_again_and_tried_anew() {
        let mut waiting = Waiting::default();
        add(&mut waiting, "nz1", BULK, "first");
        let (user, slot, to, ..) = taken(&mut waiting).unwrap();
        add(&mut waiting, "nz1", BULK, "again");
        let answer = Answer::Later("no server answers".into());
        let again = waiting.told(&user, Told { slot, to, answer }).unwrap();
        assert_eq!(
            again,
            ("again".into(), Answer::Later("no server answers".into()))
        );
        waiting.rested(&user);
        add(&mut waiting, "nz1", BULK, "once more");
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
        assert!(matches!(asked.work, Work::Refuse(AskError::Lane(_))));
        // Nobody asks the archive in its own name, or in that of people.
        for user in ["archive", "admin"] {
            let subject = format!("mirrorlog.consumer.{user}");
            assert!(read(&message(&subject, Some("there"), BULK)).is_none());
        }
    }
}
