//! Reads apt's questions and answers them side by side.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use mirrorlog_core::directory::place::Country;
use runtime::trust::TrustError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::acquire::{Failure, Site};
use super::message::Message;
use super::mounts::Wanted;
use super::settings::Settings;
use crate::Client;
use crate::options::{Options, OptionsError, Trust};

/// Questions that are answered at the same time; apt sends many.
const AT_ONCE: usize = 6;
/// Questions that wait.
const QUEUE: usize = 1024;

/// Why the method cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum MethodError {
    /// apt's words.
    #[error("apt cannot be understood")]
    Input(#[from] io::Error),
    /// A key.
    #[error("the key of Acquire::mirrorlog::Key cannot be used")]
    Key(#[from] TrustError),
    /// A country.
    #[error("Acquire::mirrorlog::Country {0:?} is no country code")]
    Country(String),
    /// A client.
    #[error(transparent)]
    Options(#[from] OptionsError),
}

/// Where messages to apt go, each whole.
#[derive(Clone)]
pub(super) struct Replies {
    out: Arc<Mutex<Box<dyn Write + Send>>>,
    /// apt no longer listens.
    gone: CancellationToken,
}

impl Replies {
    fn new(out: Box<dyn Write + Send>) -> Self {
        Self {
            out: Arc::new(Mutex::new(out)),
            gone: CancellationToken::new(),
        }
    }

    pub(super) fn send(&self, message: &Message) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = out
            .write_all(message.to_text().as_bytes())
            .and_then(|()| out.flush());
        if sent.is_err() {
            self.gone.cancel();
        }
    }
}

/// A method that has told apt what it can, and knows apt's configuration.
pub struct Method<R> {
    input: R,
    replies: Replies,
    settings: Settings,
    trust: Trust,
    country: Option<Country>,
}

/// Tells apt what this method can, and reads its configuration. Blocks, and starts no thread: the caller gives up
/// rights that it does not need before [`Method::run`].
///
/// # Errors
/// [`MethodError`], which apt has been told already.
pub fn begin<R: BufRead + Send + 'static>(
    mut input: R,
    output: Box<dyn Write + Send>,
) -> Result<Option<Method<R>>, MethodError> {
    let replies = Replies::new(output);
    let can = Message::new(100, "Capabilities").with("Version", "1.2");
    let can = can.with("Single-Instance", "true").with("Pipeline", "true");
    replies.send(
        &can.with("Send-Config", "true")
            .with("Send-URI-Encoded", "true"),
    );
    let begun = loop {
        match Message::read(&mut input) {
            Ok(None) => return Ok(None),
            Ok(Some(message)) if message.code() == 601 => {
                break settle(&Settings::of(&message)).map(|known| (known, message));
            }
            Ok(Some(_)) => {}
            Err(error) => break Err(error.into()),
        }
    };
    match begun {
        Ok(((trust, country), message)) => {
            let settings = Settings::of(&message);
            Ok(Some(Method {
                input,
                replies,
                settings,
                trust,
                country,
            }))
        }
        Err(error) => {
            replies.send(
                &Message::new(401, "General Failure").with("Message", runtime::chain(&error)),
            );
            Err(error)
        }
    }
}

fn settle(settings: &Settings) -> Result<(Trust, Option<Country>), MethodError> {
    // Without a key apt's own checks of Release and digests are what counts, as with any other method. The method may
    // write nowhere: newer root documents are brought again in each run.
    let trust = Trust::of_files(&settings.keys(), None)?;
    let country = settings.country();
    let country = country.map(|text| text.parse().map_err(|_| MethodError::Country(text)));
    Ok((trust, country.transpose()?))
}

impl<R: BufRead + Send + 'static> Method<R> {
    /// Tells apt that nothing will come of it, and why.
    pub fn fail(&self, text: &str) {
        self.replies
            .send(&Message::new(401, "General Failure").with("Message", text));
    }

    /// apt's configuration.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Answers questions until apt closes the input.
    ///
    /// # Errors
    /// [`MethodError`] for what apt says and is no message.
    pub async fn run(self) -> Result<(), MethodError> {
        let Self {
            input,
            replies,
            settings,
            trust,
            country,
        } = self;
        let (sender, mut questions) = mpsc::channel(QUEUE);
        let reader = std::thread::spawn(move || read(input, &sender));
        let sites = Arc::new(Sites {
            settings,
            trust,
            country,
            known: Mutex::default(),
        });
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = Running {
            tasks: JoinSet::new(),
            uris: BTreeMap::new(),
            replies: replies.clone(),
        };
        let answer = async {
            while let Some(question) = questions.recv().await {
                while let Some(ended) = running.tasks.try_join_next_with_id() {
                    running.ended(ended);
                }
                // In order of asking, and no more than some at a time.
                let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                    break;
                };
                running.start(Arc::clone(&sites), question, slot);
            }
            while let Some(ended) = running.tasks.join_next_with_id().await {
                running.ended(ended);
            }
        };
        tokio::select! {
            () = answer => {}
            // Whoever asked is gone: the next one must find nobody else at its files.
            () = replies.gone.cancelled() => return Ok(()),
        }
        sites.end().await;
        match reader.join() {
            Ok(ended) => Ok(ended?),
            Err(_panicked) => Err(io::Error::other("the reader of apt's messages stopped").into()),
        }
    }
}

/// Questions that are being answered.
struct Running {
    tasks: JoinSet<()>,
    uris: BTreeMap<tokio::task::Id, String>,
    replies: Replies,
}

impl Running {
    fn start(&mut self, sites: Arc<Sites>, question: Message, slot: OwnedSemaphorePermit) {
        let (uri, replies) = (
            question.get("URI").unwrap_or_default().to_owned(),
            self.replies.clone(),
        );
        let asked = uri.clone();
        let task = self.tasks.spawn(async move {
            let _slot = slot;
            if let Err(failure) = sites.answer(&question, &replies).await {
                replies.send(&failure.to_message(&asked));
            }
        });
        self.uris.insert(task.id(), uri);
    }

    /// apt waits for an answer to each question, whatever became of ours.
    fn ended(&mut self, ended: Result<(tokio::task::Id, ()), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let uri = self.uris.remove(&id).unwrap_or_default();
        if ended.is_err() {
            let failure = Failure::lasting(
                "the method failed at this; see its standard error",
                "Internal",
            );
            self.replies.send(&failure.to_message(&uri));
        }
    }
}

/// Until the end of the input; apt's questions only.
fn read(mut input: impl BufRead, sender: &mpsc::Sender<Message>) -> io::Result<()> {
    while let Some(message) = Message::read(&mut input)? {
        if message.code() == 600 && sender.blocking_send(message).is_err() {
            break;
        }
    }
    Ok(())
}

/// The directories of this run.
struct Sites {
    settings: Settings,
    trust: Trust,
    country: Option<Country>,
    known: Mutex<BTreeMap<String, (Client, Arc<Site>)>>,
}

impl Sites {
    async fn answer(&self, question: &Message, replies: &Replies) -> Result<(), Failure> {
        let uri = question.get("URI").unwrap_or_default();
        let wanted = Wanted::parse(uri).map_err(|text| Failure::lasting(text, "BadURI"))?;
        let site = self.of(&wanted.directory)?;
        site.answer(&wanted, question, replies).await
    }

    fn of(&self, directory: &str) -> Result<Arc<Site>, Failure> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, site)) = known.get(directory) {
            return Ok(Arc::clone(site));
        }
        let options = self.options(directory);
        let client = Client::new(options)
            .map_err(|error| Failure::lasting(runtime::chain(&error), "BadSettings"))?;
        let site = Arc::new(Site::new(client.clone(), self.settings.wait()));
        known.insert(directory.to_owned(), (client, Arc::clone(&site)));
        Ok(site)
    }

    fn options(&self, directory: &str) -> Options {
        let mut options = Options::new(directory, self.trust.clone());
        options.country = self.country;
        options.state = self.settings.state().filter(writable);
        options.stall = self.settings.timeout();
        options.connect = options.connect.min(options.stall);
        options.feedback = self.settings.feedback();
        options.proxy = self.settings.proxy();
        options
    }

    async fn end(&self) {
        let known: Vec<Client> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.values().map(|(client, _)| client.clone()).collect()
        };
        for client in known {
            client.tell_feedback().await;
        }
    }
}

/// Makes the folder if need be.
fn writable(dir: &PathBuf) -> bool {
    std::fs::create_dir_all(dir).is_ok()
}
