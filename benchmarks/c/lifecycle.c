/* The life of a segment in C, by the same system calls in the same order as the
 * crates make: create, map, touch every page, unmap, remove. Each function
 * returns 0 or the errno of the call that failed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/* What `how` says; src/lifecycle.rs has the same numbers. */
enum { RESERVE = 1, POPULATE = 2 };

/* `page` is the size of a huge page, or 0 for the base page. */
static unsigned log2_of(size_t page) { return __builtin_ctzl(page); }

static void touch(volatile char *start, size_t len, size_t page)
{
    if (page == 0)
        page = 4096;
    for (size_t at = 0; at < len; at += page)
        start[at] = 1;
}

static int populate(void *start, size_t len)
{
    return madvise(start, len, MADV_POPULATE_WRITE) ? errno : 0;
}

int c_sysv_life(size_t len, int how, size_t page)
{
    int flags = IPC_CREAT | IPC_EXCL | 0600;
    if (!(how & RESERVE))
        flags |= SHM_NORESERVE;
    if (page)
        flags |= SHM_HUGETLB | log2_of(page) << 26;
    int id = shmget(IPC_PRIVATE, len, flags);
    if (id == -1)
        return errno;
    char *start = shmat(id, NULL, 0);
    int failed = start == (void *)-1 ? errno : 0;
    if (!failed && how & RESERVE)
        failed = populate(start, len);
    if (!failed && how & POPULATE)
        failed = populate(start, len);
    if (!failed)
        touch(start, len, page);
    if (shmctl(id, IPC_RMID, NULL) && !failed)
        failed = errno;
    if (start != (void *)-1 && shmdt(start) && !failed)
        failed = errno;
    return failed;
}

static int map_touch_unmap(int fd, size_t len, int how, size_t page)
{
    char *start =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (start == MAP_FAILED)
        return errno;
    int failed = how & POPULATE ? populate(start, len) : 0;
    if (!failed)
        touch(start, len, page);
    if (munmap(start, len) && !failed)
        failed = errno;
    return failed;
}

static int set_size(int fd, size_t len, int how)
{
    if (how & RESERVE)
        return posix_fallocate(fd, 0, len);
    return ftruncate(fd, len) ? errno : 0;
}

/* `name` begins with a slash, `path` is the same below /dev/shm. */
int c_posix_life(const char *name, const char *path, size_t len, int how)
{
    char entry[32];
    struct stat object, found;
    int fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd == -1)
        return errno;
    int failed = 0;
    if (flock(fd, LOCK_SH | LOCK_NB) || fchmod(fd, 0600))
        failed = errno;
    if (!failed)
        failed = set_size(fd, len, how);
    snprintf(entry, sizeof entry, "/proc/self/fd/%d", fd);
    if (!failed && linkat(AT_FDCWD, entry, AT_FDCWD, path, AT_SYMLINK_FOLLOW))
        failed = errno;
    if (!failed) {
        failed = map_touch_unmap(fd, len, how, 0);
        /* Whether the name still leads to what was made here. */
        if (fstat(fd, &object) || lstat(path, &found))
            failed = failed ? failed : errno;
        else if (object.st_ino == found.st_ino &&
                 object.st_dev == found.st_dev && shm_unlink(name))
            failed = failed ? failed : errno;
    }
    close(fd);
    return failed;
}

int c_memfd_life(const char *label, size_t len, int how, size_t page)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL;
    if (page)
        flags |= MFD_HUGETLB | log2_of(page) << MFD_HUGE_SHIFT;
    int fd = memfd_create(label, flags);
    if (fd == -1)
        return errno;
    int failed = set_size(fd, len, how);
    if (!failed && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK))
        failed = errno;
    if (!failed)
        failed = map_touch_unmap(fd, len, how, page);
    close(fd);
    return failed;
}
