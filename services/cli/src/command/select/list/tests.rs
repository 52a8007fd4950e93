use client::{Candidate, Excluded, Measured, Outcome};
use expect_test::expect;
use mirrorlog_core::client::climb::Level;
use mirrorlog_core::id::{Build, Mount};
use mirrorlog_core::layout::Layout as Shape;
use ratatui::backend::TestBackend;

use super::super::pick::Standing;
use super::*;

fn candidate(id: &str, tier: &str, known: Option<f64>) -> Candidate {
    Candidate {
        id: id.parse().unwrap(),
        url: format!("http://{id}.example.org/pub"),
        country: id[..2].to_uppercase().parse().ok(),
        pool: id[..2].parse().unwrap(),
        tier: tier.to_owned(),
        level: Level::of_tier(tier),
        known,
    }
}

fn sample() -> (Carried, Candidates, Progress) {
    let channel = Carried {
        id: "noble".parse().unwrap(),
        mount: Mount::new("/ubuntu").unwrap(),
        layout: Shape::Debian,
        newest: Build::new(38),
    };
    let found = Candidates {
        build: Build::new(37),
        offered: vec![
            candidate("nz1", "country", None),
            candidate("nz2", "country", Some(2.5e6)),
            candidate("au-with-a-very-long-name", "continent", None),
            candidate("ch1", "world", None),
            candidate("de1", "world", None),
            candidate("us1", "world", None),
        ],
        excluded: vec![Excluded {
            id: "fr1".to_owned(),
            reason:
                "stale: it is complete at build 35, and 37 is wanted; it was seen last 3 hours ago"
                    .to_owned(),
        }],
    };
    let progress = Progress::new(&found);
    let done = |place, outcome| {
        progress.set(
            place,
            Standing::Done(Measured {
                connect_ms: Some(3.25),
                outcome,
            }),
        )
    };
    done(0, Outcome::Measured(12.34e6));
    done(1, Outcome::Known(2.5e6));
    done(2, Outcome::Failed("cannot be reached".to_owned()));
    progress.set(3, Standing::Measuring);
    done(
        4,
        Outcome::Cache("a cache in the way says that it answered"),
    );
    (channel, found, progress)
}

fn screen(chooser: &mut Chooser<'_>, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| chooser.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let cells: Vec<&str> = buffer.content().iter().map(|cell| cell.symbol()).collect();
    let lines = cells
        .chunks(width.into())
        .map(|line| line.concat().trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn press(chooser: &mut Chooser<'_>, code: KeyCode) -> Option<Picked> {
    chooser.key(KeyEvent::new(code, KeyModifiers::NONE))
}

#[test]
fn eighty_columns_show_all_that_counts() {
    let (channel, found, progress) = sample();
    let mut chooser = Chooser::new(&channel, &found, &progress);
    expect![[r#"
          Mirrors for noble, build 37 (the newest, 38, is on its way)
           MIRROR             COUNTRY  DISTANCE           SPEED                BUILD
        > *nz1                NZ       country, 3.2 ms    12.3 MB/s measured   37 of 38
           nz2                NZ       country, 3.2 ms    2.5 MB/s known       37 of 38
           au-with-a-very-l…  cannot be reached
           ch1                CH       world              ⠙ measuring          37 of 38
           de1                DE       world, 3.2 ms      a cache answers      37 of 38
           us1                US       world              not measured         37 of 38
           fr1                stale: it is complete at build 35, and 37 is wanted; it w…
          http://nz1.example.org/pub
          ↑ ↓ or k j: move   Enter: take it   q or Esc: leave   *: fastest so far"#]]
    .assert_eq(&screen(&mut chooser, 80, chooser_lines(&found)));
}

#[test]
fn wide_terminals_show_pools_and_urls() {
    let (channel, found, progress) = sample();
    let mut chooser = Chooser::new(&channel, &found, &progress);
    expect![[r#"
          Mirrors for noble, build 37 (the newest, 38, is on its way)
           MIRROR                    COUNTRY  DISTANCE           SPEED                BUILD      POOL
        > *nz1                       NZ       country, 3.2 ms    12.3 MB/s measured   37 of 38   nz
           nz2                       NZ       country, 3.2 ms    2.5 MB/s known       37 of 38   nz
           au-with-a-very-long-name  cannot be reached
           ch1                       CH       world              ⠙ measuring          37 of 38   ch
           de1                       DE       world, 3.2 ms      a cache answers      37 of 38   de
           us1                       US       world              not measured         37 of 38   us
           fr1                       stale: it is complete at build 35, and 37 is wanted; it was seen last 3 hours ago
          http://nz1.example.org/pub
          ↑ ↓ or k j: move   Enter: take it   q or Esc: leave   *: fastest so far"#]].assert_eq(&screen(&mut chooser, 120, chooser_lines(&found)));
}

fn chooser_lines(found: &Candidates) -> u16 {
    u16::try_from(found.offered.len() + found.excluded.len()).unwrap() + FRAME_LINES
}

#[test]
fn keys_move_take_and_leave() {
    let (channel, found, progress) = sample();
    let mut chooser = Chooser::new(&channel, &found, &progress);
    assert_eq!(press(&mut chooser, KeyCode::Up), None);
    assert_eq!(press(&mut chooser, KeyCode::Enter), Some(Picked::Place(0)));
    press(&mut chooser, KeyCode::Char('j'));
    assert_eq!(press(&mut chooser, KeyCode::Enter), Some(Picked::Place(1)));
    press(&mut chooser, KeyCode::Down);
    assert_eq!(press(&mut chooser, KeyCode::Enter), None, "it failed");
    assert!(
        screen(&mut chooser, 80, 11)
            .contains("au-with-a-very-long-name cannot be chosen: cannot be reached")
    );
    press(&mut chooser, KeyCode::Char('G'));
    press(&mut chooser, KeyCode::Down);
    assert_eq!(
        press(&mut chooser, KeyCode::Enter),
        None,
        "it is not offered"
    );
    let shown = screen(&mut chooser, 80, 11);
    assert!(
        shown.contains("fr1 cannot be chosen: stale: it is complete at build 35"),
        "{shown}"
    );
    press(&mut chooser, KeyCode::Char('k'));
    assert_eq!(
        press(&mut chooser, KeyCode::Enter),
        Some(Picked::Place(5)),
        "not measured is no hindrance"
    );
    press(&mut chooser, KeyCode::Home);
    assert_eq!(press(&mut chooser, KeyCode::Enter), Some(Picked::Place(0)));
    for leave in [KeyCode::Char('q'), KeyCode::Esc] {
        assert_eq!(press(&mut chooser, leave), Some(Picked::Nothing));
    }
    let stop = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(chooser.key(stop), Some(Picked::Interrupted));
}

#[test]
fn a_low_terminal_shows_where_one_is() {
    let (channel, found, progress) = sample();
    let mut chooser = Chooser::new(&channel, &found, &progress);
    press(&mut chooser, KeyCode::End);
    let shown = screen(&mut chooser, 60, 6);
    assert!(
        shown.contains("> ") && shown.contains("fr1") && !shown.contains("nz1"),
        "{shown}"
    );
}
