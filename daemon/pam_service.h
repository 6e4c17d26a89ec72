/*
 * pam_service.h - whether PAM has what it takes to check logins by a service, looked at in its
 * files.
 */
#ifndef POPLAR_DAEMON_PAM_SERVICE_H
#define POPLAR_DAEMON_PAM_SERVICE_H

#include <stdbool.h>
#include <stddef.h>

/* Whether the service has a file of its own that can be read, with lines for authentication and
 * account: without them PAM would silently use those of the service "other". If not, `problem`
 * names what is missing and the remedy. */
bool pam_service_find(const char *service, const char *confdir, char *problem, size_t size);

#endif
