//! What is shown.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, Wrap};

use super::app::{App, Mode};
use crate::census::Verdict;
use crate::view::{Row as Shown, View};

const KEYS: &str = "q quit  ↑↓ select  ⏎ detail  / filter  t stale only  \
                    s sort  r reverse  d remove";

/// Of each column; the last takes what is left.
const WIDTHS: [Constraint; 10] = [
    Constraint::Min(18),
    Constraint::Length(16),
    Constraint::Length(11),
    Constraint::Length(11),
    Constraint::Length(8),
    Constraint::Length(4),
    Constraint::Length(6),
    Constraint::Length(16),
    Constraint::Length(4),
    Constraint::Min(24),
];

pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let detail = match app.detail {
        true => Constraint::Percentage(40),
        false => Constraint::Length(0),
    };
    let [head, middle, below, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(3),
        detail,
        Constraint::Length(1),
    ])
    .areas(frame.area());
    table(frame, app, middle);
    if app.detail {
        details(frame, app, below);
    }
    frame.render_widget(title(app), head);
    frame.render_widget(footer(app), foot);
}

fn title(app: &App) -> Line<'static> {
    let Some(census) = app.census() else {
        return Line::from("shm watch: looking…");
    };
    let mut parts = vec![format!("{} segments", census.segments.len())];
    if app.stale_only {
        parts.push("only stale".to_owned());
    }
    if !app.filter.is_empty() {
        parts.push(format!("only with {:?}", app.filter));
    }
    parts.extend(census.shortfall.iter().cloned());
    parts.extend(census.failures.iter().cloned());
    Line::from(format!("shm watch: {}", parts.join("; ")))
}

fn footer(app: &App) -> Line<'static> {
    match &app.mode {
        Mode::Filter => Line::from(format!("filter: {}▏", app.filter)),
        Mode::Confirm(segment) => {
            let target = segment.target.as_ref().map(ToString::to_string);
            let what = target.unwrap_or_else(|| segment.name.clone());
            let (verdict, evidence) = (segment.verdict, &segment.evidence);
            let question =
                format!("Remove {what}? It is {verdict}: {evidence}. [y/N]");
            Line::styled(question, Modifier::BOLD)
        }
        Mode::Browse if app.message.is_empty() => Line::from(KEYS),
        Mode::Browse => Line::styled(app.message.clone(), Modifier::BOLD),
    }
}

fn table(frame: &mut Frame<'_>, app: &mut App, area: Rect) {
    // Without the header.
    app.page = usize::from(area.height.saturating_sub(1)).max(1);
    let selection = app.selection();
    let (top, page) = (app.top, app.page);
    let mut view = View::now();
    // Only those that are seen: there may be ten thousand.
    let rows = app.rows().into_iter().enumerate().skip(top).take(page);
    let rows: Vec<Row<'_>> = rows
        .map(|(at, segment)| {
            let mut style = match segment.verdict {
                Verdict::Stale => Style::new().fg(Color::Yellow),
                Verdict::Idle | Verdict::InUse => Style::new(),
            };
            if Some(at) == selection {
                style = style.add_modifier(Modifier::REVERSED);
            }
            Row::new(view.row(segment).cells()).style(style)
        })
        .collect();
    let table = Table::new(rows, WIDTHS).header(header(app)).column_spacing(1);
    frame.render_widget(table, area);
}

fn header(app: &App) -> Row<'static> {
    let cells = Shown::HEADER.map(|title| {
        let sorted = title == app.sort.title();
        Cell::from(match (sorted, app.reverse) {
            (false, _) => title.to_owned(),
            (true, false) => format!("{title} ↓"),
            (true, true) => format!("{title} ↑"),
        })
    });
    Row::new(cells).style(Modifier::BOLD)
}

fn details(frame: &mut Frame<'_>, app: &mut App, area: Rect) {
    let mut lines: Vec<Line<'_>> = match app.selected() {
        None => vec![],
        Some(segment) => View::now()
            .row(segment)
            .lines()
            .into_iter()
            .map(|(what, text)| Line::from(format!("{what:9} {text}")))
            .collect(),
    };
    // Below the border.
    let room = usize::from(area.height.saturating_sub(1));
    if lines.len() > room {
        lines.truncate(room.saturating_sub(1));
        lines.push(Line::from("… there is more: `shm stat` tells all"));
    }
    let block = Block::new().borders(Borders::TOP);
    let text = Paragraph::new(lines).wrap(Wrap { trim: false }).block(block);
    frame.render_widget(text, area);
}

#[cfg(test)]
mod tests {
    use super::super::app::tests::{census, segment};
    use super::*;
    use crate::census::User;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;

    fn drawn(app: &mut App, width: u16, height: u16) -> Vec<String> {
        let backend = TestBackend::new(width, height);
        let mut terminal = Terminal::new(backend).unwrap();
        terminal.draw(|frame| draw(frame, app)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        (0..height).map(line).collect()
    }

    #[test]
    fn rows_details_and_questions_are_shown() {
        let mut app = App::new();
        assert!(drawn(&mut app, 80, 24)[0].contains("looking"));
        app.take(census(vec![segment("first", 2), segment("second", 3)]));
        let screen = drawn(&mut app, 150, 24);
        assert!(screen[0].contains("2 segments"), "{screen:#?}");
        assert!(screen[1].starts_with("target ↓"), "{screen:#?}");
        assert!(screen[2].starts_with("posix:/first"), "{screen:#?}");
        assert!(screen[2].contains("stale: as planted"), "{screen:#?}");
        assert!(screen[3].contains("in use: as planted"), "{screen:#?}");
        assert!(screen[23].contains("q quit"), "{screen:#?}");
        for key in [KeyCode::Down, KeyCode::Enter, KeyCode::Char('d')] {
            app.press(key.into());
        }
        let screen = drawn(&mut app, 150, 24);
        let is_there = |text: &str| screen.iter().any(|l| l.starts_with(text));
        assert!(is_there("target    posix:/second"), "{screen:#?}");
        let question = "Remove posix:/second? It is in use: as planted. [y/N]";
        assert!(is_there(question), "{screen:#?}");
    }

    #[test]
    fn details_that_do_not_fit_say_so() {
        let mut app = App::new();
        let user = |pid| User {
            pid,
            command: "cat".to_owned(),
            descriptors: 1,
            mapped: false,
        };
        let mut shared = segment("shared", 3);
        shared.users = (1..=3).map(user).collect();
        app.take(census(vec![shared.clone()]));
        app.detail = true;
        let all = drawn(&mut app, 80, 24).join("\n");
        assert!(all.contains("user      3 cat"), "{all}");
        assert!(!all.contains("there is more"), "{all}");
        shared.users = (1..=30).map(user).collect();
        app.take(census(vec![shared]));
        let part = drawn(&mut app, 80, 24).join("\n");
        assert!(part.contains("user      3 cat"), "{part}");
        assert!(part.contains("there is more"), "{part}");
    }

    #[test]
    fn any_size_of_a_screen_will_do() {
        let mut app = App::new();
        let many = (1..=100).map(|len| segment(&len.to_string(), len));
        app.take(census(many.collect()));
        app.detail = true;
        for (width, height) in [(1, 1), (3, 2), (10, 5), (300, 100), (80, 1)] {
            drawn(&mut app, width, height);
        }
    }
}
