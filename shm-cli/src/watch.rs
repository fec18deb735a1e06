//! `shm watch`: the listing, as it changes.
//!
//! A thread looks at the machine again and again; this one shows what it found
//! and does what the keys say. What is shown is in [`draw`], what keys do in
//! [`app`]; neither knows of a terminal, which only [`screen`] does.

mod app;
mod draw;
mod screen;
mod stops;

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, Sender, TryRecvError, channel,
};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::Failure;
use crate::census::Census;
use crate::interrupts::Interrupts;
use crate::list::or_all;
use crate::mechanism::Mechanism;
use crate::remove;
use app::{Action, App};
use screen::Screen;
use stops::Stops;

/// How often keys, news and the wish to stop are looked at.
const TICK: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only segments of this mechanism; may be given more than once.
    #[arg(long, value_name = "MECHANISM")]
    mechanism: Vec<Mechanism>,
    /// How long to wait between two looks, such as 500ms or 5s.
    #[arg(long, value_name = "TIME", default_value = "1s")]
    #[arg(value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("there must be some time between".into()),
        Ok(interval) => Ok(interval),
        Err(error) => Err(format!("{error}; say it like 500ms or 5s")),
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let why = "it needs a terminal; `shm ls` tells the same once";
        return Err(format!("cannot watch: {why}").into());
    }
    let interrupts = Interrupts::listen()?;
    let stops = Stops::listen()?;
    let mechanisms = or_all(&arguments.mechanism).to_vec();
    let looker = Looker::start(mechanisms, arguments.interval)?;
    let mut screen = Screen::open()?;
    let watched = watch(&mut screen, &looker, &interrupts, &stops);
    // Before anything is said.
    drop(screen);
    watched.map(|()| ExitCode::SUCCESS)
}

fn watch(
    screen: &mut Screen,
    looker: &Looker,
    interrupts: &Interrupts,
    stops: &Stops,
) -> Result<(), Failure> {
    let mut app = App::new();
    screen.draw(|frame| draw::draw(frame, &mut app))?;
    loop {
        interrupts.check()?;
        let mut changed = stops.obey(screen)?;
        wait_for_a_key()?;
        while event::poll(Duration::ZERO)? {
            changed = true;
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    match app.press(key) {
                        Action::None => {}
                        Action::Quit => return Ok(()),
                        Action::Stop if stops::are_noticed() => stops.wish(),
                        Action::Stop => app.tell(Err(
                            "cannot stop: no shell would let it go on".into(),
                        )),
                        Action::Remove(segment) => {
                            app.tell(remove::segment(&segment));
                            looker.look_now();
                        }
                    }
                }
                _ => {}
            }
        }
        if let Some(census) = looker.news()? {
            changed = true;
            app.take(census);
        }
        if changed {
            screen.draw(|frame| draw::draw(frame, &mut app))?;
        }
    }
}

/// Waits a moment for one, and fails when there will be none any more: once the
/// terminal is gone, `event::poll` would look for one for ever, and no signal
/// would end that.
fn wait_for_a_key() -> Result<(), Failure> {
    let stdin = io::stdin();
    let mut keyboard = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    match poll(&mut keyboard, PollTimeout::try_from(TICK)?) {
        // A signal, of which others take note: the size may have changed.
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    match keyboard[0].revents() {
        Some(events) if events.intersects(gone) => {
            Err("cannot watch any more: the terminal is gone".into())
        }
        _ => Ok(()),
    }
}

/// The thread that looks at the machine.
struct Looker {
    news: Receiver<Result<Census, String>>,
    now: Sender<()>,
}

impl Looker {
    fn start(
        mechanisms: Vec<Mechanism>,
        interval: Duration,
    ) -> Result<Self, Failure> {
        let (sender, news) = channel();
        let (now, wanted) = channel();
        thread::Builder::new().spawn(move || {
            loop {
                let census = Census::take(&mechanisms);
                let census = census.map_err(|error| error.to_string());
                let heard = sender.send(census).is_ok();
                match wanted.recv_timeout(interval) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) if heard => {}
                    // Nobody watches any more.
                    _ => return,
                }
            }
        })?;
        Ok(Self { news, now })
    }

    fn look_now(&self) {
        // If the thread is gone, there will be no news, which is told there.
        let _ = self.now.send(());
    }

    /// The last look, if there is one that was not seen yet.
    fn news(&self) -> Result<Option<Census>, Failure> {
        let mut last = None;
        loop {
            match self.news.try_recv() {
                Ok(census) => last = Some(census?),
                Err(TryRecvError::Empty) => return Ok(last),
                Err(TryRecvError::Disconnected) => {
                    return Err("cannot look at the machine any more".into());
                }
            }
        }
    }
}
