//! What is watched, and what the keys do.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::Failure;
use crate::census::{Census, Object, Segment, Verdict};

/// By what the rows are sorted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    Target,
    Size,
    Resident,
    Users,
    Age,
    Verdict,
}

impl Sort {
    const ALL: [Self; 6] = [
        Self::Target,
        Self::Size,
        Self::Resident,
        Self::Users,
        Self::Age,
        Self::Verdict,
    ];

    /// The column's title.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Size => "size",
            Self::Resident => "resident",
            Self::Users => "users",
            Self::Age => "age",
            Self::Verdict => "verdict",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self);
        let next = at.map_or(0, |at| (at + 1) % Self::ALL.len());
        Self::ALL[next]
    }

    /// What is of interest comes first: the largest, the oldest, the stale.
    fn compare(self, one: &Segment, other: &Segment) -> Ordering {
        let (one_facts, other_facts) = (&one.facts, &other.facts);
        match self {
            // As they come.
            Self::Target => Ordering::Equal,
            Self::Size => other_facts.len.cmp(&one_facts.len),
            Self::Resident => other_facts.resident.cmp(&one_facts.resident),
            Self::Users => other.users.len().cmp(&one.users.len()),
            Self::Age => one_facts.changed.cmp(&other_facts.changed),
            Self::Verdict => other.verdict.cmp(&one.verdict),
        }
    }
}

/// What the keys mean now.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    Browse,
    /// They make up the text that rows must hold.
    Filter,
    /// They say whether this is to be removed.
    Confirm(Box<Segment>),
}

/// What is to be done that only the command can do.
#[derive(Debug)]
pub(super) enum Action {
    None,
    Quit,
    /// Until the shell lets it go on.
    Stop,
    Remove(Box<Segment>),
}

#[derive(Debug)]
pub(super) struct App {
    /// None before the first look.
    census: Option<Census>,
    pub(super) mode: Mode,
    pub(super) sort: Sort,
    pub(super) reverse: bool,
    pub(super) filter: String,
    pub(super) stale_only: bool,
    pub(super) detail: bool,
    /// What became of the last removal.
    pub(super) message: String,
    /// Stays with the segment, wherever that is sorted to.
    selected: Option<Object>,
    /// Where the selection was: what comes next is selected once it is gone.
    at: usize,
    /// The first row that is shown.
    pub(super) top: usize,
    /// How many rows the screen has, as was found when it was drawn.
    pub(super) page: usize,
}

impl App {
    pub(super) fn new() -> Self {
        Self {
            census: None,
            mode: Mode::Browse,
            sort: Sort::Target,
            reverse: false,
            filter: String::new(),
            stale_only: false,
            detail: false,
            message: String::new(),
            selected: None,
            at: 0,
            top: 0,
            page: 1,
        }
    }

    /// What was found by the last look.
    pub(super) fn take(&mut self, census: Census) {
        self.census = Some(census);
    }

    pub(super) fn census(&self) -> Option<&Census> {
        self.census.as_ref()
    }

    /// What became of a removal.
    pub(super) fn tell(&mut self, removed: Result<String, Failure>) {
        self.message = removed.unwrap_or_else(|error| error.to_string());
    }

    /// The rows, in order.
    pub(super) fn rows(&self) -> Vec<&Segment> {
        let segments = self.census.as_ref().map_or(&[][..], |c| &c.segments);
        let mut rows: Vec<&Segment> = segments
            .iter()
            .filter(|s| !self.stale_only || s.verdict == Verdict::Stale)
            .filter(|segment| self.is_wanted(segment))
            .collect();
        // Those that are equal stay as they came.
        rows.sort_by(|one, other| self.sort.compare(one, other));
        if self.reverse {
            rows.reverse();
        }
        rows
    }

    /// Whether the filter's text is in what is shown of it.
    fn is_wanted(&self, segment: &Segment) -> bool {
        let filter = self.filter.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&filter);
        filter.is_empty()
            || segment.target.as_ref().is_some_and(|t| has(&t.to_string()))
            || has(segment.mechanism.name())
            || has(&segment.name)
            || has(&segment.verdict.to_string())
            || segment
                .users
                .iter()
                .any(|user| has(&user.command) || has(&user.pid.to_string()))
    }

    /// The row that is selected, if there is any, scrolled to.
    pub(super) fn selection(&mut self) -> Option<usize> {
        let rows: Vec<Object> =
            self.rows().iter().map(|segment| segment.object).collect();
        let last = rows.len().checked_sub(1)?;
        let found = self
            .selected
            .and_then(|object| rows.iter().position(|row| *row == object));
        self.at = found.unwrap_or(self.at).min(last);
        self.selected = rows.get(self.at).copied();
        // The last rows fill the screen, and the selection is on it.
        self.top = self.top.min(rows.len().saturating_sub(self.page));
        self.top = self.top.min(self.at);
        self.top = self.top.max((self.at + 1).saturating_sub(self.page));
        Some(self.at)
    }

    /// The segment that is selected.
    pub(super) fn selected(&mut self) -> Option<&Segment> {
        let at = self.selection()?;
        self.rows().get(at).copied()
    }

    fn select(&mut self, at: usize) {
        let last = self.rows().len().saturating_sub(1);
        self.at = at.min(last);
        self.selected = None;
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Action {
        // No signal comes from the keyboard now.
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Action::Quit,
            KeyCode::Char('z') if control => return Action::Stop,
            _ => {}
        }
        match std::mem::replace(&mut self.mode, Mode::Browse) {
            Mode::Browse => self.browse(key.code),
            Mode::Filter => {
                self.edit_filter(key.code);
                Action::None
            }
            Mode::Confirm(segment) => match key.code {
                KeyCode::Char('y' | 'Y') => Action::Remove(segment),
                _ => Action::None,
            },
        }
    }

    fn browse(&mut self, key: KeyCode) -> Action {
        self.message.clear();
        // So that moves begin where the selection is now.
        let at = self.selection().unwrap_or_default();
        match key {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down | KeyCode::Char('j') => self.select(at + 1),
            KeyCode::Up | KeyCode::Char('k') => {
                self.select(at.saturating_sub(1));
            }
            KeyCode::PageDown => self.select(at + self.page),
            KeyCode::PageUp => self.select(at.saturating_sub(self.page)),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('t') => self.stale_only = !self.stale_only,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Enter => self.detail = !self.detail,
            KeyCode::Char('d') | KeyCode::Delete => {
                if let Some(segment) = self.selected().cloned() {
                    match segment.removable() {
                        Ok(_) => self.mode = Mode::Confirm(Box::new(segment)),
                        Err(why) => self.tell(Err(why)),
                    }
                }
            }
            _ => {}
        }
        Action::None
    }

    fn edit_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => return,
            KeyCode::Esc => {
                self.filter.clear();
                return;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) => self.filter.push(character),
            _ => {}
        }
        self.mode = Mode::Filter;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mechanism::Mechanism;
    use crate::target::Target;

    pub(in super::super) fn segment(name: &str, len: u64) -> Segment {
        let name = shm_posix::Name::new(name).unwrap();
        let facts = crate::census::Facts {
            len: Some(len),
            ..crate::census::Facts::default()
        };
        Segment {
            mechanism: Mechanism::Posix,
            object: Object::File { device: 1, inode: len },
            target: Some(Target::Posix(name)),
            name: String::new(),
            facts,
            users: vec![],
            verdict: match len % 2 {
                0 => Verdict::Stale,
                _ => Verdict::InUse,
            },
            evidence: "as planted".to_owned(),
        }
    }

    pub(in super::super) fn census(segments: Vec<Segment>) -> Census {
        Census { segments, shortfall: None, failures: vec![] }
    }

    fn app() -> App {
        let mut app = App::new();
        app.take(census(vec![
            segment("a", 2),
            segment("b", 3),
            segment("c", 1),
        ]));
        app.page = 10;
        app
    }

    fn press(app: &mut App, keys: &str) {
        for character in keys.chars() {
            let code = match character {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x7f' => KeyCode::Backspace,
                character => KeyCode::Char(character),
            };
            let action = app.press(code.into());
            assert!(matches!(action, Action::None), "{action:?}");
        }
    }

    fn names(app: &App) -> String {
        let rows = app.rows();
        let targets = rows.iter().map(|row| row.target.as_ref().unwrap());
        let names = targets.map(|t| t.to_string().replace("posix:/", ""));
        names.collect()
    }

    fn selected(app: &mut App) -> String {
        let segment = app.selected().unwrap();
        segment.target.as_ref().unwrap().to_string().replace("posix:/", "")
    }

    #[test]
    fn rows_are_sorted_and_the_selection_stays_with_its_segment() {
        let mut app = app();
        press(&mut app, "j");
        assert_eq!(
            (names(&app), selected(&mut app)),
            ("abc".into(), "b".into())
        );
        press(&mut app, "s");
        assert_eq!(
            (names(&app), selected(&mut app)),
            ("bac".into(), "b".into())
        );
        press(&mut app, "r");
        assert_eq!(
            (names(&app), selected(&mut app)),
            ("cab".into(), "b".into())
        );
        for _ in 1..Sort::ALL.len() {
            press(&mut app, "s");
        }
        press(&mut app, "r");
        assert_eq!(names(&app), "abc");
    }

    #[test]
    fn what_is_next_is_selected_when_a_segment_goes() {
        let mut app = app();
        press(&mut app, "j");
        assert_eq!(selected(&mut app), "b");
        app.take(census(vec![segment("a", 2), segment("c", 1)]));
        assert_eq!(selected(&mut app), "c");
        app.take(census(vec![segment("a", 2)]));
        assert_eq!(selected(&mut app), "a");
        app.take(census(vec![]));
        assert!(app.selected().is_none());
        press(&mut app, "jkd\n");
        assert!(matches!(app.mode, Mode::Browse));
    }

    #[test]
    fn rows_are_filtered_by_what_is_typed_and_by_the_verdict() {
        let mut app = app();
        press(&mut app, "/IN us");
        assert_eq!(names(&app), "bc");
        press(&mut app, "\x7f\x7f\x7f\x7f\x7f:/q");
        assert_eq!(names(&app), "");
        press(&mut app, "\x7fa\n");
        assert_eq!(names(&app), "a");
        press(&mut app, "\x1b");
        assert_eq!(names(&app), "abc");
        press(&mut app, "/b\x1b");
        assert_eq!(names(&app), "abc");
        press(&mut app, "t");
        assert_eq!(names(&app), "a");
    }

    #[test]
    fn only_yes_removes_what_was_asked_for() {
        let mut app = app();
        for answer in ["n", "\n", "\x1b", "d"] {
            press(&mut app, "d");
            // Meanwhile it is another one's turn.
            app.take(census(vec![segment("b", 3)]));
            assert!(matches!(app.mode, Mode::Confirm(_)));
            press(&mut app, answer);
            assert!(matches!(app.mode, Mode::Browse), "{answer:?}");
            app.take(census(vec![segment("a", 2)]));
        }
        press(&mut app, "d");
        app.take(census(vec![segment("b", 3)]));
        match app.press(KeyCode::Char('y').into()) {
            Action::Remove(segment) => {
                let target = segment.target.unwrap().to_string();
                assert_eq!(target, "posix:/a");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_has_no_name_is_not_asked_about() {
        let mut app = App::new();
        let mut memfd = segment("a", 2);
        memfd.name = "frames".to_owned();
        memfd.target = Some("memfd:1/2".parse().unwrap());
        let nameless = Segment { target: None, ..memfd.clone() };
        for segment in [memfd, nameless] {
            app.take(census(vec![segment]));
            press(&mut app, "d");
            assert!(matches!(app.mode, Mode::Browse));
            assert!(app.message.contains("frames"), "{}", app.message);
        }
    }

    #[test]
    fn it_is_left_by_these_keys() {
        let quits = |key: KeyEvent, mode: Mode| {
            let mut app = app();
            app.mode = mode;
            matches!(app.press(key), Action::Quit)
        };
        let control_c =
            KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(quits(KeyCode::Char('q').into(), Mode::Browse));
        assert!(quits(control_c, Mode::Browse));
        assert!(quits(control_c, Mode::Filter));
        let control_z =
            KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL);
        assert!(matches!(app().press(control_z), Action::Stop));
        assert!(!quits(KeyCode::Char('q').into(), Mode::Filter));
        assert!(!quits(KeyCode::Char('c').into(), Mode::Browse));
    }

    #[test]
    fn the_selection_is_always_on_the_screen() {
        let mut app = App::new();
        let many = (1..=100).map(|len| segment(&len.to_string(), len));
        app.take(census(many.collect()));
        app.page = 10;
        for (key, at, top) in [
            (KeyCode::End, 99, 90),
            (KeyCode::PageUp, 89, 89),
            (KeyCode::Home, 0, 0),
            (KeyCode::Up, 0, 0),
            (KeyCode::PageDown, 10, 1),
            (KeyCode::Down, 11, 2),
        ] {
            app.press(key.into());
            assert_eq!(app.selection(), Some(at), "{key:?}");
            assert_eq!(app.top, top, "{key:?}");
        }
    }
}
