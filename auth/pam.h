/*
 * pam.h - one login through PAM: is the password right, may the account log in, and who is it then.
 *
 * Runs in poplar-auth as root. Low layer: returns outcomes and says in `problem` what an
 * administrator should know; nothing that a module says ever reaches a client.
 */
#ifndef POPLAR_AUTH_PAM_H
#define POPLAR_AUTH_PAM_H

#include "daemon/proto.h"
#include <stdbool.h>

struct pam_handle;

/* One login. Fill the first part, the rest zero; end with pam_login_end() in any case. */
struct pam_login {
    const char *service, *confdir; /* confdir NULL: the system's */
    const char *user, *secret;     /* the caller's, who wipes the secret */
    const char *peer;              /* PAM_RHOST */
    bool vouched;                  /* a certificate said who it is: the account phase only */

    char name[PROTO_USER_MAX + 1]; /* PAM_USER at the end; empty if it is too long to be one */
    char problem[400];             /* set beside LOGIN_UNAVAILABLE and LOGIN_MISCONFIGURED */
    char said[160];                /* what libpam found wrong with the service; or empty */
    bool faulty;                   /* and that keeps people out */
    char remark[200];              /* the last text of a module, raw; empty if there was none */

    struct pam_handle *handle;
    int status;  /* of the last step, in PAM's terms */
    bool asking; /* the password may be given to a module that asks */
};

/* Authentication, unless the user is vouched for, then the account phase. LOGIN_OK: `name` is whom
 * PAM means. */
enum login_outcome pam_login_check(struct pam_login *login);

/* Credentials and a session, opened and closed again in a child of this process, for modules
 * that keep books or make home directories. LOGIN_OK or LOGIN_UNAVAILABLE. */
enum login_outcome pam_login_session(struct pam_login *login);

/* Release what PAM holds. Legal at any time, also twice. */
void pam_login_end(struct pam_login *login);

/* Further handles, one a service, used for nothing: as long as one is open, the service's modules
 * stay mapped, and the next login does not load them again. */
struct pam_pins {
    size_t n;
    struct pam_handle **handles;
};

/* Hold a service that was found. `problem` is what libpam says is wrong with it, or empty. False:
 * it cannot use a line of it, for which nobody may be able to log in. */
bool pam_pins_add(struct pam_pins *pins, const char *service, const char *confdir, char *problem,
                  size_t size);
void pam_pins_release(struct pam_pins *pins);

#endif
