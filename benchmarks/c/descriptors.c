/* Passing descriptors in C: one message with one byte and `count` descriptors,
 * sent, received close-on-exec, and closed. Returns 0 or an errno. */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MOST = 253 };

union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(MOST * sizeof(int))];
};

int c_send(int socket, const int *fds, size_t count)
{
    char byte = '!';
    struct iovec part = {&byte, 1};
    union control control;
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = CMSG_SPACE(count * sizeof(int)),
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
    return sendmsg(socket, &message, MSG_NOSIGNAL) == 1 ? 0 : errno;
}

/* `fds` has room for 253. */
int c_receive(int socket, int *fds, size_t *count)
{
    char byte;
    struct iovec part = {&byte, 1};
    union control control;
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control,
    };
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1)
        return errno;
    *count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header;
         header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET ||
            header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t bytes = header->cmsg_len - CMSG_LEN(0);
        memcpy(fds + *count, CMSG_DATA(header), bytes);
        *count += bytes / sizeof(int);
    }
    return message.msg_flags & MSG_CTRUNC ? EMSGSIZE : 0;
}

int c_pass(int from, int to, const int *fds, size_t count)
{
    int received[MOST];
    size_t arrived = 0;
    int failed = c_send(from, fds, count);
    if (failed)
        return failed;
    failed = c_receive(to, received, &arrived);
    for (size_t at = 0; at < arrived; at++)
        close(received[at]);
    return failed ? failed : arrived == count ? 0 : EBADMSG;
}
