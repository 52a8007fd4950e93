//! The list on a terminal from which a person chooses, below what stands there already.

use std::future::Future;
use std::io::{self, IsTerminal as _, Stderr, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use client::{Candidates, Carried};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{Clear, ClearType, disable_raw_mode, enable_raw_mode, size};
use ratatui::crossterm::{cursor, execute};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{List, ListState, Paragraph};
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

use super::ending::{Ending, Endings};
use super::pick::Progress;
use super::rows::{self, Row};
use crate::failure::{Failure, IO, OrExit as _};
use crate::output::plain;

/// Between two looks at what was measured.
const TICK: Duration = Duration::from_millis(80);
/// Lines beside the mirrors: title, columns, what is chosen, keys.
const FRAME_LINES: u16 = 4;
/// From this width on, pools are shown.
const WIDE: u16 = 100;
const COUNTRY: usize = 7;
const DISTANCE: usize = 17;
const SPEED: usize = 19;
const BUILD: usize = 9;

/// What the person did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Picked {
    /// Took the mirror at this place.
    Place(usize),
    /// Left.
    Nothing,
    /// Pressed Ctrl-C.
    Interrupted,
    /// A signal ended it.
    Ended(Ending),
}

/// Lets a person choose while `measuring` goes on.
pub(super) async fn choose(
    channel: &Carried,
    found: &Candidates,
    progress: &Progress,
    measuring: impl Future<Output = ()> + Send + 'static,
) -> Result<Picked, Failure> {
    let task = tokio::spawn(measuring);
    let endings = Endings::listen().or_exit(IO)?;
    let chooser = Chooser::new(channel, found, progress);
    let picked = tokio::task::block_in_place(|| on_terminal(chooser, &endings));
    endings.list_is_gone();
    task.abort();
    picked
        .context("the list cannot be shown; use --auto")
        .or_exit(IO)
}

/// The terminal as it was comes back on drop.
struct Raw {
    top: u16,
}

impl Drop for Raw {
    fn drop(&mut self) {
        let mut err = io::stderr();
        execute!(
            err,
            cursor::MoveTo(0, self.top),
            Clear(ClearType::FromCursorDown),
            cursor::Show
        )
        .ok();
        disable_raw_mode().ok();
    }
}

fn on_terminal(mut chooser: Chooser<'_>, endings: &Endings) -> io::Result<Picked> {
    let (width, height) = size()?;
    let lines = chooser.lines().min(height);
    enable_raw_mode()?;
    let mut raw = Raw {
        top: height.saturating_sub(lines),
    };
    raw.top = make_room(lines, height)?;
    let area = Rect::new(0, raw.top, width, lines);
    let options = TerminalOptions {
        viewport: Viewport::Fixed(area),
    };
    let mut terminal: Terminal<CrosstermBackend<Stderr>> =
        Terminal::with_options(CrosstermBackend::new(io::stderr()), options)?;
    terminal.hide_cursor()?;
    loop {
        // The terminal gets back how it was.
        if let Some(ending) = endings.seen() {
            return Ok(Picked::Ended(ending));
        }
        terminal.draw(|frame| chooser.draw(frame))?;
        if !event::poll(TICK)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                if let Some(picked) = chooser.key(key) {
                    return Ok(picked);
                }
            }
            Event::Resize(width, height) => {
                let lines = chooser.lines().min(height);
                raw.top = height.saturating_sub(lines);
                execute!(io::stderr(), Clear(ClearType::All))?;
                terminal.resize(Rect::new(0, raw.top, width, lines))?;
            }
            Event::Key(_)
            | Event::FocusGained
            | Event::FocusLost
            | Event::Mouse(_)
            | Event::Paste(_) => {}
        }
    }
}

/// Scrolls until there are that many lines from the cursor on; gives the first.
fn make_room(lines: u16, height: u16) -> io::Result<u16> {
    // The terminal is asked over stdout. Where that leads elsewhere, or nobody answers, the last line is as good.
    let asked = io::stdout()
        .is_terminal()
        .then(cursor::position)
        .and_then(Result::ok);
    let mut err = io::stderr();
    let row = match asked {
        Some((_, row)) => row,
        None => {
            execute!(err, cursor::MoveTo(0, height.saturating_sub(1)))?;
            height.saturating_sub(1)
        }
    };
    for _ in 1..lines {
        err.write_all(b"\r\n")?;
    }
    err.flush()?;
    Ok(row.min(height.saturating_sub(lines)))
}

/// What is chosen from, and where the person is.
struct Chooser<'a> {
    channel: &'a Carried,
    found: &'a Candidates,
    progress: &'a Progress,
    state: ListState,
    tick: usize,
    /// Why Enter did nothing.
    refused: bool,
    colours: bool,
}

impl<'a> Chooser<'a> {
    fn new(channel: &'a Carried, found: &'a Candidates, progress: &'a Progress) -> Self {
        Self {
            channel,
            found,
            progress,
            state: ListState::default().with_selected(Some(0)),
            tick: 0,
            refused: false,
            colours: std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
        }
    }

    fn count(&self) -> usize {
        self.found.offered.len() + self.found.excluded.len()
    }

    /// Lines when there is room for all.
    fn lines(&self) -> u16 {
        u16::try_from(self.count())
            .unwrap_or(u16::MAX)
            .saturating_add(FRAME_LINES)
    }

    fn at(&self) -> usize {
        self.state.selected().unwrap_or_default()
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "keys are many, and those without a meaning here do nothing"
    )]
    fn key(&mut self, key: KeyEvent) -> Option<Picked> {
        const PAGE: usize = 10;
        let last = self.count().saturating_sub(1);
        self.refused = false;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return (key.code == KeyCode::Char('c')).then_some(Picked::Interrupted);
        }
        let to = match key.code {
            KeyCode::Down | KeyCode::Char('j') => self.at() + 1,
            KeyCode::Up | KeyCode::Char('k') => self.at().saturating_sub(1),
            KeyCode::PageDown => self.at() + PAGE,
            KeyCode::PageUp => self.at().saturating_sub(PAGE),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => last,
            KeyCode::Char('q') | KeyCode::Esc => return Some(Picked::Nothing),
            KeyCode::Enter => {
                let rows = rows::rows(self.channel, self.found, self.progress, self.tick);
                if rows.get(self.at()).is_some_and(|row| row.reason.is_none()) {
                    return Some(Picked::Place(self.at()));
                }
                self.refused = true;
                return None;
            }
            _another => return None,
        };
        self.state.select(Some(to.min(last)));
        None
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        self.tick += 1;
        let rows = rows::rows(self.channel, self.found, self.progress, self.tick);
        let [title, columns, list, chosen, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let widths = Widths::of(&rows, frame.area().width);
        frame.render_widget(Paragraph::new(self.title()), title);
        let head = Row {
            mirror: "MIRROR".to_owned(),
            country: "COUNTRY".to_owned(),
            distance: "DISTANCE".to_owned(),
            speed: "SPEED".to_owned(),
            build: "BUILD".to_owned(),
            pool: "POOL".to_owned(),
            ..Row::default()
        };
        let dim = Style::new().add_modifier(Modifier::DIM);
        let head = Line::styled(format!("   {}", widths.line(&head)), dim);
        frame.render_widget(Paragraph::new(head), columns);
        let best = self.progress.best();
        let lines = rows
            .iter()
            .enumerate()
            .map(|(place, row)| self.line(row, Some(place) == best, &widths));
        let selected = Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED);
        let list_widget = List::new(lines)
            .highlight_symbol("> ")
            .highlight_style(selected);
        frame.render_stateful_widget(list_widget, list, &mut self.state);
        if let Some(row) = rows.get(self.at()) {
            frame.render_widget(
                Paragraph::new(self.detail(row, chosen.width.into())),
                chosen,
            );
        }
        let help = "  ↑ ↓ or k j: move   Enter: take it   q or Esc: leave   *: fastest so far";
        frame.render_widget(Paragraph::new(Line::styled(help, dim)), keys);
    }

    fn title(&self) -> Line<'static> {
        let build = self
            .found
            .build
            .map_or_else(String::new, |build| format!(", build {build}"));
        let newest = match (self.channel.newest, self.found.build) {
            (Some(newest), Some(build)) if newest > build => {
                format!(" (the newest, {newest}, is on its way)")
            }
            _none => String::new(),
        };
        let bold = Style::new().add_modifier(Modifier::BOLD);
        Line::from(vec![
            Span::styled(format!("  Mirrors for {}", self.channel.id), bold),
            Span::raw(format!("{build}{newest}")),
        ])
    }

    fn line(&self, row: &Row, best: bool, widths: &Widths) -> Line<'static> {
        let mark = if best { "*" } else { " " };
        let text = format!("{mark}{}", widths.line(row));
        if row.reason.is_some() {
            return Line::styled(text, Style::new().add_modifier(Modifier::DIM));
        }
        Line::styled(
            text,
            if best {
                self.colour(Color::Green)
            } else {
                Style::new()
            },
        )
    }

    /// What is to be said of the line that the person is at.
    fn detail(&self, row: &Row, width: usize) -> Line<'static> {
        let (text, style) = match (&row.reason, &row.remark) {
            (Some(reason), _) if self.refused => (
                format!("{} cannot be chosen: {reason}", row.mirror),
                self.colour(Color::Red),
            ),
            (Some(reason), _) => (reason.clone(), Style::new()),
            (None, Some(remark)) => (remark.clone(), Style::new()),
            (None, None) => (plain(&row.url), Style::new()),
        };
        Line::styled(format!("  {}", cut(&text, width.saturating_sub(2))), style)
    }

    fn colour(&self, colour: Color) -> Style {
        if self.colours {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }
}

/// Columns that fit.
struct Widths {
    mirror: usize,
    all: usize,
    wide: bool,
}

impl Widths {
    fn of(rows: &[Row], width: u16) -> Self {
        let (wide, width) = (width >= WIDE, usize::from(width).saturating_sub(3));
        let longest = rows
            .iter()
            .map(|row| row.mirror.chars().count())
            .max()
            .unwrap_or_default();
        let others = COUNTRY + DISTANCE + SPEED + BUILD + 4 * 2;
        let most = width.saturating_sub(others).clamp(6, 40);
        Self {
            mirror: longest.clamp(6, most),
            all: width,
            wide,
        }
    }

    fn line(&self, row: &Row) -> String {
        let Self { mirror, all, wide } = *self;
        let name = cut(&row.mirror, mirror);
        if let Some(reason) = &row.reason {
            return cut(&format!("{name:<mirror$}  {reason}"), all);
        }
        let mut line = format!(
            "{name:<mirror$}  {:<COUNTRY$}  {:<DISTANCE$}  {:<SPEED$}  {:<BUILD$}",
            row.country,
            cut(&row.distance, DISTANCE),
            cut(&row.speed, SPEED),
            row.build
        );
        if wide {
            line.push_str(&format!("  {}", plain(&row.pool)));
        }
        cut(&line, all).trim_end().to_owned()
    }
}

/// The beginning of a text that does not fit.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
