/*
 * proxy.h - the header with which a proxy says whom it speaks for: the PROXY protocol, versions 1
 * and 2 (haproxy's doc/proxy-protocol.txt). Pure: no descriptor.
 */
#ifndef POPLAR_WORKER_PROXY_H
#define POPLAR_WORKER_PROXY_H

#include "daemon/proto.h"
#include <stdbool.h>
#include <stddef.h>

enum {
    PROXY_TEXT_MAX = 107, /* octets of a header of version 1, line end included */
    PROXY_HEADER_MAX =
        2048, /* and of any: version 2 allows 64 KiB, but nobody has so much to say */
};

enum proxy_outcome {
    PROXY_OK,   /* the header is complete */
    PROXY_MORE, /* so far it may be one */
    PROXY_BAD   /* it is none */
};

struct proxy_header {
    bool known; /* it names a client; else the connection's own addresses count */
    bool tls;   /* the client speaks TLS to the proxy */
    /* "192.0.2.1:1024" or "[2001:db8::1]:1024"; IPv4-mapped addresses are made IPv4. */
    char source[PROTO_ADDRESS_MAX];
};

/* Parse what has come. On PROXY_MORE `more` is how many further octets belong to the header for
 * certain: to read no more than these leaves what follows it in the socket. On PROXY_OK the header
 * is all of the octets. */
enum proxy_outcome proxy_parse(const unsigned char *octets, size_t size,
                               struct proxy_header *header, size_t *more);

/* Whether these are the first octets of a header, from a client that should send none. */
bool proxy_begins(const unsigned char *octets, size_t size);

#endif
