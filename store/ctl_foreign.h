/*
 * ctl_foreign.h - what lies where mail does and is none that import could read: said before it is
 * taken for a message.
 */
#ifndef POPLAR_STORE_CTL_FOREIGN_H
#define POPLAR_STORE_CTL_FOREIGN_H

/* What a file is that begins as no message does, in words for people; NULL: nothing speaks against
 * it. */
const char *ctl_foreign_file(int fd);

/* What a directory is that is no Maildir. Never NULL. */
const char *ctl_foreign_directory(int fd);

#endif
