//! Who signs for the archive: a key in a file, or a program that asks whatever holds the key.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use mirrorlog_core::sign::{PublicKey, SecretKey, Signature, SignatureError};
use mirrorlog_core::statement::Statement;
use runtime::Reaction;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use wire::Signed;
use wire::signify::{self, SignifyError};

/// Most bytes of an answer that are read: a signature with its comment has at most about 1150.
const ANSWER_MAX_BYTES: u64 = 4096;
/// Most bytes of complaints that are read.
const COMPLAINT_MAX_BYTES: u64 = 1024;

/// Why a statement was not signed: nothing of it was said anywhere.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The program could not be run or be talked to.
    #[error("archive.sign_command: cannot {action} {}", program.display())]
    Run {
        /// What was tried, a verb.
        action: &'static str,
        /// The program.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It took too long.
    #[error(
        "archive.sign_command: {} has not answered within {patience:?} and was ended; \
         see what it waits for, or set archive.sign_timeout", program.display()
    )]
    Timeout {
        /// The program.
        program: PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
    /// It said that it failed.
    #[error("archive.sign_command: {} ended with {status}: {complaint}", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it wrote to stderr.
        complaint: String,
    },
    /// It answered something else.
    #[error("archive.sign_command: the answer of {} is no signature as signify -S writes it", program.display())]
    Answer {
        /// The program.
        program: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SignifyError,
    },
    /// It signed with another key, or something else.
    #[error("archive.sign_command: the signature of {} does not hold under archive.public_key", program.display())]
    Signature {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: SignatureError,
    },
}

impl SignError {
    /// What to do about it: a program that is busy may be ready later, one that answers wrongly needs somebody.
    pub fn reaction(&self) -> Reaction {
        match self {
            Self::Timeout { .. } | Self::Failed { .. } => Reaction::Retry,
            Self::Run { .. } | Self::Answer { .. } | Self::Signature { .. } => Reaction::Halt,
        }
    }
}

/// Who signs for the archive.
#[derive(Debug)]
pub enum Signer {
    /// A key of this process.
    Key(SecretKey),
    /// A program.
    Command(SignCommand),
}

/// A program that signs: a statement's bytes on stdin, signify's signature on stdout.
#[derive(Debug)]
pub struct SignCommand {
    program: PathBuf,
    arguments: Vec<String>,
    public: PublicKey,
    patience: Duration,
    /// What holds the key is asked one thing at a time.
    turn: Mutex<()>,
}

impl SignCommand {
    /// A program, the key under which its signatures must hold, and how long an answer may take.
    pub fn new(
        program: PathBuf,
        arguments: Vec<String>,
        public: PublicKey,
        patience: Duration,
    ) -> Self {
        Self {
            program,
            arguments,
            public,
            patience,
            turn: Mutex::new(()),
        }
    }

    async fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        let _one_at_a_time = self.turn.lock().await;
        let answer = tokio::time::timeout(self.patience, self.ask(message)).await;
        let answer = answer.map_err(|_elapsed| SignError::Timeout {
            program: self.program.clone(),
            patience: self.patience,
        })??;
        let signature = signify::parse_signature(&answer);
        let signature = signature.map_err(|source| SignError::Answer {
            program: self.program.clone(),
            source,
        })?;
        // Whatever the program is: what it gives is used only when readers will accept it.
        let verified = self.public.verify(message, &signature);
        verified.map_err(|source| SignError::Signature {
            program: self.program.clone(),
            source,
        })?;
        Ok(signature)
    }

    /// Runs the program. It is ended when this is dropped.
    async fn ask(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| self.cannot("run", source))?;
        let (answer, complaint) = talk(&mut child, message)
            .await
            .map_err(|source| self.cannot("talk to", source))?;
        let status = child.wait().await;
        let status = status.map_err(|source| self.cannot("wait for", source))?;
        if status.success() {
            return Ok(answer);
        }
        let complaint = String::from_utf8_lossy(&complaint);
        Err(SignError::Failed {
            program: self.program.clone(),
            status,
            complaint: wire::rpc::clean_text(complaint.trim(), COMPLAINT_MAX_BYTES as usize),
        })
    }

    fn cannot(&self, action: &'static str, source: std::io::Error) -> SignError {
        SignError::Run {
            action,
            program: self.program.clone(),
            source,
        }
    }
}

/// Writes and reads at once, so that neither side waits for the other; what is too much is left unread.
async fn talk(child: &mut Child, message: &[u8]) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        let Some(mut input) = input else {
            return Ok(());
        };
        match input.write_all(message).await {
            // It may know enough before it has read all; its answer is checked anyway.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    };
    let read = async {
        let mut answer = Vec::new();
        if let Some(output) = output {
            output
                .take(ANSWER_MAX_BYTES)
                .read_to_end(&mut answer)
                .await?;
        }
        Ok(answer)
    };
    let listen = async {
        let mut complaint = Vec::new();
        if let Some(errors) = errors {
            errors
                .take(COMPLAINT_MAX_BYTES)
                .read_to_end(&mut complaint)
                .await?;
        }
        Ok(complaint)
    };
    let ((), answer, complaint) = tokio::try_join!(write, read, listen)?;
    Ok((answer, complaint))
}

impl Signer {
    /// The key under which its signatures hold.
    pub fn public(&self) -> PublicKey {
        match self {
            Self::Key(key) => key.public(),
            Self::Command(command) => command.public,
        }
    }

    /// Encodes a statement and has its bytes signed.
    ///
    /// # Errors
    /// [`SignError`], from a program only.
    pub async fn sign(&self, statement: &Statement) -> Result<Signed, SignError> {
        match self {
            Self::Key(key) => Ok(Signed::sign(key, statement)),
            Self::Command(_) => {
                self.sign_bytes(wire::statement::encode(statement).into())
                    .await
            }
        }
    }

    /// Has a statement's bytes signed as they are.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub async fn sign_bytes(&self, statement: Bytes) -> Result<Signed, SignError> {
        let signature = match self {
            Self::Key(key) => key.sign(&statement),
            Self::Command(command) => command.sign(&statement).await?,
        };
        Ok(Signed {
            statement,
            signature,
        })
    }
}

#[cfg(test)]
mod tests;
