//! The mechanisms by which Linux processes share memory.

use std::fmt;

use clap::ValueEnum;

/// A mechanism, by name.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ValueEnum,
)]
pub(crate) enum Mechanism {
    Sysv,
    Posix,
    Memfd,
    Dmabuf,
}

impl Mechanism {
    pub(crate) const ALL: [Self; 4] =
        [Self::Sysv, Self::Posix, Self::Memfd, Self::Dmabuf];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sysv => "sysv",
            Self::Posix => "posix",
            Self::Memfd => "memfd",
            Self::Dmabuf => "dmabuf",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
