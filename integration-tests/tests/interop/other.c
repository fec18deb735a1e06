/* The other side in C: MECHANISM VERB TARGET …, on any of the mechanisms.
 *
 *   read TARGET LEN            prints the first LEN bytes
 *   write TARGET TEXT          writes TEXT at the beginning
 *   size TARGET                prints the size in bytes
 *   create TARGET SIZE TEXT    makes one that holds TEXT, and leaves it
 *
 * TARGET is an id, or a key to create (sysv); a name (posix); 0 for what is
 * standard input: the memfd, or the socket to send a new one over. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void check(int ok, const char *call) {
    if (!ok) {
        perror(call);
        exit(1);
    }
}

static void *map(int fd, size_t *size) {
    struct stat stat;
    check(fstat(fd, &stat) == 0, "fstat");
    *size = stat.st_size;
    void *start =
        mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    check(start != MAP_FAILED, "mmap");
    return start;
}

static void *attach(int id, size_t *size) {
    struct shmid_ds stat;
    check(shmctl(id, IPC_STAT, &stat) == 0, "shmctl");
    *size = stat.shm_segsz;
    void *start = shmat(id, NULL, 0);
    check(start != (void *)-1, "shmat");
    return start;
}

static void *open_it(const char *mechanism, const char *target, size_t *size) {
    if (strcmp(mechanism, "sysv") == 0)
        return attach(atoi(target), size);
    if (strcmp(mechanism, "memfd") == 0)
        return map(atoi(target), size);
    int fd = shm_open(target, O_RDWR, 0);
    check(fd != -1, "shm_open");
    return map(fd, size);
}

static void send_it(int socket, int fd) {
    char byte = '!';
    struct iovec part = {&byte, 1};
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof fd)];
    } control = {0};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    check(sendmsg(socket, &message, 0) == 1, "sendmsg");
}

static void create(const char *mechanism, const char *target, size_t size,
                   const char *text) {
    if (strcmp(mechanism, "sysv") == 0) {
        int key = (int)strtoul(target, NULL, 0);
        int id = shmget(key, size, IPC_CREAT | IPC_EXCL | 0600);
        check(id != -1, "shmget");
        memcpy(attach(id, &size), text, strlen(text));
        printf("%d", id);
        return;
    }
    int is_memfd = strcmp(mechanism, "memfd") == 0;
    int fd = is_memfd ? memfd_create("other", MFD_ALLOW_SEALING)
                      : shm_open(target, O_CREAT | O_EXCL | O_RDWR, 0600);
    check(fd != -1, is_memfd ? "memfd_create" : "shm_open");
    check(ftruncate(fd, size) == 0, "ftruncate");
    memcpy(map(fd, &size), text, strlen(text));
    if (is_memfd) {
        check(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0, "F_ADD_SEALS");
        send_it(atoi(target), fd);
    }
}

int main(int count, char **argument) {
    if (count < 4)
        return 2;
    const char *mechanism = argument[1], *verb = argument[2];
    const char *target = argument[3];
    size_t size;
    if (strcmp(verb, "create") == 0 && count == 6) {
        create(mechanism, target, strtoul(argument[4], NULL, 0), argument[5]);
    } else if (strcmp(verb, "size") == 0 && count == 4) {
        open_it(mechanism, target, &size);
        printf("%zu", size);
    } else if (strcmp(verb, "read") == 0 && count == 5) {
        void *start = open_it(mechanism, target, &size);
        fwrite(start, 1, strtoul(argument[4], NULL, 0), stdout);
    } else if (strcmp(verb, "write") == 0 && count == 5) {
        void *start = open_it(mechanism, target, &size);
        memcpy(start, argument[4], strlen(argument[4]));
    } else {
        return 2;
    }
    return 0;
}
