/*
 * ctl_backup.c - poplarctl mailbox backup and restore. Runs as root or the store user; what it
 * writes is whole under its name or not there.
 */
#include "store/backup.h"
#include "store/check.h"
#include "store/ctl_ask.h"
#include "store/ctl_drops.h"
#include "store/ctl_json.h"
#include "store/ctl_path.h"
#include "store/ctl_progress.h"
#include "store/ctl_signals.h"
#include "store/ctl_twin.h"
#include "store/ctl_unfinished.h"
#include "store/vfs.h"

#include <dirent.h>
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>

enum { SETTLED = 2 }; /* seconds after which two changes have two different times */

/* Shows pages; Ctrl-C stops between two steps. */
static bool show_progress(void *context, uint64_t done, uint64_t pages)
{
    struct ctl_progress *progress = context;
    progress->total = pages;
    progress->unit = "page";
    ctl_progress_update(progress, done, 0);
    return !ctl_signals_met();
}

/* When a maildrop's files changed last, by the second; below that stands a digest of both files'
 * times and sizes, for after a clock was set back the later change may bear the earlier time. */
static struct timespec changed_at(const char *directory)
{
    static const enum maildrop_file files[] = {MAILDROP_DB, MAILDROP_WAL};
    struct timespec latest = {0};
    uint64_t digest = UINT64_C(0xcbf29ce484222325); /* FNV-1a, of numbers for octets */
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        struct stat about;
        char *path = base_format("%s/%s", directory, maildrop_file_names[files[i]]);
        if (stat(path, &about) == 0) {
            const int64_t marks[] = {about.st_mtim.tv_sec, about.st_mtim.tv_nsec, about.st_size};
            for (size_t k = 0; k < ARRAY_SIZE(marks); k++)
                digest = (digest ^ (uint64_t)marks[k]) * UINT64_C(0x100000001b3);
            if (about.st_mtim.tv_sec > latest.tv_sec)
                latest.tv_sec = about.st_mtim.tv_sec;
        }
        free(path);
    }
    latest.tv_nsec = (long)((digest ^ digest >> 32) % 1000000000);
    return latest;
}

/* A backup bears the time of what it is a copy of, by which an unchanged maildrop is known. What
 * changed only just now may change again within the same tick of the clock: its backup bears a
 * time that no change has. */
static struct timespec time_of_backup(struct timespec changed)
{
    if (changed.tv_sec > time(NULL) - SETTLED)
        changed.tv_sec -= SETTLED;
    return changed;
}

static bool is_unchanged(const char *path, struct timespec changed)
{
    struct stat about;
    return stat(path, &about) == 0 && about.st_mtim.tv_sec == changed.tv_sec &&
           about.st_mtim.tv_nsec == changed.tv_nsec;
}

/* The first damage of a backup; more would say no more about what to do. */
struct finding {
    char damage[300]; /* "": none */
};

static bool take_first(void *context, const char *damage, uint64_t octets)
{
    struct finding *finding = context;
    (void)octets;
    if (damage)
        snprintf(finding->damage, sizeof finding->damage, "%s", damage);
    return !damage;
}

static void look_for_damage(struct maildrop *backup, struct finding *finding)
{
    finding->damage[0] = '\0';
    if (check_run(backup, take_first, finding) != STORE_OK && !finding->damage[0])
        snprintf(finding->damage, sizeof finding->damage, "%s", maildrop_error(backup));
}

/* What a restore would say of the copy. */
static void look_at_copy(const char *opened, struct finding *finding)
{
    struct maildrop *copy = NULL;
    if (backup_open(opened, &copy, finding->damage, sizeof finding->damage) == STORE_OK)
        look_for_damage(copy, finding);
    backup_close(copy);
}

/* A damage that nobody saw yet must not cost the backup of when there was none: the copy is for
 * salvage, and lies beside that. */
static int set_aside(struct ctl_unfinished *file, const struct ctl_maildrop *maildrop,
                     const struct finding *finding)
{
    ctl_note("maildrop of %s: damaged: %s; an earlier backup stays, %s.damaged is one for mailbox "
             "salvage",
             maildrop->name, finding->damage, file->path);
    return ctl_unfinished_rename(file, ".damaged");
}

/* 0, or an exit status after saying why. */
static int write_backup(struct ctl_maildrop *maildrop, const char *path, struct timespec stamp)
{
    struct finding finding = {0};
    struct ctl_progress progress;
    struct ctl_unfinished file;
    int status = ctl_unfinished_make(path, true, &file);
    if (status)
        return status;
    ctl_progress_begin(&progress, "backing up", 0);
    enum store_outcome outcome =
        backup_write(maildrop->store, file.opened, show_progress, &progress);
    ctl_progress_hide(&progress);
    if (outcome != STORE_OK)
        status = ctl_open_failed(maildrop, outcome, "backup");
    else
        look_at_copy(file.opened, &finding);
    if (finding.damage[0])
        status = set_aside(&file, maildrop, &finding);
    if (!status)
        status = ctl_unfinished_finish(&file, &stamp);
    ctl_unfinished_end(&file);
    return status || !finding.damage[0] ? status : EX_DATAERR;
}

static int report(const struct ctl *ctl, const char *name, const char *path, bool written,
                  bool many)
{
    if (ctl->options & CTL_JSON)
        return ctl_json_print(json_pack("{s:o, s:o, s:b}", "user", ctl_json_name(name), "file",
                                        ctl_json_name(path), "written", (int)written),
                              many);
    if (many) {
        char safe[4 * PROTO_USER_MAX + 1];
        base_escape(safe, sizeof safe, name);
        printf("%s: %s\n", safe, written ? "written" : "unchanged");
    }
    return 0;
}

static int make_directory(const char *path)
{
    int fd = ctl_path_open(path, O_RDONLY | O_DIRECTORY | O_CREAT), error = errno;
    base_close(fd);
    return fd >= 0          ? 0
           : error == ELOOP ? ctl_fail(EX_CANTCREAT, "%s: %s", path, ctl_path_fault(error))
                            : ctl_write_failed(path, error);
}

/* Where one of all has its backup: DIR/NAME, NAME as the maildrop's own directory is called. */
static char *find_folder(const struct ctl *ctl, const char *maildrop)
{
    return base_format("%s%s", ctl->words[0], strrchr(maildrop, '/'));
}

static int backup_one(struct ctl *ctl, struct ctl_maildrop *maildrop, bool many)
{
    char *source = ctl_drops_path(ctl, maildrop->name);
    struct timespec changed = changed_at(source);
    char *folder = many ? find_folder(ctl, source) : NULL;
    char *path = many ? base_format("%s/%s", folder, maildrop_file_names[MAILDROP_DB])
                      : base_strdup(ctl->words[1]);
    bool unchanged = many && is_unchanged(path, changed);
    int status = 0;
    if (folder)
        status = make_directory(folder);
    if (!status && !unchanged)
        status = write_backup(maildrop, path, time_of_backup(changed));
    if (!status)
        status = report(ctl, maildrop->name, path, !unchanged, many);
    free(source);
    free(folder);
    free(path);
    return status;
}

/* Where a path leads, or what its last part will be made in. NULL: nowhere. */
static char *find_place(const char *path)
{
    char *real = realpath(path, NULL);
    if (!real && errno == ENOENT) {
        char *parent = base_strdup(path);
        real = realpath(dirname(parent), NULL);
        free(parent);
    }
    return real;
}

/* A directory for backups; not the one with the maildrops, nor one in it. */
static int make_place(const struct ctl *ctl, const char *path)
{
    char *mail = base_format("%s/mail", ctl->config->server.state_dir);
    char *own = realpath(mail, NULL), *given = find_place(path);
    size_t length = own ? strlen(own) : 0;
    bool inside = own && given && strncmp(given, own, length) == 0 &&
                  (given[length] == '\0' || given[length] == '/');
    free(mail);
    free(own);
    free(given);
    return inside ? ctl_fail(EX_CANTCREAT, "%s: the maildrops themselves are there; name another",
                             path)
                  : make_directory(path);
}

int ctl_mailbox_backup(struct ctl *ctl)
{
    int status = ctl->options & CTL_ALL ? make_place(ctl, ctl->words[0]) : 0;
    ctl_signals_catch();
    return status ? status : ctl_signals_end(ctl_drops_each(ctl, backup_one));
}

/* FILE, or the directory of a backup or a raw copy. */
static char *find_file(const char *path)
{
    int fd = ctl_path_open(path, O_PATH | O_DIRECTORY);
    char *file = base_format("%s%s%s", path, fd < 0 ? "" : "/",
                             fd < 0 ? "" : maildrop_file_names[MAILDROP_DB]);
    base_close(fd);
    return file;
}

/* Of one that has changes beside it, SQLite would obey what else lies there: a copy is opened; of
 * another the file that was looked at, and nothing beside it. 0, or an exit status after saying
 * why. */
static int open_apart(const char *path, struct ctl_twin *twin, struct maildrop **backup)
{
    char error[300] = "";
    char *wal = base_format("%s-wal", path);
    struct stat about;
    int fd = ctl_path_open(path, O_PATH);
    int status = fd < 0 ? ctl_fail(EX_NOINPUT, "%s: %s", path, ctl_path_fault(errno)) : 0;
    if (!status && fstat(fd, &about) == 0 && !S_ISREG(about.st_mode)) /* SQLite would wait */
        status = ctl_fail(EX_NOINPUT, "%s: is no file", path);
    int beside = status ? -1 : ctl_path_open(wal, O_PATH);
    bool there = beside >= 0 && fstat(beside, &about) == 0, changes = there && about.st_size > 0;
    if (!status && !there && errno != ENOENT) /* it is not without changes, they cannot be seen */
        status = ctl_fail(EX_NOINPUT, "%s: %s", wal, ctl_path_fault(errno));
    if (!status && changes)
        status = ctl_twin_make(path, twin);
    char *opened = base_format("%s%d", VFS_OPENED, fd);
    if (!status &&
        backup_open(changes ? twin->path : opened, backup, error, sizeof error) != STORE_OK)
        status = ctl_fail(EX_DATAERR, "%s: no backup of a maildrop: %s", path, error);
    free(opened);
    base_close(fd);
    base_close(beside);
    free(wal);
    return status;
}

static int open_backup(const char *path, struct ctl_twin *twin, struct maildrop **backup)
{
    struct finding finding = {0};
    if (maildrop_library_init(false) != STORE_OK)
        return ctl_fail(EX_SOFTWARE, "this SQLite library lacks what the store needs");
    int status = open_apart(path, twin, backup);
    if (!status)
        look_for_damage(*backup, &finding);
    if (finding.damage[0])
        return ctl_fail(EX_DATAERR,
                        "%s: not restored, it is damaged: %s; mailbox salvage may get mail out of "
                        "it",
                        path, finding.damage);
    return status;
}

/* What was put back, and goes again at the next login. */
static void look_at_restored(const struct ctl *ctl, const struct ctl_maildrop *maildrop)
{
    struct maildrop_message message = {.id = 0};
    uint64_t overdue = 0;
    while (ctl->config->store.expire_after > 0 &&
           maildrop_next(maildrop->store, message.id, &message) == STORE_OK)
        overdue += !message.deleted && ctl_is_overdue(ctl, message.received);
    ctl_note_overdue(maildrop->name, overdue);
}

static int restore(struct ctl *ctl, struct ctl_maildrop *maildrop, struct maildrop *backup,
                   bool many)
{
    struct ctl_progress progress;
    struct maildrop_totals now, then;
    bool is_off = false, was_off = false;
    enum store_outcome outcome = maildrop_totals(maildrop->store, &now);
    if (outcome == STORE_OK)
        outcome = maildrop_totals(backup, &then);
    if (outcome != STORE_OK)
        return ctl_open_failed(maildrop, outcome, "restore");
    maildrop_pop3_off(maildrop->store, &is_off); /* damage there is no reason not to restore */
    maildrop_pop3_off(backup, &was_off);
    int status = now.messages == 0 ? 0
                                   : ctl_ask(ctl,
                                             "Put the %ju message%s of the backup in the place of "
                                             "the %ju that %s has",
                                             (uintmax_t)then.messages, base_plural(then.messages),
                                             (uintmax_t)now.messages, maildrop->name);
    if (status)
        return status;
    ctl_progress_begin(&progress, "restoring", 0);
    outcome = backup_restore(maildrop->store, backup, show_progress, &progress);
    ctl_progress_hide(&progress);
    if (outcome != STORE_OK)
        return ctl_open_failed(maildrop, outcome, "restore");
    if (is_off && !was_off) /* who had locked somebody out would not know */
        ctl_note("maildrop of %s: POP3 is on again, as in the backup; mailbox set with pop3=off "
                 "switches it off",
                 maildrop->name);
    look_at_restored(ctl, maildrop);
    if (ctl->options & CTL_JSON)
        return ctl_json_print(json_pack("{s:o, s:I, s:I}", "user", ctl_json_name(maildrop->name),
                                        "messages", (json_int_t)then.messages, "octets",
                                        (json_int_t)then.octets),
                              many);
    char safe[4 * PROTO_USER_MAX + 1];
    base_escape(safe, sizeof safe, maildrop->name);
    printf("%s%srestored %ju message%s, %ju octet%s\n", many ? safe : "", many ? ": " : "",
           (uintmax_t)then.messages, base_plural(then.messages), (uintmax_t)then.octets,
           base_plural(then.octets));
    return 0;
}

/* Whether among the backups there is one of a user's very name. */
static bool has_own(const struct ctl *ctl, const char *user)
{
    struct stat about;
    char *path = ctl_drops_path(ctl, user);
    char *own = path ? find_folder(ctl, path) : NULL;
    bool has = own && stat(own, &about) == 0 && S_ISDIR(about.st_mode);
    free(path);
    free(own);
    return has;
}

/* Two names of the server that was saved may be one here: the second backup would take the place of
 * the first. The user's own name goes before others, wherever it stands. */
static int take_turn(const struct ctl *ctl, struct text_list *restored, const char *name,
                     const char *from, const char *user)
{
    bool taken = strcmp(name, user) != 0 && has_own(ctl, user);
    for (size_t i = 0; !taken && i < restored->n; i++)
        taken = strcmp(restored->items[i], user) == 0;
    if (taken)
        return ctl_fail(
            EX_DATAERR,
            "%s: is of %s here, as another is; not restored: mailbox salvage and import "
            "add its mail",
            from, user);
    textlist_add(restored, user, strlen(user));
    return 0;
}

/* `from` is a backup, or the directory of one; `restored`: whose were, when it is one of many. */
static int restore_one(struct ctl *ctl, const char *user, const char *from,
                       struct text_list *restored)
{
    struct ctl_maildrop maildrop = {.store = NULL};
    struct maildrop *backup = NULL;
    struct ctl_twin twin = {0};
    char *path = find_file(from);
    int status = ctl_open_user(ctl, user, maildrop.name, NULL);
    if (!status && restored)
        status = take_turn(ctl, restored, user, from, maildrop.name);
    if (!status)
        status = open_backup(path, &twin, &backup);
    if (!status)
        status = ctl_open_maildrop(ctl, user, CTL_OPEN_CREATE | CTL_OPEN_SESSION, &maildrop);
    if (!status)
        status = restore(ctl, &maildrop, backup, restored != NULL);
    ctl_open_close(&maildrop);
    backup_close(backup);
    ctl_twin_remove(&twin);
    free(path);
    return status;
}

static int is_entry(const struct dirent *found)
{
    return found->d_name[0] != '.';
}

/* What backup_one() wrote for all. The first failure is the status, and stops nothing. */
static int restore_all(struct ctl *ctl)
{
    struct dirent **entries;
    struct text_list restored = {0};
    int status = 0, n = scandir(ctl->words[0], &entries, is_entry, alphasort);
    if (n < 0)
        return ctl_fail(EX_NOINPUT, "%s: %s", ctl->words[0], strerror(errno));
    ctl_json_begin(ctl);
    for (int i = 0; i < n; i++) {
        char name[PROTO_USER_MAX + 1];
        struct stat about;
        char *path = base_format("%s/%s", ctl->words[0], entries[i]->d_name);
        int failed = 0;
        if (stat(path, &about) < 0)
            failed = ctl_fail(EX_NOINPUT, "%s: %s", path, strerror(errno));
        else if (!S_ISDIR(about.st_mode) || !ctl_drops_named(entries[i]->d_name, name))
            ctl_note("%s: no backup of a maildrop; passed over", path);
        else if (!ctl_signals_met())
            failed = restore_one(ctl, name, path, &restored);
        status = status ? status : failed;
        free(path);
        free(entries[i]);
    }
    free(entries);
    textlist_clear(&restored);
    int printed = ctl_json_end(ctl);
    return status ? status : printed;
}

int ctl_mailbox_restore(struct ctl *ctl)
{
    ctl_signals_catch();
    return ctl_signals_end(ctl->options & CTL_ALL
                               ? restore_all(ctl)
                               : restore_one(ctl, ctl->words[0], ctl->words[1], NULL));
}
