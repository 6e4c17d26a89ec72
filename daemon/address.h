/*
 * address.h - socket addresses as the master needs them: parsed, printed, counted. Pure.
 */
#ifndef POPLAR_DAEMON_ADDRESS_H
#define POPLAR_DAEMON_ADDRESS_H

#include "daemon/config.h"
#include "daemon/proto.h"
#include <stdbool.h>
#include <sys/socket.h>

/* What limits count by: an IPv4 address, or an IPv6 /48. */
struct address_source {
    unsigned char octets[16];
};

/* "192.0.2.1:110", "[2001:db8::1]:110", "*:110" (every IPv4 address), "[::]:110". False if the text
 * is none of these. */
bool address_parse(const char *text, struct sockaddr_storage *address, socklen_t *size);

/* Turn an IPv4-mapped IPv6 address into the IPv4 address it stands for; leave others alone. */
void address_unmap(struct sockaddr_storage *address);

/* Print "192.0.2.1:110" or "[2001:db8::1]:110"; "unix" for what has no address. */
void address_print(const struct sockaddr_storage *address, bool with_port,
                   char text[PROTO_ADDRESS_MAX]);

struct address_source address_source(const struct sockaddr_storage *address);
/* Print it as "192.0.2.1" or "2001:db8:1::/48". */
void address_print_source(const struct address_source *source, char text[PROTO_ADDRESS_MAX]);
bool address_same_source(const struct address_source *a, const struct address_source *b);

/* Whether an address is in one of the prefixes ("192.0.2.0/24", "2001:db8::/32", "192.0.2.1"). */
bool address_listed(const struct text_list *prefixes, const struct sockaddr_storage *address);

/* The first entry that is no prefix, or NULL. */
const char *address_bad_prefix(const struct text_list *prefixes);

#endif
