/* A program that knows nothing of this workspace: makes a segment, has it, and
 * waits until it is killed or its standard input ends.
 *
 *     plant posix /NAME | sysv KEY | memfd LABEL | thread LABEL
 *
 * thread: a memfd that a thread has, after the first one has ended.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

enum { SIZE = 12345 };

static void *map(int fd)
{
    if (fd < 0 || ftruncate(fd, SIZE) != 0)
        return MAP_FAILED;
    void *bytes = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return bytes;
}

static void *wait_in_thread(void *bytes)
{
    (void)bytes;
    puts("ready");
    fflush(stdout);
    exit(getchar() != EOF);
}

int main(int argc, char **argv)
{
    void *bytes = MAP_FAILED;
    if (argc != 3)
        return 2;
    if (strcmp(argv[1], "posix") == 0) {
        bytes = map(shm_open(argv[2], O_RDWR | O_CREAT | O_EXCL, 0600));
    } else if (strcmp(argv[1], "sysv") == 0) {
        key_t key = (key_t)strtoul(argv[2], NULL, 0);
        int id = shmget(key, SIZE, 0600 | IPC_CREAT | IPC_EXCL);
        bytes = shmat(id, NULL, 0);
    } else if (strcmp(argv[1], "memfd") == 0) {
        bytes = map(memfd_create(argv[2], MFD_CLOEXEC));
    } else if (strcmp(argv[1], "thread") == 0) {
        pthread_t thread;
        bytes = map(dup(memfd_create(argv[2], MFD_CLOEXEC)));
        if (pthread_create(&thread, NULL, wait_in_thread, bytes) != 0)
            return 1;
        pthread_exit(NULL);
    }
    if (bytes == MAP_FAILED) {
        perror("plant");
        return 1;
    }
    strcpy(bytes, "planted by C");
    puts("ready");
    fflush(stdout);
    return getchar() != EOF;
}
