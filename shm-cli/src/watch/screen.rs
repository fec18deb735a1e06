//! The terminal, taken over and given back as it was: when this is dropped,
//! also while a panic unwinds.

use std::io;

use ratatui::{DefaultTerminal, Frame};

pub(super) struct Screen(DefaultTerminal);

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        // A panic gives the terminal back before it says why.
        ratatui::try_init().map(Self)
    }

    /// Gives the terminal back, does something, and takes the terminal anew.
    pub(super) fn without(&mut self, act: impl FnOnce()) -> io::Result<()> {
        self.give_back();
        act();
        self.0 = ratatui::try_init()?;
        Ok(())
    }

    fn give_back(&mut self) {
        // On a terminal that is gone, there is nothing to be done.
        let _ = self.0.show_cursor();
        let _ = ratatui::try_restore();
    }

    pub(super) fn draw(
        &mut self,
        draw: impl FnOnce(&mut Frame<'_>),
    ) -> io::Result<()> {
        self.0.draw(draw).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use integration_tests::alone::alone;
    use nix::pty::openpty;
    use nix::sys::termios::tcgetattr;
    use nix::unistd::{dup, dup2_stderr, dup2_stdin, dup2_stdout};

    #[test]
    fn a_panic_gives_the_terminal_back() {
        alone(|| {
            let terminal = openpty(None, None).unwrap();
            let before = tcgetattr(&terminal.slave).unwrap();
            let kept: [OwnedFd; 3] = [
                dup(io::stdin()).unwrap(),
                dup(io::stdout()).unwrap(),
                dup(io::stderr()).unwrap(),
            ];
            dup2_stdin(&terminal.slave).unwrap();
            dup2_stdout(&terminal.slave).unwrap();
            dup2_stderr(&terminal.slave).unwrap();
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let mut screen = Screen::open().unwrap();
                let during = tcgetattr(io::stdin()).unwrap();
                screen.draw(|_| panic!("raw: {}", during != before)).unwrap();
            }));
            let after = tcgetattr(&terminal.slave).unwrap();
            dup2_stdin(&kept[0]).unwrap();
            dup2_stdout(&kept[1]).unwrap();
            dup2_stderr(&kept[2]).unwrap();
            let said = panicked.unwrap_err();
            assert_eq!(said.downcast_ref::<String>().unwrap(), "raw: true");
            assert_eq!(after, before);
            drop(terminal.slave);
            let mut written = Vec::new();
            // It ends with an error, as nobody has the other side any more.
            let _ = File::from(terminal.master).read_to_end(&mut written);
            let mut screen = vt100::Parser::default();
            screen.process(&written);
            assert!(!screen.screen().alternate_screen());
            assert!(!screen.screen().hide_cursor());
            // A backtrace may have moved it off the screen.
            let written = String::from_utf8_lossy(&written);
            let (_, after) = written.split_once("\x1b[?1049l").unwrap();
            assert!(after.contains("raw: true"), "{after:?}");
        });
    }
}
