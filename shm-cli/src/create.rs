//! `shm create`: makes a segment that stays.

use std::process::ExitCode;

use clap::ValueEnum;
use shm_common::{Error, HugePages, PageSize, Reserve, Size};

use crate::output::print;
use crate::target::Target;
use crate::{Failure, Usage};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// `sysv:KEY` or `posix:/NAME`; `sysv:0` for one without a key.
    target: Target,
    /// How many bytes, such as 64KiB, 16MiB or 4096.
    #[arg(long, allow_hyphen_values = true)]
    size: Size,
    /// The permission bits, in octal. The umask does not apply.
    #[arg(long, default_value = "0600", value_parser = mode)]
    mode: u32,
    /// Takes pages of that size from the pool for huge pages.
    #[arg(long, value_name = "PAGE SIZE", value_parser = page_size)]
    huge: Option<PageSize>,
    /// When the memory is taken.
    #[arg(long, value_name = "WHEN", default_value = "now")]
    reserve: When,
}

#[derive(Clone, Copy, ValueEnum)]
enum When {
    /// At once, or the command fails.
    Now,
    /// Page by page; whoever finds none left is killed.
    Touch,
}

fn mode(text: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) if digits => Ok(mode),
        _ => Err("the mode is an octal number up to 0777, such as 0640".into()),
    }
}

fn page_size(text: &str) -> Result<PageSize, Error> {
    PageSize::new(text.parse::<Size>()?.bytes())
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Arguments { target, size, mode, huge, reserve } = arguments;
    let huge_pages = huge.map_or(HugePages::No, HugePages::Pool);
    let reserve = match reserve {
        When::Now => Reserve::Now,
        When::Touch => Reserve::OnTouch,
    };
    let cannot = |error: Error| target.cannot("create", error);
    // What nobody can be told of is removed again.
    match target {
        Target::SysvKey(key) => {
            let options = shm_sysv::SegmentOptions::new().mode(*mode);
            let options = options.huge_pages(huge_pages).reserve(reserve);
            let mut segment = options.create(*key, *size).map_err(cannot)?;
            print(&Target::SysvId(segment.id()).to_string())?;
            segment.keep();
        }
        Target::Posix(name) => {
            let options = shm_posix::SegmentOptions::new().mode(*mode);
            let options = options.huge_pages(huge_pages).reserve(reserve);
            let mut segment = options.create(name, *size).map_err(cannot)?;
            print(&target.to_string())?;
            segment.keep();
        }
        Target::SysvId(_) => {
            return Err(Usage(format!(
                "cannot create {target}: the kernel chooses the identifier; \
                 choose a key, sysv:KEY, or none, sysv:0"
            ))
            .into());
        }
        Target::Memfd(_) | Target::Dmabuf(_) => {
            return Err(Usage(format!(
                "cannot create {target}: without a name, it would be gone \
                 with this command; `shm send` hands a memfd over"
            ))
            .into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(mode("0600"), Ok(0o600));
        assert_eq!(mode("7"), Ok(7));
        for text in ["", "1000", "0o600", "rw", "-1", "+600", "8", "0 600"] {
            assert!(mode(text).is_err(), "{text:?}");
        }
    }
}
