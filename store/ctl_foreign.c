/*
 * ctl_foreign.c - see ctl_foreign.h. Runs in poplarctl, with the caller's privilege, over files
 * that may be anybody's.
 */
#include "store/ctl_foreign.h"
#include "daemon/base.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Archives, and what Dovecot makes of messages with its plugins zlib and mail_crypt. */
static const struct {
    size_t at, size;
    const char *octets;
} signs[] = {
    {0, 2, "\x1f\x8b"},         /* gzip */
    {4, 6, "1AY&SY"},           /* bzip2 */
    {0, 6, "\xfd\x37zXZ"},      /* xz */
    {0, 4, "\x28\xb5\x2f\xfd"}, /* zstd */
    {0, 11, "Dovecot-LZ4"},     /* its own */
    {0, 8, "CRYPTED\x03"},      /* mail_crypt */
    {0, 4, "PK\x03\x04"},       /* zip */
    {256, 6, "\0ustar"},        /* tar */
};

/* Dovecot's dbox, one message or many in a file: a line, then what each begins with. */
static bool is_dbox(const char *begin, size_t size)
{
    const char *end = memchr(begin, '\n', size - 2);
    return strncmp(begin, "2 M", 3) == 0 && end && end[1] == 1 && end[2] == 2;
}

const char *ctl_foreign_file(int fd)
{
    char begin[280] = "";
    bool foreign = pread(fd, begin, sizeof begin, 0) > 0 && is_dbox(begin, sizeof begin);
    for (size_t i = 0; i < ARRAY_SIZE(signs); i++)
        foreign |= memcmp(begin + signs[i].at, signs[i].octets, signs[i].size) == 0;
    return foreign ? "is compressed, encrypted or packed, and no mail as it is; see poplarctl(8), "
                     "MOVING IN"
                   : NULL;
}

const char *ctl_foreign_directory(int fd)
{
    /* Seen from each of the directories that somebody may name. */
    static const char *const dbox[] = {"mailboxes/INBOX/dbox-Mails", "INBOX/dbox-Mails",
                                       "dbox-Mails", "../dbox-Mails/dovecot.index.log",
                                       "dovecot.map.index.log"};
    for (size_t i = 0; i < ARRAY_SIZE(dbox); i++)
        if (faccessat(fd, dbox[i], F_OK, AT_SYMLINK_NOFOLLOW) == 0)
            return "is Dovecot's dbox, and no Maildir; see poplarctl(8), MOVING IN";
    return "is a directory, but no Maildir: it lacks cur/ or new/; name the files in it";
}
