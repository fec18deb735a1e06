//! Every segment on the machine, who has it, and whether anybody needs it.
//!
//! System V segments are in a table of the kernel's, which counts attachments;
//! POSIX segments are the files of `/dev/shm`; memfds and dma-bufs show only in
//! the processes that have them. So one [look](look::Look) into all processes
//! serves all of them.

mod anonymous;
mod lease;
mod look;
mod posix;
mod probe;
mod segment;
mod sysv;

use std::collections::HashSet;
use std::sync::OnceLock;

use crate::Failure;
use crate::mechanism::Mechanism;
use crate::target::Target;

pub(crate) use anonymous::{open_as, take};
pub(crate) use look::{Object, User};
pub(crate) use posix::remove as remove_posix;
#[cfg(test)]
pub(crate) use segment::Facts;
pub(crate) use segment::{Segment, Verdict};
pub(crate) use sysv::remove as remove_sysv;

/// What there is.
#[derive(Debug)]
pub(crate) struct Census {
    /// In the order of the mechanisms, and then of what finds them.
    pub(crate) segments: Vec<Segment>,
    /// What the look into the processes may have missed.
    pub(crate) shortfall: Option<String>,
    /// Of the mechanisms that could not be looked at, why.
    pub(crate) failures: Vec<String>,
}

impl Census {
    /// Looks at these mechanisms.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read. What goes wrong with one mechanism is among the
    /// failures.
    pub(crate) fn take(mechanisms: &[Mechanism]) -> Result<Self, Failure> {
        survive_leases()?;
        let wants = |mechanism| mechanisms.contains(&mechanism);
        let mut failures = Vec::new();
        // Before the look: what is made later is not there, and does not seem
        // to be unused.
        let files = match wants(Mechanism::Posix) {
            true => posix::list().unwrap_or_else(|error| {
                failures.push(format!("cannot list /dev/shm: {error}"));
                vec![]
            }),
            false => vec![],
        };
        let wanted = posix::wanted(&files);
        let look = look::Look::into_processes(&wanted)
            .map_err(|error| format!("cannot look into /proc: {error}"))?;
        let mut segments = Vec::new();
        if wants(Mechanism::Sysv) {
            match sysv::census(&look) {
                Ok(found) => segments.extend(found),
                Err(error) => failures.push(error.to_string()),
            }
        }
        if wants(Mechanism::Posix) {
            segments.extend(posix::census(files, &look));
        }
        segments.extend(anonymous::census(&look, mechanisms));
        let shortfall = look.shortfall();
        Ok(Self { segments, shortfall, failures })
    }

    /// The one that a target leads to.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be looked at.
    pub(crate) fn find(target: &Target) -> Result<(Self, Segment), Failure> {
        let object = object(target)?;
        let census = Self::take(&[target.mechanism()])?;
        let mut segment = census.segment(target, object)?.clone();
        // Many descriptors may lead to it; this is the one that was asked for.
        segment.target = Some(target.clone());
        Ok((census, segment))
    }

    /// The one that a target led to before this look.
    ///
    /// # Errors
    ///
    /// It is not there, or could not be looked at.
    pub(crate) fn segment(
        &self,
        target: &Target,
        object: Object,
    ) -> Result<&Segment, Failure> {
        let found = self.segments.iter().find(|s| s.object == object);
        found.ok_or_else(|| match self.failures.first() {
            Some(failure) => failure.clone().into(),
            None => absent(target).into(),
        })
    }
}

/// What a target leads to now.
pub(crate) fn object(target: &Target) -> Result<Object, Failure> {
    match target {
        Target::SysvKey(key) => sysv::id_of(*key).map(Object::SystemV),
        Target::SysvId(id) => Ok(Object::SystemV(id.as_raw())),
        Target::Posix(name) => posix::object(name),
        Target::Memfd(descriptor) => {
            anonymous::object(Mechanism::Memfd, *descriptor)
        }
        Target::Dmabuf(descriptor) => {
            anonymous::object(Mechanism::Dmabuf, *descriptor)
        }
    }
}

/// Why a target is not among the segments although something is there.
fn absent(target: &Target) -> String {
    match target {
        Target::Posix(name) if posix::object(name).is_ok() => format!(
            "cannot use {target}: it looks like a semaphore of sem_open(3), \
             and no segment; `shm rm --force` would remove it"
        ),
        Target::SysvId(_) => format!("cannot find {target}: there is none"),
        _ => format!("cannot find {target}: it is gone"),
    }
}

/// Leases bring a signal that would end this process.
fn survive_leases() -> Result<(), Failure> {
    static DONE: OnceLock<bool> = OnceLock::new();
    match DONE.get_or_init(|| lease::survive_the_news().is_ok()) {
        true => Ok(()),
        false => Err("cannot handle SIGIO".into()),
    }
}

/// The different objects among these, for what is looked for by them.
fn objects<'a>(
    segments: impl IntoIterator<Item = &'a posix::Entry>,
) -> HashSet<Object> {
    segments.into_iter().map(|entry| entry.object).collect()
}
