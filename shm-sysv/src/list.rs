//! Only here: every segment of the system, for the kernel keeps a table.

use shm_common::{OsError, Result};

use crate::{Id, Stat, raw};

/// Lists every segment of this IPC namespace, whoever owns it, lowest index of
/// the kernel's table first. After a crash,
/// [`is_abandoned`](Stat::is_abandoned) tells what is left over, and
/// [`Id::remove`] removes it.
///
/// The table may change while it is read: a segment that is created or removed
/// meanwhile may be missing or still there. Before Linux 4.17, segments that
/// this process may not read are left out.
///
/// # Errors
///
/// [`Error::Os`](crate::Error::Os): the kernel does not tell.
///
/// # Examples
///
/// ```
/// use shm_sysv::{Key, Segment, Size, list};
///
/// let segment = Segment::create(Key::PRIVATE, Size::KIB)?;
/// let mine = list()?.into_iter().find(|stat| stat.id == segment.id());
/// assert_eq!(mine, Some(segment.stat()?));
/// # Ok::<(), shm_sysv::Error>(())
/// ```
///
/// # Sources
///
/// shmctl(2) `SHM_INFO`, `SHM_STAT_ANY`.
pub fn list() -> Result<Vec<Stat>> {
    let (highest, _) = raw::shmctl_shm_info()?;
    let mut stats = Vec::new();
    // Until a call tells, it may be that the kernel has no SHM_STAT_ANY.
    let mut any: Option<bool> = None;
    for index in 0..=highest {
        let mut found = match any {
            Some(false) => raw::shmctl_shm_stat(index),
            _ => raw::shmctl_shm_stat_any(index),
        };
        // Nothing at this index, or no such command?
        if any.is_none() && found.as_ref().is_err_and(is_invalid) {
            found = raw::shmctl_shm_stat(index);
            any = found.is_ok().then_some(false);
        } else if found.is_ok() {
            any.get_or_insert(true);
        }
        match found {
            Ok((id, stat)) => {
                stats.push(Stat::new(Id::from_kernel(id), &stat));
            }
            // Nothing at this index, or nothing that may be read.
            Err(os)
                if matches!(
                    os.errno(),
                    libc::EINVAL | libc::EIDRM | libc::EACCES
                ) => {}
            Err(os) => return Err(os.into()),
        }
    }
    Ok(stats)
}

fn is_invalid(os: &OsError) -> bool {
    os.errno() == libc::EINVAL
}
