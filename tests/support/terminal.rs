//! A terminal that a program runs on: a pseudo-terminal, and what would be seen on it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcgetpgrp, tcsetwinsize};

use crate::process::{Kept, tool};
use crate::wait::{until, until_within};

const LINES: u16 = 24;
/// How programs ask where the cursor is.
const WHERE: &[u8] = b"\x1b[6n";

/// A program on a terminal. It ends with its owner.
pub struct Terminal {
    child: Kept,
    keys: File,
    seen: Arc<Mutex<vt100::Parser>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// Runs a command on a terminal of that many columns; its stdout goes there too, unless it is to go into a file.
    pub fn start(command: &Command, columns: u16, stdout: Option<File>) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let size = Winsize {
            ws_row: LINES,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&keys, size).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap();
        let line = open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let line = File::from(line);
        let end = || Stdio::from(line.try_clone().unwrap());
        // In a session of its own, whose terminal this is.
        let mut inside = tool("setsid");
        inside
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args())
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stderr(end())
            .stdout(stdout.map_or_else(end, Stdio::from));
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(variable, value),
                None => inside.env_remove(variable),
            };
        }
        let child = Kept(inside.spawn().unwrap());
        let seen = Arc::new(Mutex::new(vt100::Parser::new(LINES, columns, 0)));
        let keys = File::from(keys);
        let (from, screen) = (keys.try_clone().unwrap(), Arc::clone(&seen));
        let reader = std::thread::spawn(move || show(from, &screen));
        Self {
            child,
            keys,
            seen,
            reader: Some(reader),
        }
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.seen.lock().unwrap().screen().contents()
    }

    /// The line of the screen that has this in it.
    pub fn line(&self, part: &str) -> Option<String> {
        let screen = self.screen();
        screen
            .lines()
            .find(|line| line.contains(part))
            .map(str::to_owned)
    }

    /// Whether any cell of the screen has a colour.
    pub fn is_coloured(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        let screen = seen.screen();
        let (lines, columns) = screen.size();
        (0..lines).any(|line| {
            (0..columns).any(|column| {
                let cell = screen.cell(line, column);
                cell.is_some_and(|cell| cell.fgcolor() != vt100::Color::Default)
            })
        })
    }

    /// Presses keys.
    pub fn press(&self, keys: &str) {
        (&self.keys).write_all(keys.as_bytes()).unwrap();
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) {
        kill_process_group(tcgetpgrp(&self.keys).unwrap(), signal).unwrap();
    }

    /// Whether keys reach the program one by one, or the cursor cannot be seen.
    pub fn is_taken(&self) -> bool {
        let modes = tcgetattr(&self.keys).unwrap().local_modes;
        let hidden = self.seen.lock().unwrap().screen().hide_cursor();
        !modes.contains(LocalModes::ICANON) || hidden
    }

    /// Waits until the screen has this on it.
    #[track_caller]
    pub fn await_text(&self, text: &str) {
        until(&format!("the screen shows {text:?}"), || {
            self.screen().contains(text)
        });
    }

    /// Waits for the end of the program; gives its exit code and what stood on the screen then.
    pub fn end(mut self) -> (i32, String) {
        let mut status = None;
        until_within(
            Duration::from_secs(30),
            "the program on the terminal ends",
            || {
                status = self.child.0.try_wait().unwrap();
                status.is_some()
            },
        );
        self.reader.take().unwrap().join().unwrap();
        (status.unwrap().code().unwrap(), self.screen())
    }
}

/// Shows what comes, and answers where the cursor is, until the other end is closed.
fn show(mut from: File, seen: &Mutex<vt100::Parser>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let mut seen = seen.lock().unwrap();
        seen.process(&bytes[..count]);
        if bytes[..count]
            .windows(WHERE.len())
            .any(|part| part == WHERE)
        {
            let (line, column) = seen.screen().cursor_position();
            write!(from, "\x1b[{};{}R", line + 1, column + 1).unwrap();
        }
    }
}
