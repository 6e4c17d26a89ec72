/*
 * raw.h - records past all checks of the contract, as a process sends them that was taken over. For
 * tests.
 */
#ifndef POPLAR_TESTS_RAW_H
#define POPLAR_TESTS_RAW_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

enum { RAW_FDS_MAX = 16 };

/* Send octets, and `fd` with them `n` times; not at all where that is more than RAW_FDS_MAX.
 * Returns what sendmsg(2) does. */
static inline ssize_t raw_send(int socket, const void *octets, size_t size, int fd, unsigned long n)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(RAW_FDS_MAX * sizeof(int))];
    } control = {0};
    struct iovec vector = {.iov_base = (void *)(uintptr_t)octets, .iov_len = size};
    struct msghdr header = {.msg_iov = &vector, .msg_iovlen = 1};
    if (n > 0 && n <= RAW_FDS_MAX) {
        header.msg_control = control.space;
        header.msg_controllen = CMSG_SPACE(n * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(n * sizeof(int));
        for (unsigned long i = 0; i < n; i++)
            memcpy(CMSG_DATA(&control.header) + i * sizeof(int), &fd, sizeof(int));
    }
    return sendmsg(socket, &header, MSG_NOSIGNAL);
}

/* The octets that hexadecimal digits stand for, up to what is none; how many, at most `max`. */
static inline size_t raw_octets(const char *digits, unsigned char *octets, size_t max)
{
    size_t size = 0;
    int used = 0;
    for (unsigned octet; size < max && sscanf(digits, "%2x%n", &octet, &used) == 1; size++) {
        digits += used;
        octets[size] = (unsigned char)octet;
    }
    return size;
}

#endif
